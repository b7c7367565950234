"""Arrival processes: moments, determinism, splitting; and what a worker is told at which time."""

from __future__ import annotations

from itertools import chain, islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.base.clock import FakeClock
from bench.load.arrivals.config import ClosedStagesConfig, GammaConfig
from bench.load.config import ClosedConfig, ConstantConfig, OpenConfig, PoissonConfig, ThinkTime
from bench.load.schedule import (
    FAR_NS,
    Arrivals,
    ClosedArrivals,
    OpenArrivals,
    SessionArrivals,
    draw_offsets,
    draw_thinking,
    presence_of,
    users_of,
    worker_of,
    workers_used,
)


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


@settings(max_examples=25, deadline=None)
@given(
    rate=st.floats(0.5, 5000), burstiness=st.sampled_from([0.1, 0.25, 1.0, 3.0, 20.0]), seed=st.integers(0, 2**31 - 1)
)
def test_gamma_gaps_have_their_mean_and_their_coefficient_of_variation(
    rate: float, burstiness: float, seed: int
) -> None:
    number = 20_000
    config = GammaConfig(rate_per_s=rate, burstiness=burstiness, requests=number + 1, seed=seed)
    gaps = np.diff(draw_offsets(config, repeat=0)) * rate / 1e9
    variation = burstiness**-0.5
    # Five standard errors of the mean of n values; the deviation's grows with the kurtosis, 6 / shape for a gamma.
    assert gaps.mean() == pytest.approx(1, abs=5 * variation / number**0.5)
    assert gaps.std() == pytest.approx(variation, rel=5 * ((2 + 6 / burstiness) / (4 * number)) ** 0.5)


def test_gamma_of_burstiness_one_is_poisson() -> None:
    """Kolmogorov's distance from the exponential distribution; 1.95 / sqrt(n) is passed once in a thousand times."""
    gaps = np.sort(np.diff(draw_offsets(GammaConfig(rate_per_s=40.0, requests=5001, seed=3), repeat=0)) / 1e9)
    distance = np.abs(1 - np.exp(-40.0 * gaps) - np.arange(1, 5001) / 5000).max()
    assert distance < 1.95 / 5000**0.5


def test_thinking_is_drawn_by_position_and_does_not_depend_on_the_workers() -> None:
    def drawn(workers: int, number: int = 5000) -> list[int]:
        config = ClosedConfig(concurrency=8, think_time_s=0.2, think=ThinkTime.exponential, workers=workers)
        return list(islice(draw_thinking(config, 0), number))

    assert drawn(1) == drawn(4)
    assert np.mean(drawn(1)) / 1e9 == pytest.approx(0.2, rel=0.07)
    assert np.std(drawn(1)) / 1e9 == pytest.approx(0.2, rel=0.15)
    assert list(islice(draw_thinking(ClosedConfig(think_time_s=0.2), 0), 3)) == [200_000_000] * 3


def test_poisson_is_drawn_from_seed_and_repeat() -> None:
    config = PoissonConfig(requests=50, seed=3)
    assert draw_offsets(config, 0).tolist() == draw_offsets(config, 0).tolist()
    assert draw_offsets(config, 0).tolist() != draw_offsets(config, 1).tolist()
    assert draw_offsets(config, 0).tolist() != draw_offsets(PoissonConfig(requests=50, seed=4), 0).tolist()
    assert (np.diff(draw_offsets(config, 0)) >= 0).all()


@pytest.mark.parametrize("workers", [1, 2, 3, 4])
@pytest.mark.parametrize("kind", [PoissonConfig, GammaConfig])
def test_splitting_an_open_loop_keeps_the_process(workers: int, kind: type[PoissonConfig | GammaConfig]) -> None:
    config: OpenConfig = kind(requests=101, workers=workers, seed=1)
    assert draw_offsets(config, 0).tolist() == draw_offsets(kind(requests=101, seed=1), 0).tolist()
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
    assert sorted(chain(*(users_of(config, worker) for worker in range(used)))) == list(range(concurrency))
    counts = [0] * used
    for position in range(requests):
        counts[worker_of(config, position)] += 1
    assert all(counts)


def drive(arrivals: Arrivals, *, service_ns: int) -> list[tuple[int, int, int]]:
    """(slot, scheduled, taken) of every request, when each takes `service_ns`, on a fake clock."""
    clock = FakeClock()
    running: list[tuple[int, int]] = []
    taken = []
    while True:
        while (request := arrivals.take(clock.now_ns())) is not None:
            taken.append((*request, clock.now_ns()))
            running.append((clock.now_ns() + service_ns, request[0]))
        due = arrivals.next_due_ns()
        waits = [*(end for end, _ in running), *([] if due is None else [due])]
        if not waits:
            return taken
        clock.sleep_ns(min(waits) - clock.now_ns())
        for ended in [ended for ended in running if ended[0] <= clock.now_ns()]:
            running.remove(ended)
            arrivals.finished(ended[1], clock.now_ns())


