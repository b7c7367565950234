"""Statistics of paired comparisons: against closed forms and published tables, and by simulation with known truth."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bench.quality.intervals import mcnemar, paired_change_interval
from bench.quality.statistics.paired import bootstrap_interval, holm, t_test
from bench.quality.statistics.power import detectable_mean, detectable_share, draws_needed, mcnemar_power
from bench.quality.statistics.student import t_cdf, t_quantile
from bench.quality.statistics.verdict import Verdict, compare_answers, compare_means

RUNS = 2000
#: Two standard deviations of a share of 5 % of that many runs.
SLACK = 2 * math.sqrt(0.05 * 0.95 / RUNS)


@pytest.mark.parametrize(
    ("degrees", "level", "expected"),
    [(1, 0.975, 12.7062), (2, 0.95, 2.91999), (7, 0.975, 2.36462), (7, 0.8, 0.896030), (30, 0.975, 2.04227)],
)
def test_quantiles_of_tables(degrees: int, level: float, expected: float) -> None:
    assert t_quantile(degrees, level) == pytest.approx(expected, abs=1e-4)
    assert t_cdf(t_quantile(degrees, level), degrees) == pytest.approx(level, abs=1e-10)


def test_many_degrees_join_the_bisection() -> None:
    assert t_quantile(201) == pytest.approx(t_quantile(200), abs=2e-4)
    assert t_cdf(t_quantile(201), 201) == pytest.approx(0.975, abs=1e-8)
    assert t_cdf(-2.0, 4) == pytest.approx(0.058058, abs=1e-6)


def test_mcnemar_is_exact_for_few_changes_and_mid_p_for_more() -> None:
    assert mcnemar(1, 9) == pytest.approx(2 * 11 / 1024)
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(12, 13) == pytest.approx(1.0 - math.comb(25, 12) / 2**25)
    exact = 2 * sum(math.comb(40, k) for k in range(13)) / 2**40
    assert mcnemar(12, 28) == pytest.approx(exact - math.comb(40, 12) / 2**40)


def test_holm_never_lowers_and_keeps_the_order() -> None:
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06})
    assert holm({}) == {}


def test_a_bootstrap_covers_as_t_does_where_draws_are_many() -> None:
    differences = np.random.default_rng(1).normal(0.3, 1.0, 400)
    low, high = bootstrap_interval(differences) or (0.0, 0.0)
    half = t_quantile(399) * differences.std(ddof=1) / 20
    assert low == pytest.approx(differences.mean() - half, abs=0.01)
    assert high == pytest.approx(differences.mean() + half, abs=0.01)
    assert bootstrap_interval(differences) == (low, high), "seeded"
    assert bootstrap_interval(np.array([1.0])) is None


def flips(total: int, changed: float, difference: float) -> list[tuple[int, int]]:
    """(gained, lost) of many tests of which a share of the answers changes, more one way by `difference`."""
    lost, gained = (changed + difference) / 2, (changed - difference) / 2
    drawn = np.random.default_rng(2).multinomial(total, [gained, lost, 1 - gained - lost], size=RUNS)
    return [(int(row[0]), int(row[1])) for row in drawn]


def share_worse(flipped: list[tuple[int, int]]) -> float:
    return sum(mcnemar(gained, lost) < 0.05 and lost > gained for gained, lost in flipped) / RUNS


@pytest.mark.parametrize(("total", "changed"), [(60, 0.1), (500, 0.03), (500, 0.2), (2500, 0.1)])
def test_answers_without_a_difference_are_seldom_called_worse(total: int, changed: float) -> None:
    found = flips(total, changed, 0.0)
    assert share_worse(found) <= 0.05
    assert sum(mcnemar(gained, lost) < 0.05 for gained, lost in found) / RUNS <= 0.05 + SLACK


@pytest.mark.parametrize(("total", "changed"), [(60, 0.1), (500, 0.03), (500, 0.2), (2500, 0.1), (14_000, 0.05)])
def test_the_stated_difference_of_answers_is_found(total: int, changed: float) -> None:
    difference = detectable_share(total, changed)
    assert difference is not None
    share = max(changed, difference)
    found = share_worse(flips(total, share, difference))
    assert found >= 0.80 - 0.02
    assert mcnemar_power(total, share, difference) == pytest.approx(found, abs=0.03)


def windows(random: np.random.Generator, count: int, shift: float) -> np.ndarray:
    """Differences of windows as they are seen: skewed, with tails (a window may be much harder than others)."""
    return shift + (random.gamma(4.0, 0.01, count) - 0.04)


@pytest.mark.parametrize("count", [8, 32])
def test_windows_without_a_difference_are_seldom_called_worse(count: int) -> None:
    random = np.random.default_rng(4)
    for draw in (lambda: windows(random, count, 0.0), lambda: random.normal(0, 0.02, count)):
        worse = sum((t_test(found) or 0) < 0.05 and found.mean() > 0 for found in (draw() for _ in range(RUNS)))
        assert worse / RUNS <= 0.05


@pytest.mark.parametrize("count", [8, 32])
def test_the_stated_difference_of_windows_is_found(count: int) -> None:
    difference = detectable_mean(0.02, count)
    assert difference is not None
    random = np.random.default_rng(5)
    for draw in (lambda: windows(random, count, difference), lambda: random.normal(difference, 0.02, count)):
        worse = sum((t_test(found) or 0) < 0.05 and found.mean() > 0 for found in (draw() for _ in range(RUNS)))
        assert worse / RUNS >= 0.80 - 0.02


def test_verdicts_say_what_they_rest_on() -> None:
    few = compare_answers(np.array([True] * 30 + [False] * 30), np.array([True] * 31 + [False] * 29), margin=0.01)
    assert few is not None
    assert few.verdict is Verdict.INCONCLUSIVE
    assert few.needed is not None
    assert few.needed > 1000
    assert f"{few.needed} questions are needed" in few.said()
    same = np.random.default_rng(6).random(20_000) < 0.5
    flipped = same.copy()
    flipped[:20] = ~flipped[:20]
    equal = compare_answers(flipped, same, margin=0.01)
    assert equal is not None
    assert equal.verdict is Verdict.EQUIVALENT
    assert (equal.within_margin, equal.needed) == (True, None)
    worse = compare_answers(np.zeros(100, dtype=bool), np.ones(100, dtype=bool), margin=0.01)
    assert worse is not None
    assert (worse.verdict, worse.within_margin) == (Verdict.WORSE, False)
    harder = compare_means(np.array([0.004, 0.005, 0.0045, 0.0052]), margin=0.01)
    assert harder is not None
    assert (harder.verdict, harder.within_margin) == (Verdict.WORSE, True)
    assert "worse, within 0.01" in harder.said()
    assert compare_means(np.array([1.0]), margin=0.01) is None
    still = compare_means(np.zeros(4), margin=0.01)
    assert still is not None
    assert still.verdict is Verdict.EQUIVALENT


def test_what_is_needed_suffices() -> None:
    """With the draws that an inconclusive verdict asks for, two equal things are found equivalent 4 times in 5."""
    total = draws_needed(0.05, 0.02)
    intervals = [paired_change_interval(gained, lost, total, 0.90) for gained, lost in flips(total, 0.05, 0.0)]
    within = sum(found is not None and found[0] > -0.02 and found[1] < 0.02 for found in intervals)
    assert within / RUNS >= 0.80 - 0.02
