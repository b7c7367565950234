"""Memory of a process tree while it runs."""

from __future__ import annotations

import contextlib
import threading

import psutil


def tree_rss_bytes(root_pid: int) -> int | None:
    """Resident memory of a process and all below it, shared pages counted once each process; None when it is gone.

    Proportional set size is used where the kernel gives it, so that shared pages of forked workers count once.
    """
    try:
        root = psutil.Process(root_pid)
        processes = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return None
    total = 0
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            try:
                total += process.memory_full_info().pss
            except AttributeError:
                total += process.memory_info().rss
    return total


class MemoryWatch:
    """Samples a process tree every `interval_s` in a thread; `peak_bytes` is None until the first sample."""

    def __init__(self, root_pid: int, *, interval_s: float = 1.0) -> None:
        self._root_pid = root_pid
        self._interval_s = interval_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="memory-watch", daemon=True)
        self.peak_bytes: int | None = None

    def __enter__(self) -> MemoryWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            seen = tree_rss_bytes(self._root_pid)
            if seen is not None:
                self.peak_bytes = max(seen, self.peak_bytes or 0)
            if self._stop.wait(self._interval_s):
                return
