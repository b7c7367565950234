"""GPUs between and under measurements: their memory is seen free again, and others on them are noticed.

Without NVML nothing is known, nothing is waited for and nobody is suspected.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bench.base.clock import NS_PER_MS, NS_PER_S, Clock, SystemClock
from bench.telemetry.gpu import GpuProcess, Unavailable, gpu_memory_used, gpu_processes

#: A driver keeps some of what a process held, and others come and go.
SLACK_BYTES = 256 << 20
_WAIT_NS = 30 * NS_PER_S
_EVERY_NS = 250 * NS_PER_MS

Memory = Sequence[int | None]


def memory_now(used: Callable[[], Memory] = gpu_memory_used) -> Memory:
    """Bytes in use on each GPU; nothing where they are not told."""
    try:
        return used()
    except Unavailable:
        return ()


def await_drained(before: Memory, *, used: Callable[[], Memory] = gpu_memory_used, clock: Clock | None = None) -> bool:
    """Wait until every GPU holds no more than `before`, up to half a minute; whether that was seen.

    An engine's memory is given back some time after its processes have ended, and the next one would be refused it.
    """
    clock = clock or SystemClock()
    deadline_ns = clock.now_ns() + _WAIT_NS
    while before:
        if not any(_holds_more(now, then) for now, then in zip(memory_now(used), before, strict=False)):
            return True
        if clock.now_ns() >= deadline_ns:
            return False
        clock.sleep_ns(_EVERY_NS)
    return True


def _holds_more(now: int | None, then: int | None) -> bool:
    return now is not None and then is not None and now > then + SLACK_BYTES


def others_on_gpu(root_pid: int | None, processes: Callable[[], Sequence[GpuProcess]] = gpu_processes) -> bool:
    """Whether processes of others are on a GPU that the server below `root_pid` uses.

    Where none of the server's own is seen on any GPU, it uses none, or they are told by other numbers than ours: then
    nobody is suspected.
    """
    import psutil

    if root_pid is None:
        return False
    try:
        root = psutil.Process(root_pid)
        ours = {root_pid, *(child.pid for child in root.children(recursive=True))}
        found = processes()
    except (Unavailable, psutil.NoSuchProcess):
        return False
    used = {process.gpu for process in found if process.pid in ours}
    return any(process.gpu in used and process.pid not in ours for process in found)
