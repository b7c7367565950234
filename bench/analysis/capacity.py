"""How much one replica carries under an objective, how many a given demand needs, and the rule of thumb beside it.

The capacity of a replica is the highest request rate at which the objective still holds on the measured curve of
latency against load: between the last load that holds it and the first one above that breaks it, the rate at which the
tightest percentile / bound reaches 1, linearly interpolated. Beyond the highest measured load nothing is claimed: if
that one holds it, the capacity is at least its rate.

Users who wait Z seconds between an answer and their next request, each answered in R, make N / (R + Z) requests per
second (Little's law, applied to users: Lazowska et al., Quantitative System Performance, 1984).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from bench.analysis.config import TrafficConfig
from bench.analysis.estimate import Estimate
from bench.analysis.service import Held, Point


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """What one replica carries, `rate` in requests/s; with `at_least` it may be more, no higher load was measured.

    `load` is the measured load it rests on, `latency_s` the mean end-to-end latency there, `why` the reasons in a
    sentence. `rate` is None where no measured load holds the objective.
    """

    rate: Estimate | None
    at_least: bool = False
    interpolated: bool = False
    load: str = ""
    latency_s: float | None = None
    throughput: Estimate | None = None
    why: str = ""


def capacity_of(points: Sequence[Point]) -> Capacity:
    """The capacity of one replica from its loads, the lightest first."""
    if not points:
        return Capacity(rate=None, why="no load of this workload has a rate that may be believed")
    known = [point for point in points if point.held is not Held.UNKNOWN]
    if not known:
        return Capacity(rate=None, why=f"whether any load holds the objective is unknown: {points[-1].why}")
    held: list[Point] = []
    broken: Point | None = None
    for point in known:
        if point.held is Held.NO:
            broken = point
            break
        held.append(point)
    if not held:
        first = known[0]
        lower = "" if first.load == points[0].load else "; lower loads could not be judged"
        return Capacity(
            rate=None, why=f"the lowest load that could be judged, {first.load}, breaks it: {first.why}{lower}"
        )
    last = held[-1]
    if broken is None:
        best = max(held, key=_rate)  # past its peak a server gets slower
        why = f"every measured load up to {last.load}, the highest, holds it{_unsure(last)}"
        return _from(best, at_least=best is last, why=why)
    return _between(last, broken)


def _between(last: Point, broken: Point) -> Capacity:
    """Where the strain crosses 1 on the line between two loads."""
    below, above = last.rate.estimate, broken.rate.estimate
    assert below is not None
    assert above is not None
    why = f"{last.load} holds it{_unsure(last)} and {broken.load} breaks it ({broken.why})"
    if last.strain is None or broken.strain is None or broken.strain <= 1 or above.value <= below.value:
        return _from(last, at_least=False, why=why)
    share = (1 - last.strain) / (broken.strain - last.strain)
    mixed = Estimate(
        value=_mix(below.value, above.value, share),
        lo=None if below.lo is None or above.lo is None else _mix(below.lo, above.lo, share),
        hi=None if below.hi is None or above.hi is None else _mix(below.hi, above.hi, share),
    )
    made, latency = last.throughput.estimate, _seconds(last)
    other = broken.throughput.estimate
    if made is not None and other is not None:
        made = Estimate(value=_mix(made.value, other.value, share))
    if latency is not None and (slower := _seconds(broken)) is not None:
        latency = _mix(latency, slower, share)
    return Capacity(
        rate=mixed,
        interpolated=True,
        load=last.load,
        latency_s=latency,
        throughput=made,
        why=f"{why}; interpolated between the two",
    )


def _unsure(point: Point) -> str:
    """How near a load that holds the objective comes to its bound, where that is within the measurement's error."""
    return f" ({point.why})" if point.why else ""


def _rate(point: Point) -> float:
    return point.rate.estimate.value if point.rate.estimate is not None else 0.0


def _from(point: Point, *, at_least: bool, why: str) -> Capacity:
    return Capacity(
        rate=point.rate.estimate,
        at_least=at_least,
        load=point.load,
        latency_s=_seconds(point),
        throughput=point.throughput.estimate if point.throughput.usable else None,
        why=why,
    )


def _seconds(point: Point) -> float | None:
    return None if point.latency.estimate is None else point.latency.estimate.value / 1000


def _mix(below: float, above: float, share: float) -> float:
    return below + share * (above - below)


@dataclass(frozen=True, kw_only=True)
class Replicas:
    """How many replicas a demand needs: `count`, and its range where the capacity has an interval.

    `rate_per_s` is the demand, `users_per_replica` how many users one replica carries without headroom. None where it
    cannot be told; `why` says so, or how it was reckoned.
    """

    count: int | None
    fewest: int | None = None
    most: int | None = None
    rate_per_s: float | None = None
    users_per_replica: float | None = None
    why: str = ""


def replicas_for(capacity: Capacity, traffic: TrafficConfig) -> Replicas | None:
    """Replicas for the configured traffic with its headroom; None when no traffic is given."""
    if traffic.peak_rate_per_s is None and traffic.users is None:
        return None
    if capacity.rate is None or capacity.rate.value <= 0:
        return Replicas(count=None, why=capacity.why)
    rate, per_replica = traffic.peak_rate_per_s, None
    if capacity.latency_s is not None:
        per_replica = capacity.rate.value * (capacity.latency_s + traffic.think_time_s)
    if rate is None:
        assert traffic.users is not None
        if capacity.latency_s is None:
            return Replicas(count=None, why="the mean latency is not known, so users cannot be turned into a rate")
        rate = traffic.users / (capacity.latency_s + traffic.think_time_s)
    share = 1 - traffic.headroom
    bounds = [
        None if end is None or end <= 0 else _count(rate, end * share) for end in (capacity.rate.hi, capacity.rate.lo)
    ]
    told = f"{rate:.3g} requests/s over {capacity.rate.value:.3g} a replica, {100 * traffic.headroom:g} % kept free"
    if capacity.at_least:
        told += "; a replica may carry more, no higher load was measured, so fewer may do"
    return Replicas(
        count=_count(rate, capacity.rate.value * share),
        fewest=bounds[0],
        most=bounds[1],
        rate_per_s=rate,
        users_per_replica=per_replica,
        why=told,
    )


def _count(rate: float, capacity: float) -> int:
    """The smallest whole number of replicas; a hair above a whole number is that number."""
    return max(1, math.ceil(rate / capacity - 1e-9))


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A rule of thumb: up to `users` (None: any number), what is usual."""

    users: int | None
    advice: str


RULES_OF_THUMB = (
    Rule(users=10, advice="one 24 GB card (RTX 4090, A10G) with an 8B model as AWQ"),
    Rule(users=50, advice="2 × A100 40 GB with a 70B model as AWQ"),
    Rule(users=200, advice="4 × A100 80 GB, or H100, with a 70B model as FP8"),
    Rule(users=None, advice="several replicas behind a load balancer"),
)
"""Published by practitioners without measurements; never mixed with measured capacity."""


def rule_of_thumb(users: float) -> Rule:
    """The rule for so many users at a time."""
    return next(rule for rule in RULES_OF_THUMB if rule.users is None or users <= rule.users)
