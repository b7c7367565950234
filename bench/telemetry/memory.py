"""Memory of a process tree while it runs."""

from __future__ import annotations

import time

from bench.base.clock import NS_PER_S
from bench.telemetry.host import Tree
from bench.telemetry.sampler import Sampler

#: New processes of the tree are looked for every so many samples.
_SAMPLES = 10


def tree_rss_bytes(root_pid: int) -> int | None:
    """Resident memory of a process and all below it, shared pages counted once (PSS); None when it is gone."""
    return Tree(root_pid).pss_bytes(time.monotonic_ns())


class MemoryWatch:
    """Samples a process tree every `interval_s` in a thread; both figures are None until the first sample."""

    def __init__(self, root_pid: int, *, interval_s: float = 1.0) -> None:
        period_ns = round(interval_s * NS_PER_S)
        self._tree = Tree(root_pid, refresh_ns=_SAMPLES * period_ns)
        self._sampler = Sampler(self._take, name="memory-watch", period_ns=period_ns)
        self.peak_bytes: int | None = None
        self.latest_bytes: int | None = None

    @property
    def core_share(self) -> float | None:
        """What watching took, as a share of one core; None before leaving."""
        return self._sampler.core_share

    def __enter__(self) -> MemoryWatch:
        self._sampler.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._sampler.__exit__()

    def _take(self, t_ns: int) -> None:
        self.latest_bytes = self._tree.pss_bytes(t_ns)
        if self.latest_bytes is not None:
            self.peak_bytes = max(self.latest_bytes, self.peak_bytes or 0)