def test_closed_loop_sends_when_a_user_is_free() -> None:
    taken = drive(ClosedArrivals(range(5), 2, 0), service_ns=10)
    assert taken == [(0, 0, 0), (1, 0, 0), (2, 10, 10), (3, 10, 10), (4, 20, 20)]


def test_closed_loop_thinks_between_requests() -> None:
    taken = drive(ClosedArrivals(range(3), 1, 100, think_of=lambda _: 7), service_ns=10)
    assert taken == [(0, 100, 100), (1, 117, 117), (2, 134, 134)]


def test_closed_loop_starts_nothing_after_its_duration() -> None:
    taken = drive(ClosedArrivals(range(100), 2, 0, duration_ns=25), service_ns=10)
    assert [scheduled for _, scheduled, _ in taken] == [0, 0, 10, 10, 20, 20]


def test_users_come_and_go_by_stages_and_finish_what_they_began() -> None:
    config = ClosedStagesConfig(
        stages=[
            {"concurrency": 1, "duration_s": 1},
            {"concurrency": 3, "duration_s": 1},
            {"concurrency": 0, "duration_s": 1},
            {"concurrency": 2, "duration_s": 1},
        ],
        requests=1000,
    )
    arrivals = ClosedArrivals(range(1000), 3, 0, present=presence_of(config, 0))
    service_ns = 300_000_000
    taken = drive(arrivals, service_ns=service_ns)
    assert [slot for slot, _, _ in taken] == list(range(len(taken)))
    begun = np.array([at for _, _, at in taken])

    def asking(at_s: float) -> int:
        at_ns = int(at_s * 1e9)
        return int(((begun <= at_ns) & (at_ns < begun + service_ns)).sum())

    assert [asking(at) for at in (0.5, 1.5, 2.05, 2.8, 3.5)] == [1, 3, 3, 0, 2]
    assert begun.max() < 4e9


def test_a_user_keeps_its_session_and_thinks_between_turns() -> None:
    """Slots 0 to 2 and 3 to 4 are sessions, one user: the second begins when the first is over."""
    following = {0: 1, 1: 2, 3: 4}
    first = ClosedArrivals([0, 3], 1, 100)
    arrivals = SessionArrivals(first, following, 100, think_of=lambda slot: 5 if slot in following else 0)
    assert arrivals.take(100) == (0, 100)
    arrivals.finished(0, 110)
    assert arrivals.next_due_ns() == FAR_NS  # the answer has still to be understood, and the loop must not end
    arrivals.answered(0, 112, usable=True)
    assert arrivals.next_due_ns() == 115
    assert [arrivals.take(114), arrivals.take(115)] == [None, (1, 115)]
    arrivals.finished(1, 120)
    arrivals.answered(1, 129, usable=True)
    assert arrivals.take(129) == (2, 125)  # late, and the schedule says so
    arrivals.finished(2, 140)
    assert arrivals.take(140) == (3, 140)
    arrivals.finished(3, 150)
    arrivals.answered(3, 151, usable=False)  # without an answer there is no next turn
    assert arrivals.next_due_ns() is None


def test_later_turns_of_an_open_loop_do_not_wait_for_its_schedule() -> None:
    arrivals = SessionArrivals(OpenArrivals([0, 2], [0, 1000], 0), {0: 1, 2: 3}, 0)
    assert arrivals.take(0) == (0, 0)
    arrivals.finished(0, 10)
    arrivals.answered(0, 11, usable=True)
    assert arrivals.take(11) == (1, 10)
    arrivals.finished(1, 20)
    assert arrivals.next_due_ns() == 1000


def test_no_turn_begins_after_the_duration() -> None:
    arrivals = SessionArrivals(ClosedArrivals([0], 1, 0, duration_ns=50), {0: 1}, 0, duration_ns=50)
    assert arrivals.take(0) == (0, 0)
    arrivals.finished(0, 50)
    arrivals.answered(0, 51, usable=True)
    assert arrivals.next_due_ns() is None


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
    conversation = SessionArrivals(ClosedArrivals([0, 2], 1, 0), {0: 1}, 0)
    conversation.take(0)
    conversation.finished(0, 5)
    conversation.stop()
    conversation.answered(0, 6, usable=True)
    assert conversation.next_due_ns() is None
