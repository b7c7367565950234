"""Intervals, ratios and verdicts."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.analysis.estimate import Estimate, Verdict, inverse_scaled, judge, log_standard_error, ratio

positive = st.floats(0.01, 1e6)


def test_ratio_of_equal_precision_widens_by_root_two() -> None:
    one = Estimate(value=100.0, lo=100 / 1.1, hi=110.0)
    found = ratio(one, one)
    assert found is not None
    assert found.value == 1.0
    assert found.hi == pytest.approx(1.1 ** math.sqrt(2))
    assert found.lo == pytest.approx(1.1 ** -math.sqrt(2))


def test_ratio_needs_both_intervals_for_its_own() -> None:
    found = ratio(Estimate(value=2.0, lo=1.9, hi=2.1), Estimate(value=1.0))
    assert found == Estimate(value=2.0)


@pytest.mark.parametrize("bad", [0.0, -1.0])
def test_ratio_of_a_figure_that_is_not_positive_is_nothing(bad: float) -> None:
    assert ratio(Estimate(value=bad), Estimate(value=1.0)) is None
    assert ratio(Estimate(value=1.0), Estimate(value=bad)) is None
    assert inverse_scaled(Estimate(value=bad), 1.0) is None


@given(value=positive, below=st.floats(0.5, 1.0), above=st.floats(1.0, 2.0), numerator=positive)
def test_inverse_keeps_the_order_of_its_ends(value: float, below: float, above: float, numerator: float) -> None:
    found = inverse_scaled(Estimate(value=value, lo=value * below, hi=value * above), numerator)
    assert found is not None
    assert found.lo is not None
    assert found.hi is not None
    assert found.lo <= found.value * (1 + 1e-12)
    assert found.value <= found.hi * (1 + 1e-12)


def test_an_interval_that_reaches_zero_has_no_logarithm() -> None:
    assert log_standard_error(Estimate(value=1.0, lo=0.0, hi=2.0)) is None


@pytest.mark.parametrize(
    ("lo", "hi", "higher_is_better", "verdict"),
    [
        (0.05, 0.10, True, Verdict.BETTER),
        (0.05, 0.10, False, Verdict.WORSE),
        (-0.10, -0.05, True, Verdict.WORSE),
        (-0.10, -0.05, False, Verdict.BETTER),
        (-0.005, 0.008, True, Verdict.EQUIVALENT),
        (0.001, 0.009, False, Verdict.EQUIVALENT),
        (-0.02, 0.05, True, Verdict.INCONCLUSIVE),
        (None, None, True, Verdict.INCONCLUSIVE),
    ],
)
def test_verdicts(lo: float | None, hi: float | None, higher_is_better: bool, verdict: Verdict) -> None:
    assert judge(Estimate(value=0.0, lo=lo, hi=hi), margin=0.01, higher_is_better=higher_is_better) is verdict
