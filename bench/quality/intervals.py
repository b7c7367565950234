"""95 % intervals of means over tokens that come in windows, and of shares, and the test that goes with paired ones.

Tokens of one window share a text, so they are not independent: the interval of a mean treats each window as one
draw (a cluster), with Student's t for few windows. llama-perplexity instead treats every token as a draw; its
standard error is given beside ours under its own name.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from bench.quality.statistics.student import t_quantile

_Z = NormalDist().inv_cdf(0.975)
#: From so many changed answers on, McNemar's test takes the mid-p instead of the exact one.
EXACT_BELOW = 25


def window_interval(values: NDArray[np.float64]) -> tuple[float, float] | None:
    """95 % interval of the mean of `values`, shape (windows, scored): mean ± t · sd(window means) / √windows.

    None with fewer than two windows, which say nothing about the spread between them.
    """
    if len(values) < 2:
        return None
    means = values.mean(axis=1)
    half = t_quantile(len(means) - 1) * float(means.std(ddof=1)) / math.sqrt(len(means))
    return float(means.mean()) - half, float(means.mean()) + half


def token_standard_error(values: NDArray[np.float64]) -> float | None:
    """Standard error of the mean as llama-perplexity computes it: √((E[x²] − E[x]²) / (n − 1)), tokens as draws."""
    return float(values.std()) / math.sqrt(values.size - 1) if values.size > 1 else None


def share_interval(hits: int, total: int) -> tuple[float, float] | None:
    """Wilson's 95 % interval of a share of `total` independent draws; None without any."""
    return None if total == 0 else wilson(hits / total, total)


def wilson(share: float, draws: float) -> tuple[float, float]:
    """Wilson's 95 % interval of a share that is worth `draws` independent draws."""
    z2 = _Z**2
    centre = (share + z2 / (2 * draws)) / (1 + z2 / draws)
    half = _Z / (1 + z2 / draws) * math.sqrt(share * (1 - share) / draws + z2 / (4 * draws**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def macro_interval(shares: Sequence[float], totals: Sequence[int]) -> tuple[float, float] | None:
    """95 % interval of the mean of groups' shares: Wilson's, at Kish's effective number of draws k² / Σ(1/nᵢ).

    That number is the whole count when groups are equally large, and less otherwise: with few questions in one group
    the mean is only as good as that group's share.
    """
    if not shares:
        return None
    return wilson(math.fsum(shares) / len(shares), len(shares) ** 2 / math.fsum(1 / total for total in totals))


def paired_change_interval(gained: int, lost: int, total: int, confidence: float = 0.95) -> tuple[float, float] | None:
    """Interval of (gained − lost) / total for paired yes-no answers, of 95 %: Bonett and Price (2012).

    A Wald interval with one added to each of the two counts and two to the total, which covers at small counts too.
    """
    if total == 0:
        return None
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    up, down, draws = (gained + 1) / (total + 2), (lost + 1) / (total + 2), total + 2
    half = z * math.sqrt((up + down - (up - down) ** 2) / draws)
    return max(-1.0, up - down - half), min(1.0, up - down + half)


@functools.lru_cache(maxsize=4096)
def mcnemar(gained: int, lost: int) -> float:
    """Two-sided McNemar p-value: how surprising so uneven a split of the changed answers is at even odds.

    Exact below 25 changed answers: 2 · P(Binomial(changed, ½) ≤ the smaller count), at most 1. From there on the mid-p
    (Fagerland, Lydersen and Laake 2013), which counts the observed split half: the exact test rejects too rarely.
    """
    changed, fewer = gained + lost, min(gained, lost)
    tail = ways = 1
    for count in range(1, fewer + 1):
        ways = ways * (changed - count + 1) // count
        tail += ways
    observed = 0 if changed < EXACT_BELOW else ways
    return min(1.0, (2 * tail - observed) / (1 << changed))


def mcnemar_method(changed: int) -> str:
    """Which of the two a test of `changed` answers took."""
    return "McNemar, exact" if changed < EXACT_BELOW else "McNemar, mid-p"


def exp(value: float) -> float:
    """exp that gives infinity instead of raising."""
    return math.exp(value) if value < 700 else math.inf


def exp_interval(interval: tuple[float, float] | None) -> tuple[float, float] | None:
    """Both ends exponentiated."""
    return None if interval is None else (exp(interval[0]), exp(interval[1]))
