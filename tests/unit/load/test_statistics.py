"""Percentiles that are not claimed, and how often intervals cover the truth where values depend on each other."""

from __future__ import annotations

from collections.abc import Callable
from statistics import NormalDist

import numpy as np
import pytest

from bench.load.statistics import (
    Interval,
    batch_count,
    median_interval,
    percentile,
    quantile,
    quantile_intervals,
    rate_interval,
    share_interval,
)
from bench.load.table import Floats, Owners
from tests.unit.load.queues import queue

MS = 1_000_000


def coverage(draw: Callable[[], Floats], truth: float, *, wave: int, runs: int = 200, p: float | None = None) -> float:
    """How often the interval of the median, or of the `p` quantile where it is given, has `truth` in it."""
    hits = given = 0
    for _ in range(runs):
        values = draw()
        owner = np.arange(len(values))
        interval = median_interval(values, owner, wave) if p is None else tail(values, owner, wave, p)
        if interval is not None:
            given += 1
            hits += interval[0] <= truth <= interval[1]
    assert given >= (runs if p is None else 0.9 * runs)
    return hits / given


def tail(values: Floats, owner: Owners, wave: int, p: float) -> Interval | None:
    ordered = np.sort(values)
    return quantile_intervals(values, owner, wave, {p: quantile(ordered, p)}, ordered).get(p)


def drifting(generator: np.random.Generator, memory: float, count: int) -> Floats:
    noise = generator.normal(0, 1, count)
    noise[0] /= np.sqrt(1 - memory**2)
    for number in range(1, len(noise)):
        noise[number] += memory * noise[number - 1]
    return noise


def test_percentiles_are_not_claimed_from_too_few() -> None:
    values = np.arange(1, 1001, dtype=np.float64)
    assert percentile(values[:0], 0.5) is None
    assert percentile(values[:1], 0.5) == 1
    for p, enough in ((0.9, 100), (0.95, 200), (0.99, 1000)):
        assert percentile(values[: enough - 1], p) is None
        assert percentile(values[:enough], p) == pytest.approx(np.quantile(values[:enough], p))


def test_batches_are_never_shorter_than_a_wave() -> None:
    assert [batch_count(100, wave) for wave in (1, 2, 10, 20, 21, 64)] == [20, 20, 10, 5, 0, 0]


def test_independent_values_are_covered_as_often_as_said() -> None:
    generator = np.random.default_rng(5)
    assert 0.92 <= coverage(lambda: generator.normal(10, 2, 400), 10, wave=4) <= 0.99


@pytest.mark.parametrize(("memory", "least"), [(0.5, 0.92), (0.9, 0.90), (0.97, 0.80)])
def test_values_that_drift_are_covered(memory: float, least: float) -> None:
    # A first-order autoregression: after n values memory**n of a deviation is left, so 0.97 means about 30 requests.
    generator = np.random.default_rng(6)

    assert coverage(lambda: drifting(generator, memory, 400), 0.0, wave=4) >= least


@pytest.mark.parametrize(("load", "requests", "least"), [(0.5, 400, 0.92), (0.8, 400, 0.85), (0.8, 2000, 0.88)])
def test_latencies_of_a_queue_are_covered(load: float, requests: int, least: float) -> None:
    arrivals, ends = queue(np.random.default_rng(8), 100_000, load)
    truth = float(np.median((ends - arrivals)[1000:]))
    generator = np.random.default_rng(9)

    def draw() -> Floats:
        arrivals, ends = queue(generator, requests + 300, load)
        return (ends - arrivals)[300:]

    assert coverage(draw, truth, wave=round(16 * load), runs=120) >= least


@pytest.mark.parametrize(("p", "requests"), [(0.9, 400), (0.95, 1000), (0.99, 1000)])
def test_tails_of_independent_values_are_covered(p: float, requests: int) -> None:
    generator = np.random.default_rng(5)
    truth = float(np.quantile(np.random.default_rng(1).lognormal(0, 0.5, 1_000_000), p))
    assert coverage(lambda: generator.lognormal(0, 0.5, requests), truth, wave=4, p=p) >= 0.92


@pytest.mark.parametrize(
    ("load", "requests", "p"), [(0.5, 400, 0.9), (0.5, 2000, 0.99), (0.8, 1000, 0.95), (0.8, 2000, 0.99)]
)
def test_tails_of_a_queue_are_covered(load: float, requests: int, p: float) -> None:
    arrivals, ends = queue(np.random.default_rng(8), 200_000, load)
    truth = float(np.quantile((ends - arrivals)[1000:], p))
    generator = np.random.default_rng(9)

    def draw() -> Floats:
        arrivals, ends = queue(generator, requests + 300, load)
        return (ends - arrivals)[300:]

    assert coverage(draw, truth, wave=round(16 * load), runs=100, p=p) >= 0.88


@pytest.mark.parametrize(("memory", "p", "least"), [(0.5, 0.95, 0.92), (0.9, 0.95, 0.88)])
def test_tails_of_values_that_drift_are_covered(memory: float, p: float, least: float) -> None:
    generator = np.random.default_rng(7)
    truth = NormalDist(0, 1 / (1 - memory**2) ** 0.5).inv_cdf(p)
    assert coverage(lambda: drifting(generator, memory, 2000), truth, wave=4, p=p, runs=150) >= least


def test_the_interval_of_a_tail_is_lopsided_as_the_values_are_and_none_where_it_leaves_them() -> None:
    values = np.random.default_rng(2).lognormal(0, 1, 2000)
    interval = tail(values, np.arange(2000), 4, 0.95)
    assert interval is not None
    middle = np.quantile(values, 0.95)
    assert interval[1] - middle > middle - interval[0] > 0
    assert tail(values[:100], np.arange(100), 4, 0.99) is None, "beyond the largest"
    assert tail(values[:40], np.arange(40), 10, 0.9) is None, "too few batches"


def test_tokens_of_one_request_are_no_independent_values() -> None:
    generator = np.random.default_rng(3)
    request = generator.lognormal(0, 0.5, 200)
    values, owner = np.repeat(request, 50), np.repeat(np.arange(200), 50)
    together = tail(values, owner, 1, 0.9)
    single = tail(request, np.arange(200), 1, 0.9)
    assert together is not None
    assert single is not None
    assert together[1] - together[0] == pytest.approx(single[1] - single[0], rel=0.35), (
        "50 times the values tell no more"
    )


def test_rate_interval_of_a_steady_stream_is_narrow() -> None:
    times = np.arange(1, 10_001) * MS
    interval = rate_interval(times, np.ones(len(times)), 0, 10_000 * MS, 100 * MS)
    assert interval is not None
    assert list(interval) == pytest.approx([1000, 1000], rel=0.01)
    assert rate_interval(times, np.ones(len(times)), 0, 10_000 * MS, 5_000 * MS) is None


def test_share_interval_is_wilson() -> None:
    assert list(share_interval(0.0, 20) or ()) == pytest.approx([0.0, 0.1611], abs=1e-3)
    assert share_interval(0.5, 4) is None
