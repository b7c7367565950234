"""Arrival processes: moments, determinism, splitting; and what a worker is told at which time."""

from __future__ import annotations

from itertools import chain

import numpy as np
import pytest

from bench.base.clock import FakeClock
from bench.load.config import ClosedConfig, ConstantConfig, PoissonConfig
from bench.load.schedule import ClosedArrivals, OpenArrivals, draw_offsets, users_of, worker_of, workers_used


def test_constant_offsets_are_equal_gaps() -> None:
    offsets = draw_offsets(ConstantConfig(rate_per_s=8.0, requests=5), repeat=0)
    assert offsets.tolist() == [0, 125_000_000, 250_000_000, 375_000_000, 500_000_000]


def test_poisson_gaps_have_the_moments_of_an_exponential() -> None:
    rate = 50.0
    gaps = np.diff(draw_offsets(PoissonConfig(rate_per_s=rate, requests=20_001, seed=7), repeat=0)) / 1e9
    # Standard errors at n = 20,000: 0.7 % of the mean, about 1.4 % of the deviation.
    assert gaps.mean() == pytest.approx(1 / rate, rel=0.03)
    assert gaps.std() == pytest.approx(1 / rate, rel=0.06)
    assert np.quantile(gaps, 0.5) == pytest.approx(np.log(2) / rate, rel=0.04)
    lag_one = np.corrcoef(gaps[1:], gaps[:-1])[0, 1]
    assert abs(lag_one) < 0.03


def test_poisson_is_drawn_from_seed_and_repeat() -> None:
    config = PoissonConfig(requests=50, seed=3)
    assert draw_offsets(config, 0).tolist() == draw_offsets(config, 0).tolist()
    assert draw_offsets(config, 0).tolist() != draw_offsets(config, 1).tolist()
    assert draw_offsets(config, 0).tolist() != draw_offsets(PoissonConfig(requests=50, seed=4), 0).tolist()
    assert (np.diff(draw_offsets(config, 0)) >= 0).all()


@pytest.mark.parametrize("workers", [1, 2, 3, 4])
def test_splitting_an_open_loop_keeps_the_process(workers: int) -> None:
    config = PoissonConfig(requests=101, workers=workers, seed=1)
    offsets = draw_offsets(config, 0)
    shares = [
        [int(offsets[position]) for position in range(config.requests) if worker_of(config, position) == worker]
        for worker in range(workers_used(config))
    ]
    assert sorted(chain(*shares)) == offsets.tolist()
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize(("workers", "concurrency", "requests"), [(1, 4, 9), (3, 4, 40), (4, 4, 2), (8, 3, 30)])
def test_splitting_a_closed_loop_keeps_users_and_requests(workers: int, concurrency: int, requests: int) -> None:
    config = ClosedConfig(concurrency=concurrency, requests=requests, workers=workers)
    used = workers_used(config)
    assert sum(users_of(config, worker) for worker in range(used)) == concurrency
    counts = [0] * used
    for position in range(requests):
        counts[worker_of(config, position)] += 1
    assert all(counts)


def drive(arrivals: ClosedArrivals, *, service_ns: int) -> list[tuple[int, int, int]]:
    """(slot, scheduled, taken) of every request, when each takes `service_ns`, on a fake clock."""
    clock = FakeClock()
    running: list[int] = []
    taken = []
    while True:
        while (request := arrivals.take(clock.now_ns())) is not None:
            taken.append((*request, clock.now_ns()))
            running.append(clock.now_ns() + service_ns)
        due = arrivals.next_due_ns()
        waits = [*running, *([] if due is None else [due])]
        if not waits:
            return taken
        clock.sleep_ns(min(waits) - clock.now_ns())
        for end in [end for end in running if end <= clock.now_ns()]:
            running.remove(end)
            arrivals.finished(clock.now_ns())


def test_closed_loop_sends_when_a_user_is_free() -> None:
    taken = drive(ClosedArrivals(range(5), 2, 0), service_ns=10)
    assert taken == [(0, 0, 0), (1, 0, 0), (2, 10, 10), (3, 10, 10), (4, 20, 20)]


def test_closed_loop_thinks_between_requests() -> None:
    taken = drive(ClosedArrivals(range(3), 1, 100, think_ns=7), service_ns=10)
    assert taken == [(0, 100, 100), (1, 117, 117), (2, 134, 134)]


def test_closed_loop_starts_nothing_after_its_duration() -> None:
    taken = drive(ClosedArrivals(range(100), 2, 0, duration_ns=25), service_ns=10)
    assert [scheduled for _, scheduled, _ in taken] == [0, 0, 10, 10, 20, 20]


def test_open_loop_ignores_the_endpoint() -> None:
    arrivals = OpenArrivals([4, 5, 6], [0, 5, 5], 100)
    assert arrivals.take(99) is None
    assert arrivals.take(100) == (4, 100)
    assert arrivals.take(100) is None
    assert arrivals.next_due_ns() == 105
    assert [arrivals.take(200), arrivals.take(200), arrivals.take(200)] == [(5, 105), (6, 105), None]
    assert arrivals.next_due_ns() is None


def test_stopping_sends_nothing_more() -> None:
    for arrivals in (ClosedArrivals(range(9), 3, 0), OpenArrivals([0, 1], [0, 0], 0)):
        arrivals.stop()
        assert arrivals.next_due_ns() is None
        assert arrivals.take(10) is None
