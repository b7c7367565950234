"""When the machine itself ran slowly: the truth server times the same few hundred multiplications every millisecond.

A host that throttles its processors slows everything at once, without a trace in the guest (no steal, no preemption).
What was measured meanwhile says something about the host, and nothing about the client.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]

PACE_DTYPE = np.dtype([("ns", "<i8"), ("took_ns", "<i8")])
"""CLOCK_MONOTONIC ns of a sample and how long its multiplications took."""
_SLOW = 2.0
_TOGETHER_NS = 5_000_000
_RECOVERY_NS, _RECOVERY_TIMES = 30_000_000, 2
"""What piled up in a slow time is worked off in so long after it, or so many times its length, as a core that is two
thirds busy needs."""


@dataclass(frozen=True, kw_only=True)
class SlowTimes:
    """Disjoint spans [begin, end) in order, CLOCK_MONOTONIC ns, in which samples took more than twice the median.

    Two slow samples in a row begin one (one alone may be an interrupt); each goes on for a time of recovery.
    """

    begin_ns: Ints
    end_ns: Ints
    share: float | None
    """Of the samples, those that were slow; None without samples."""

    @classmethod
    def of(cls, pace: npt.NDArray[np.void]) -> SlowTimes:
        """From samples (PACE_DTYPE) in order of time."""
        if not len(pace):
            return cls(begin_ns=np.array([], np.int64), end_ns=np.array([], np.int64), share=None)
        took = pace["took_ns"].astype(np.int64)
        high = took > _SLOW * np.median(took)
        slow = high & (np.append(high[1:], False) | np.append(False, high[:-1]))
        at = np.flatnonzero(slow)
        begin, end = _joined(pace["ns"][np.maximum(at - 1, 0)], pace["ns"][at] + took[at], _TOGETHER_NS)
        begin, end = _joined(begin, end + np.maximum(_RECOVERY_NS, _RECOVERY_TIMES * (end - begin)), 0)
        return cls(begin_ns=begin, end_ns=end, share=float(slow.mean()))

    def outside(self, ns: Ints) -> npt.NDArray[np.bool_]:
        """Which of these times are in none of the spans."""
        place = np.searchsorted(self.begin_ns, ns, side="right") - 1
        inside = place >= 0
        inside[inside] = ns[inside] < self.end_ns[place[inside]]
        return np.asarray(~inside)


def _joined(begin: Ints, end: Ints, gap_ns: int) -> tuple[Ints, Ints]:
    """Spans in order of their begin, those joined that are at most `gap_ns` apart."""
    if not len(begin):
        return begin, end
    end = np.maximum.accumulate(end)
    first = np.append(True, begin[1:] > end[:-1] + gap_ns)
    return begin[first], end[np.append(first[1:], True)]
