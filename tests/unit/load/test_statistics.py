"""Percentiles that are not claimed, and how often intervals cover the truth where values depend on each other."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from bench.load.statistics import batch_count, median_interval, percentile, rate_interval, share_interval
from bench.load.table import Floats
from tests.unit.load.queues import queue

MS = 1_000_000


def coverage(draw: Callable[[], Floats], truth: float, *, wave: int, runs: int = 200) -> float:
    """How often the interval of the median has `truth` in it."""
    hits = 0
    for _ in range(runs):
        values = draw()
        interval = median_interval(values, np.arange(len(values)), wave)
        assert interval is not None
        hits += interval[0] <= truth <= interval[1]
    return hits / runs


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

    def draw() -> Floats:
        noise = generator.normal(0, 1, 400)
        noise[0] /= np.sqrt(1 - memory**2)
        for number in range(1, len(noise)):
            noise[number] += memory * noise[number - 1]
        return noise

    assert coverage(draw, 0.0, wave=4) >= least


@pytest.mark.parametrize(("load", "requests", "least"), [(0.5, 400, 0.92), (0.8, 400, 0.85), (0.8, 2000, 0.88)])
def test_latencies_of_a_queue_are_covered(load: float, requests: int, least: float) -> None:
    arrivals, ends = queue(np.random.default_rng(8), 100_000, load)
    truth = float(np.median((ends - arrivals)[1000:]))
    generator = np.random.default_rng(9)

    def draw() -> Floats:
        arrivals, ends = queue(generator, requests + 300, load)
        return (ends - arrivals)[300:]

    assert coverage(draw, truth, wave=round(16 * load), runs=120) >= least


def test_rate_interval_of_a_steady_stream_is_narrow() -> None:
    times = np.arange(1, 10_001) * MS
    interval = rate_interval(times, np.ones(len(times)), 0, 10_000 * MS, 100 * MS)
    assert interval is not None
    assert list(interval) == pytest.approx([1000, 1000], rel=0.01)
    assert rate_interval(times, np.ones(len(times)), 0, 10_000 * MS, 5_000 * MS) is None


def test_share_interval_is_wilson() -> None:
    assert list(share_interval(0.0, 20) or ()) == pytest.approx([0.0, 0.1611], abs=1e-3)
    assert share_interval(0.5, 4) is None
