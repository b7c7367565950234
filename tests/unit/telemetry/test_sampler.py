"""A fixed rate, a last sample at the end, and nothing that a probe does ends more than the sampling."""

from __future__ import annotations

import time
from itertools import pairwise

from bench.base.clock import NS_PER_MS
from bench.telemetry.sampler import Sampler


def test_it_keeps_to_its_grid() -> None:
    seen: list[int] = []
    began = time.monotonic()
    with Sampler(seen.append, name="test", period_ns=50 * NS_PER_MS) as sampler:
        time.sleep(0.42)
    elapsed_s = time.monotonic() - began
    assert 4 <= sampler.samples == len(seen) <= elapsed_s / 0.05 + 2
    assert all(later > earlier for earlier, later in pairwise(seen))
    assert sampler.core_share is not None
    assert 0 <= sampler.core_share < 0.5


def test_a_last_sample_is_taken_on_leaving() -> None:
    seen: list[int] = []
    with Sampler(seen.append, name="test", period_ns=60_000 * NS_PER_MS) as sampler:
        sampler.await_first()
        assert len(seen) == 1
    assert len(seen) == 2


def test_ticks_that_a_slow_probe_ran_over_are_left_out() -> None:
    seen: list[int] = []

    def slow(t_ns: int) -> None:
        seen.append(t_ns)
        time.sleep(0.12)

    with Sampler(slow, name="test", period_ns=50 * NS_PER_MS):
        time.sleep(0.5)
    gaps = [later - earlier for earlier, later in pairwise(seen[:-1])]
    assert gaps
    assert min(gaps) >= 120 * NS_PER_MS, "it never catches up by sampling in a burst"


def test_work_is_counted_as_work() -> None:
    def busy(_: int) -> None:
        end = time.monotonic() + 0.2
        while time.monotonic() < end:
            pass

    with Sampler(busy, name="test", period_ns=250 * NS_PER_MS) as sampler:
        time.sleep(0.3)
    assert sampler.core_share is not None
    assert sampler.core_share > 0.1


def test_a_probe_that_fails_ends_its_sampling_and_says_so() -> None:
    def broken(_: int) -> None:
        raise OSError("disk full")

    with Sampler(broken, name="test", period_ns=20 * NS_PER_MS) as sampler:
        time.sleep(0.1)
    assert str(sampler.error) == "disk full"
    assert sampler.samples == 0


def test_the_first_sample_can_be_awaited_even_if_it_fails() -> None:
    seen: list[int] = []

    def slow(t_ns: int) -> None:
        time.sleep(0.2)
        seen.append(t_ns)
        raise OSError("no")

    with Sampler(slow, name="test", period_ns=1000 * NS_PER_MS) as sampler:
        sampler.await_first()
        assert len(seen) == 1


def test_stopping_twice_is_stopping_once() -> None:
    seen: list[int] = []
    with Sampler(seen.append, name="test", period_ns=1000 * NS_PER_MS) as sampler:
        time.sleep(0.05)
        sampler.stop()
        number, wall_ns = len(seen), sampler.wall_ns
    assert (len(seen), sampler.wall_ns) == (number, wall_ns)
