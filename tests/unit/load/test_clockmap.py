"""CLOCK_REALTIME stamps land where they belong on CLOCK_MONOTONIC, and a stepped clock is noticed."""

from __future__ import annotations

import numpy as np
import pytest

from bench.load.clockmap import ClockMap, sample_pair

S = 1_000_000_000
EPOCH = 1_800_000_000 * S


def test_constant_offset_is_exact() -> None:
    clock = ClockMap([(t * S, EPOCH + t * S, 50) for t in range(1, 6)])
    read_at = np.array([S + 7, 3 * S + 123_456_789, 9 * S])
    mapped, trusted = clock.monotonic_ns(read_at + EPOCH, read_at)
    assert mapped.tolist() == read_at.tolist()
    assert trusted.all()
    assert not clock.stepped


def test_slew_is_interpolated() -> None:
    slow = 400 * 1000  # 400 ppm: 400 µs a second
    clock = ClockMap([(t * S, EPOCH + t * (S - slow), 0) for t in range(10)])
    read_at = np.arange(0, 9 * S, S // 7)
    realtime = EPOCH + np.round(read_at * (1 - slow / S)).astype(np.int64)
    mapped, trusted = clock.monotonic_ns(realtime, read_at)
    assert np.abs(mapped - read_at).max() <= 2
    assert trusted.all()


@pytest.mark.parametrize("step", [-3 * S, 5_000_000])
def test_stamps_around_a_step_are_not_trusted(step: int) -> None:
    pairs = [(t * S, EPOCH + t * S + (step if t > 2 else 0), 50) for t in range(6)]
    clock = ClockMap(pairs)
    assert clock.stepped
    read_at = np.array([S, 2 * S + S // 2, 3 * S + 1, 5 * S])
    realtime = read_at + EPOCH + np.array([0, 0, step, step])
    mapped, trusted = clock.monotonic_ns(realtime, read_at)
    assert trusted.tolist() == [True, False, True, True]
    assert mapped[trusted].tolist() == read_at[trusted].tolist()


def test_pair_takes_the_narrowest_reading() -> None:
    monotonic = iter([0, 100, 200, 210, 300, 500, 600, 800, 900, 990])
    realtime = iter([1000, 2000, 3000, 4000, 5000])
    assert sample_pair(lambda: next(monotonic), lambda: next(realtime)) == (205, 2000, 10)


def test_the_real_clocks_agree_with_themselves() -> None:
    first, second = sample_pair(), sample_pair()
    clock = ClockMap([first, second])
    mapped, _ = clock.monotonic_ns(np.array([first[1]]), np.array([first[0]]))
    assert abs(int(mapped[0]) - first[0]) <= 1
