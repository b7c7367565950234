"""Bringing recordings to the disk while they grow, from the harness's process: no worker's loop calls for it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from pathlib import Path

from bench.base.files import sync

FLUSH_S = 1.0


class Flusher:
    """While inside, every `every_s` the recordings in `directory` are on the disk: a power cut loses no more than that.

    (A kill loses nothing that was recorded in any case: the pages belong to the system.)
    """

    def __init__(self, directory: Path, *, every_s: float = FLUSH_S, sync: Callable[[Path], None] = sync) -> None:
        self._directory = directory
        self._every_s = every_s
        self._sync = sync
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="quantbench-flush", daemon=True)

    def __enter__(self) -> Flusher:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(self._every_s):
            self.flush()

    def flush(self) -> None:
        """Sync the last two recordings of each worker: the one that grows, and the one it may just have left."""
        growing: dict[str, list[Path]] = {}
        for path in sorted(self._directory.glob("*.seg")):
            growing.setdefault(path.stem.rpartition("-")[0], []).append(path)
        for paths in growing.values():
            for path in paths[-2:]:
                with contextlib.suppress(OSError):  # a full or failing disk shows itself where the recording is written
                    self._sync(path)
