"""When the machine was slow, from how long the same arithmetic took."""

from __future__ import annotations

import numpy as np

from bench.load.truth.pace import PACE_DTYPE, SlowTimes

MS = 1_000_000


def pace(took_us: dict[int, int], length_ms: int = 1000) -> np.ndarray[tuple[int], np.dtype[np.void]]:
    """A sample a millisecond of 1 µs, but of `took_us[ms]` where that is given."""
    return np.array([(ms * MS, 1000 * took_us.get(ms, 1)) for ms in range(length_ms)], dtype=PACE_DTYPE)


def test_slow_samples_and_the_recovery_after_them_are_a_span() -> None:
    slow = SlowTimes.of(pace({100: 12, 101: 12, 102: 12, 400: 3, 401: 3}))
    assert slow.begin_ns.tolist() == [99 * MS, 399 * MS]
    assert slow.end_ns.tolist() == [(132 * MS) + 12_000, (431 * MS) + 3_000]
    assert slow.share == 5 / 1000
    times = np.array([0, 98, 99, 101, 132, 133, 398, 399, 431, 432]) * MS
    assert slow.outside(times).tolist() == [True, True, False, False, False, True, True, False, False, True]


def test_a_long_slow_time_needs_as_long_again_twice() -> None:
    slow = SlowTimes.of(pace(dict.fromkeys(range(200, 260, 3), 10) | dict.fromkeys(range(201, 261, 3), 10)))
    assert slow.begin_ns.tolist() == [199 * MS]
    end_ns = 258 * MS + 10_000
    assert slow.end_ns.tolist() == [end_ns + 2 * (end_ns - 199 * MS)]


def test_one_slow_sample_is_an_interrupt_and_recoveries_that_meet_are_one_span() -> None:
    assert SlowTimes.of(pace({500: 100})).share == 0.0
    joined = SlowTimes.of(pace({100: 9, 101: 9, 120: 9, 121: 9}))
    assert (joined.begin_ns.tolist(), joined.end_ns.tolist()) == ([99 * MS], [151 * MS + 9_000])


def test_without_samples_nothing_is_known() -> None:
    slow = SlowTimes.of(pace({}, 0))
    assert slow.share is None
    assert slow.outside(np.array([1, 2])).tolist() == [True, True]
