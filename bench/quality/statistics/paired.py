"""Tests and intervals of paired answers: the same questions, or the same windows, under variant and baseline."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from bench.quality.statistics.student import t_cdf

RESAMPLES = 10_000
#: Numbers held at once while resampling.
_HELD = 4_000_000


def bootstrap_interval(
    differences: NDArray[np.float64], *, confidence: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float] | None:
    """Percentile interval of the mean of paired `differences`, shape (draws,): items, or means of windows.

    Equal differences are drawn together, by their multinomial count, so that answers that are right or wrong cost no
    more than three numbers a resample. None with fewer than two draws.
    """
    if len(differences) < 2:
        return None
    values, counts = np.unique(differences, return_counts=True)
    random = np.random.default_rng(seed)
    at_once = max(1, min(resamples, _HELD // len(values)))
    means: list[NDArray[np.float64]] = []
    for start in range(0, resamples, at_once):
        drawn = random.multinomial(len(differences), counts / len(differences), size=min(at_once, resamples - start))
        means.append(drawn @ values / len(differences))
    low, high = np.quantile(np.concatenate(means), [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def t_test(differences: NDArray[np.float64]) -> float | None:
    """Two-sided p-value of paired differences having mean 0; None with fewer than two, 1 where all are 0."""
    count = len(differences)
    if count < 2:
        return None
    mean, spread = float(differences.mean()), float(differences.std(ddof=1))
    if spread == 0:
        return 1.0 if mean == 0 else 0.0
    return 2 * t_cdf(-abs(mean) / (spread / math.sqrt(count)), count - 1)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's (1979) adjusted p-values: the chance of any false alarm among all of them stays below the level."""
    ordered = sorted(p_values.items(), key=lambda entry: entry[1])
    adjusted: dict[str, float] = {}
    highest = 0.0
    for rank, (name, p_value) in enumerate(ordered):
        highest = max(highest, min(1.0, (len(ordered) - rank) * p_value))
        adjusted[name] = highest
    return {name: adjusted[name] for name in p_values}
