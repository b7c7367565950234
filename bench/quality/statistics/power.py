"""What a comparison of so many items can see, and how many items it would need to see more."""

from __future__ import annotations

import functools
import math
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from bench.quality.intervals import EXACT_BELOW
from bench.quality.statistics.student import t_quantile

#: What is promised at the minimum detectable difference, and the two-sided level of the test.
POWER, LEVEL = 0.80, 0.05
#: Below so many changed answers expected, power is summed exactly.
_SUMMED_BELOW = 400
_NORMAL = NormalDist()


def detectable_share(total: int, changed_share: float) -> float | None:
    """The smallest difference of two paired accuracies that McNemar's test finds with power 0.8; None: none at all.

    `changed_share` of the answers change. A difference larger than that needs more of them to change: all, then, in one
    direction. Exact sums over the binomial counts where few change, else Connor's (1987) formula.
    """
    if total == 0 or mcnemar_power(total, 1.0, 1.0) < POWER:
        return None
    low, high = 0.0, 1.0
    while high - low > 1e-5:
        middle = (low + high) / 2
        enough = mcnemar_power(total, max(changed_share, middle), middle) >= POWER
        low, high = (low, middle) if enough else (middle, high)
    return high


def mcnemar_power(total: int, changed_share: float, difference: float) -> float:
    """P(McNemar's test finds a true `difference` ≥ 0 of two paired accuracies, in its direction)."""
    if changed_share * total > _SUMMED_BELOW:
        z = _NORMAL.inv_cdf(1 - LEVEL / 2)
        spread = math.sqrt(max(changed_share - difference**2, 1e-12))
        return _NORMAL.cdf((difference * math.sqrt(total) - z * math.sqrt(changed_share)) / spread)
    mean, spread = total * changed_share, math.sqrt(total * changed_share * (1 - changed_share))
    first, last = max(0, math.floor(mean - 8 * spread)), min(total, math.ceil(mean + 8 * spread))
    weights = _binomial(total, changed_share)
    more = (1 + difference / changed_share) / 2 if changed_share else 0.5
    found = (
        weights[changed] * _binomial(changed, more)[_critical(changed) :].sum() for changed in range(first, last + 1)
    )
    return float(math.fsum(found))


def detectable_mean(spread: float, draws: int) -> float | None:
    """The smallest mean of paired differences that a t test finds with power 0.8; None with fewer than two draws.

    (t(0.975) + t(0.8)) · spread / √draws; `spread` is the differences' standard deviation.
    """
    if draws < 2:
        return None
    return (t_quantile(draws - 1) + t_quantile(draws - 1, POWER)) * spread / math.sqrt(draws)


def draws_needed(variance: float, margin: float) -> int:
    """How many draws show two equal things to be equivalent within `margin` with power 0.8: (z(.95) + z(.9))² · v / m².

    They also suffice to find a difference as large as the margin. At least two.
    """
    z = _NORMAL.inv_cdf(1 - LEVEL) + _NORMAL.inv_cdf((1 + POWER) / 2)
    return max(2, math.ceil(z * z * variance / margin**2))


@functools.lru_cache(maxsize=4096)
def _critical(changed: int) -> int:
    """The smallest count in one direction that McNemar's test rejects at, of `changed` answers; beyond them: none."""
    pmf = _binomial(changed, 0.5)
    tails = pmf[::-1].cumsum()[::-1]
    p_values = 2 * (tails if changed < EXACT_BELOW else tails - pmf / 2)
    upper = (np.arange(changed + 1) * 2 > changed) & (p_values < LEVEL)
    return int(upper.argmax()) if upper.any() else changed + 1


def _binomial(draws: int, share: float) -> NDArray[np.float64]:
    """P(X = k) for k = 0 … draws."""
    if share <= 0 or share >= 1:
        sure = np.zeros(draws + 1)
        sure[draws if share >= 1 else 0] = 1.0
        return sure
    k = np.arange(draws + 1)
    chosen = _log_factorials(draws)[draws] - _log_factorials(draws)[k] - _log_factorials(draws)[draws - k]
    pmf: NDArray[np.float64] = np.exp(chosen + k * math.log(share) + (draws - k) * math.log1p(-share))
    return pmf


@functools.lru_cache(maxsize=4096)
def _log_factorials(largest: int) -> NDArray[np.float64]:
    return np.concatenate([[0.0], np.log(np.arange(1, largest + 1)).cumsum()])
