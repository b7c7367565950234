"""The kernel stamps in CLOCK_REALTIME, the harness lives in CLOCK_MONOTONIC: sampled pairs map one onto the other."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

_TRIES = 5
SLEW_PPM = 1000
"""Faster relative drift than NTP ever slews (500 ppm) is a step."""
STEP_FLOOR_NS = 200_000


def sample_pair(
    monotonic_ns: Callable[[], int] = time.monotonic_ns, realtime_ns: Callable[[], int] = time.time_ns
) -> tuple[int, int, int]:
    """(monotonic, realtime, uncertainty) in ns: the narrowest of a few readings of one clock around the other."""
    best = (0, 0, -1)
    for _ in range(_TRIES):
        before = monotonic_ns()
        real = realtime_ns()
        after = monotonic_ns()
        if best[2] < 0 or after - before < best[2]:
            best = ((before + after) // 2, real, after - before)
    return best


class ClockMap:
    """Converts CLOCK_REALTIME ns to CLOCK_MONOTONIC ns by linear interpolation between pairs.

    `pairs` are (monotonic, realtime, uncertainty) in ns, at least one, in order of monotonic time.
    """

    def __init__(self, pairs: Sequence[tuple[int, int, int]]) -> None:
        if not pairs:
            raise ValueError("a clock map needs at least one pair")
        table = np.array(sorted(pairs), dtype=np.int64)
        self._monotonic = table[:, 0]
        self._offset = table[:, 1] - table[:, 0]
        self.uncertainty_ns = int(table[:, 2].max())
        drift = np.abs(np.diff(self._offset))
        bound = STEP_FLOOR_NS + np.diff(self._monotonic) * SLEW_PPM // 1_000_000 + 2 * self.uncertainty_ns
        self._steps = np.flatnonzero(drift > bound)

    @property
    def stepped(self) -> bool:
        """Whether the realtime clock was set between two pairs."""
        return bool(len(self._steps))

    def monotonic_ns(
        self, realtime: npt.NDArray[np.int64], read_at: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """(CLOCK_MONOTONIC ns, whether each is to be trusted) of kernel stamps.

        `read_at` is the CLOCK_MONOTONIC ns at which each stamp was read, which places it between two pairs however the
        realtime clock jumped. Stamps read between two pairs with a step between them are not to be trusted.
        """
        origin = self._offset[0]
        offset = np.interp(read_at - self._monotonic[0], self._monotonic - self._monotonic[0], self._offset - origin)
        interval = np.searchsorted(self._monotonic, read_at, side="right") - 1
        trusted = ~np.isin(interval, self._steps)
        return realtime - origin - np.rint(offset).astype(np.int64), trusted
