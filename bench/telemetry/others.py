"""How much processor time others used on this machine while we measured."""

from __future__ import annotations

import contextlib

import psutil

#: Share of the machine in use by others, on average over a measurement, above which timings are suspect.
BUSY_SHARE = 0.15


def is_busy(others_cores: float) -> bool:
    """Whether others used more than `BUSY_SHARE` of the processor time there is."""
    return others_cores > BUSY_SHARE * (psutil.cpu_count() or 1)


class OthersWatch:
    """Processor time that neither this process nor its descendants used, between entering and leaving.

    `cores` is the average number of cores others kept busy; None before leaving, or where the system does not say.
    """

    def __init__(self) -> None:
        self.cores: float | None = None
        self._start: tuple[float, float, float] | None = None

    def __enter__(self) -> OthersWatch:
        self._start = _sample()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._start is not None
        wall_s, busy_s, own_s = (now - then for now, then in zip(_sample(), self._start, strict=True))
        if wall_s > 0:
            self.cores = max(0.0, (busy_s - own_s) / wall_s)


def _sample() -> tuple[float, float, float]:
    """Seconds of wall time, of all busy processor time, and of our own tree's processor time."""
    import time

    machine = psutil.cpu_times()
    busy_s = sum(machine) - machine.idle - getattr(machine, "iowait", 0.0) - getattr(machine, "guest", 0.0)
    own_s = 0.0
    root = psutil.Process()
    for process in [root, *root.children(recursive=True)]:
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            own_s += times.user + times.system + times.children_user + times.children_system
    return time.monotonic(), busy_s, own_s
