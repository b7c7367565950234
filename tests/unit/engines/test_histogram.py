"""Quantiles as Prometheus computes them, and no finer than buckets allow."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.engines.histogram import Histogram, bucket_quantile

INF = math.inf
# Histograms and expected answers of promql/promqltest/testdata/histograms.test of prometheus/prometheus, Apache-2.0.
POSITIVE = ((0.1, 50), (0.2, 70), (1.0, 110), (INF, 120))
NEGATIVE = ((-0.2, 10), (-0.1, 20), (0.3, 20), (INF, 30))
SECOND = ((0.0, 0), (2.0, 1), (4.0, 2), (6.0, 3), (INF, 3))
THIRD = ((0.0, 0), (0.1, 50), (0.2, 70), (1.0, 110), (INF, 110))
THIRD_NEGATIVE = ((-0.25, 0), (-0.2, 10), (-0.1, 20), (0.3, 20), (INF, 20))
GOLDEN = [
    *((POSITIVE, q, value) for q, value in ((0, 0), (0.2, 0.048), (0.5, 0.15), (0.8, 0.72), (1, 1))),
    *((NEGATIVE, q, value) for q, value in ((0, -0.2), (0.2, -0.2), (0.5, -0.15), (0.8, 0.3), (1, 0.3))),
    *((SECOND, q, value) for q, value in ((1 / 6, 1), (0.5, 3), (5 / 6, 5))),
    *((THIRD, q, value) for q, value in ((0, 0), (0.25, 0.055), (0.5, 0.125), (0.75, 0.45), (1, 1))),
    *((THIRD_NEGATIVE, q, value) for q, value in ((0, -0.25), (0.25, -0.225), (0.5, -0.2), (0.75, -0.15), (1, -0.1))),
    (POSITIVE, -0.1, -INF),
    (POSITIVE, 1.01, INF),
    # «Different le representations in one histogram»: the same bound several times is added up.
    (((0.1, 1), (0.2, 1), (0.2, 1), (0.2, 1), (INF, 4)), 0.5, 0.15),
]


@pytest.mark.parametrize(("buckets", "q", "value"), GOLDEN)
def test_as_prometheus(buckets: tuple[tuple[float, float], ...], q: float, value: float) -> None:
    for order in (buckets, buckets[::-1]):
        found = bucket_quantile(q, order)
        assert found is not None
        assert found.value == pytest.approx(value)


@pytest.mark.parametrize(
    ("buckets", "q"),
    [
        ((), 0.5),
        (((0.1, 0), (INF, 0)), 0.5),
        (((INF, 3),), 0.5),
        (((0.1, 1), (0.2, 3)), 0.5),
        (POSITIVE, math.nan),
    ],
)
def test_what_prometheus_calls_nan_is_missing(buckets: tuple[tuple[float, float], ...], q: float) -> None:
    assert bucket_quantile(q, buckets) is None


def test_a_quantile_names_its_bucket() -> None:
    middle, beyond = bucket_quantile(0.5, POSITIVE), bucket_quantile(0.99, POSITIVE)
    assert middle is not None
    assert (middle.lower, middle.upper) == (0.1, 0.2)
    assert beyond is not None
    assert (beyond.value, beyond.lower, beyond.upper) == (1.0, 1.0, None)


def test_counts_that_fall_are_lifted_to_the_ones_before() -> None:
    fallen = bucket_quantile(0.5, ((0.1, 50), (0.2, 40), (1.0, 110), (INF, 120)))
    level = bucket_quantile(0.5, ((0.1, 50), (0.2, 50), (1.0, 110), (INF, 120)))
    assert fallen == level


BOUNDS = (0.25, 0.5, 1.0, 2.0, 4.0, INF)


@given(st.lists(st.floats(0.001, 10), min_size=1, max_size=50), st.floats(0.01, 1))
def test_the_true_value_is_in_the_bucket_that_is_named(values: list[float], q: float) -> None:
    found = bucket_quantile(q, [(bound, sum(value <= bound for value in values)) for bound in BOUNDS])
    assert found is not None
    true = sorted(values)[math.ceil(round(q * len(values), 9)) - 1]
    assert found.lower is not None
    assert found.lower <= true <= (found.upper if found.upper is not None else INF)
    assert found.lower <= found.value <= (found.upper if found.upper is not None else found.lower)


def histogram(counts: tuple[float, float], total: float | None) -> Histogram:
    return Histogram(buckets=((0.5, counts[0]), (INF, counts[1])), total=total, count=counts[1])


def test_what_was_gained_has_the_mean_of_what_was_gained() -> None:
    gained = histogram((3, 5), 4.0).since(histogram((1, 1), 0.5))
    assert gained is not None
    assert gained.count == 4
    assert gained.mean == pytest.approx(0.875)
    assert gained.buckets == ((0.5, 2), (INF, 4))


def test_after_a_restart_nothing_is_known() -> None:
    assert histogram((1, 1), 0.5).since(histogram((3, 5), 4.0)) is None


def test_a_mean_of_nothing_is_missing() -> None:
    before = histogram((1, 1), 0.5)
    nothing = before.since(before)
    assert nothing is not None
    assert nothing.mean is None
    assert histogram((1, 1), None).mean is None
