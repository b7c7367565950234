"""What a replica carries under an objective, and how many a demand needs; nothing beyond what was measured."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.analysis.capacity import Capacity, capacity_of, replicas_for, rule_of_thumb
from bench.analysis.config import TrafficConfig
from bench.analysis.estimate import Estimate
from bench.analysis.readings import Reading
from bench.analysis.service import Held, Point


def reading(value: float | None, spread: float = 0.1) -> Reading:
    estimate = None if value is None else Estimate(value=value, lo=value * (1 - spread), hi=value * (1 + spread))
    return Reading(cell="c", source="s", tag="t", statistic="value", unit="", estimate=estimate, missing="none")


def point(rate: float, strain: float | None, held: Held | None = None, latency_ms: float = 2000.0) -> Point:
    told = held or (Held.YES if strain is not None and strain <= 1 else Held.NO)
    return Point(
        load=f"at {rate:g}",
        open_loop=False,
        rate=reading(rate),
        throughput=reading(rate * 64),
        latency=reading(latency_ms),
        concurrency=rate * latency_ms / 1000,
        held=told,
        why=f"{told.value} at {rate:g}",
        strain=strain,
    )


def test_between_two_loads_the_bound_is_interpolated() -> None:
    found = capacity_of([point(1, 0.2), point(2, 0.6, latency_ms=1000), point(4, 1.4, latency_ms=3000), point(8, 5.0)])
    assert found.rate is not None
    assert (found.rate.value, found.rate.lo, found.rate.hi) == pytest.approx((3.0, 2.7, 3.3))
    assert found.interpolated
    assert not found.at_least
    assert found.latency_s == pytest.approx(2.0)
    assert "interpolated" in found.why


def test_beyond_the_highest_load_nothing_is_claimed() -> None:
    found = capacity_of([point(1, 0.2), point(2, 0.4)])
    assert found.rate is not None
    assert (found.rate.value, found.at_least, found.interpolated) == (2, True, False)


def test_past_its_peak_a_server_is_not_asked_for_more() -> None:
    found = capacity_of([point(1, 0.2), point(3, 0.4), point(2.5, 0.9)])
    assert found.rate is not None
    assert (found.rate.value, found.at_least) == (3, False)


def test_no_load_that_holds_it_gives_no_capacity() -> None:
    assert capacity_of([]).rate is None
    broken = capacity_of([point(1, 1.2), point(2, 3.0)])
    assert broken.rate is None
    assert "at 1" in broken.why
    unknown = capacity_of([point(1, None, Held.UNKNOWN)])
    assert unknown.rate is None
    assert "unknown" in unknown.why


def test_a_load_that_could_not_be_judged_is_passed_over_not_guessed() -> None:
    found = capacity_of([point(1, None, Held.UNKNOWN), point(2, 0.5), point(4, 1.5)])
    assert found.rate is not None
    assert found.rate.value == 3
    above = capacity_of([point(1, None, Held.UNKNOWN), point(2, 1.5)])
    assert above.rate is None
    assert "lower loads could not be judged" in above.why


@given(
    st.lists(st.tuples(st.floats(0.1, 100), st.floats(0.01, 3)), min_size=1, max_size=6),
    st.floats(0.05, 1000),
    st.floats(0, 0.9),
)
def test_the_replicas_carry_the_demand_and_one_less_does_not(
    loads: list[tuple[float, float]], demand: float, headroom: float
) -> None:
    found = capacity_of([point(rate, strain) for rate, strain in sorted(loads)])
    rates = [rate for rate, _ in loads]
    replicas = replicas_for(found, TrafficConfig(peak_rate_per_s=demand, headroom=headroom))
    assert replicas is not None
    if found.rate is None:
        assert replicas.count is None
        return
    assert min(rates) <= found.rate.value <= max(rates)
    assert replicas.count is not None
    carried = found.rate.value * (1 - headroom)
    assert replicas.count * carried >= demand * (1 - 1e-6)
    assert replicas.count == 1 or (replicas.count - 1) * carried < demand
    assert replicas.fewest is not None
    assert replicas.most is not None
    assert replicas.fewest <= replicas.count <= replicas.most


def test_users_make_a_rate_by_littles_law() -> None:
    capacity = Capacity(rate=Estimate(value=2.0), latency_s=5.0, load="c8")
    # 300 users, each every 5 + 15 s: 15 requests/s over 2 × 0.75.
    replicas = replicas_for(capacity, TrafficConfig(users=300, think_time_s=15.0, headroom=0.25))
    assert replicas is not None
    assert (replicas.count, replicas.rate_per_s, replicas.users_per_replica) == (10, 15.0, 40.0)
    assert replicas_for(capacity, TrafficConfig()) is None
    blind = replicas_for(Capacity(rate=Estimate(value=2.0)), TrafficConfig(users=300))
    assert blind is not None
    assert blind.count is None
    assert "latency is not known" in blind.why


@pytest.mark.parametrize(
    ("users", "word"), [(1, "8B"), (10, "8B"), (11, "2 × A100"), (50, "2 × A100"), (200, "FP8"), (201, "balancer")]
)
def test_the_rule_of_thumb(users: float, word: str) -> None:
    assert word in rule_of_thumb(users).advice
