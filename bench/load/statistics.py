"""Percentiles that are not claimed from too few values, and intervals from batch means.

Requests that were in flight together shared batches of the engine, so they are not independent. Batch means (Schmeiser,
"Batch Size Effects in the Analysis of Simulation Output", Operations Research 30(3), 1982): cut the sequence into a few
long batches, each at least as long as what was in flight together, and take one estimate a batch.

Under a queue even batches are not independent: their means drift together. So the interval is widened by what the
autocorrelation r of the estimates says, s² · (1 + r) / (1 − r) for a first-order autoregression (Law, "Statistical
Analysis of Simulation Output Data", Operations Research 31(6), 1983). Of queues at 80 % of capacity and below it covers
about as often as it says; at 90 % 400 requests are too few to tell how slowly a queue drifts: three of four times.
"""

from __future__ import annotations

import math

import numpy as np

from bench.load.table import Floats, Ints, Owners

FEWEST_BATCHES, MOST_BATCHES = 5, 20

# Student's t, 97.5 %, by degrees of freedom from FEWEST_BATCHES - 1 to MOST_BATCHES - 1.
_T = (2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093)

_Z = 1.96

_MOST_CORRELATED = 0.8
"""More is not told from five to twenty estimates."""

Interval = tuple[float, float]


def percentile(ordered: Floats, p: float) -> float | None:
    """The `p` quantile of sorted values, or None: all but the median need 10 / (1 - p) of them."""
    if not len(ordered) or (p > 0.5 and len(ordered) < round(10 / (1 - p))):
        return None
    return quantile(ordered, p)


def batch_count(units: int, wave: int) -> int:
    """How many batches of at least `wave` (and 2) units can be cut; 0 when that is too few for an interval."""
    batches = min(MOST_BATCHES, units // max(wave, 2))
    return batches if batches >= FEWEST_BATCHES else 0


def median_interval(values: Floats, owner: Owners, wave: int) -> Interval | None:
    """95 % interval of the median of `values`, or None.

    `owner` (same length, ascending) numbers the request each value belongs to, in order of sending; batches are runs of
    whole requests, at least `wave` of them. The interval is the median of all ± t · s / √b, s over batch medians,
    widened by their autocorrelation.
    """
    if not len(values):
        return None
    owners = np.unique(owner)
    batches = batch_count(len(owners), wave)
    if not batches:
        return None
    edges = [part[0] for part in np.array_split(owners, batches)]
    starts = np.searchsorted(owner, edges).tolist()
    medians = [float(np.median(part)) for part in np.split(values, starts[1:])]
    return _around(float(np.median(values)), medians)


def quantile_intervals(
    values: Floats, owner: Owners, wave: int, quantiles: dict[float, float], ordered: Floats
) -> dict[float, Interval]:
    """95 % intervals of quantiles (p → value) of `values`, sorted `ordered`; those that reach beyond it are left out.

    Batches as for `median_interval`; but quantiles of batches so small are biased, so what is estimated from them is
    how sure the share p of values below the quantile is: p ± t · s / √b, s over the batches' shares, widened by their
    autocorrelation, and never less than that of independent values. The interval lies between the quantiles at its
    ends (Heidelberger and Lewis, "Quantile Estimation in Dependent Sequences", Operations Research 32(1), 1984, whose
    variance comes from the spectrum instead). There is none where the shares are as correlated as is told from so few.
    """
    owners = np.unique(owner)
    batches = batch_count(len(owners), wave)
    if not batches or not quantiles:
        return {}
    starts = np.searchsorted(owner, [part[0] for part in np.array_split(owners, batches)])
    sizes = np.diff(starts, append=len(values))
    found = {}
    for p, value in quantiles.items():
        shares = np.add.reduceat(values <= value, starts, dtype=np.float64) / sizes
        if _correlation(shares) >= _MOST_CORRELATED:
            continue
        lo, hi = _around(p, shares.tolist())
        half = max((hi - lo) / 2, _Z * math.sqrt(p * (1 - p) / len(values)))
        if p - half > 0 and p + half < 1:
            found[p] = quantile(ordered, p - half), quantile(ordered, p + half)
    return found


def quantile(ordered: Floats, p: float) -> float:
    """The `p` quantile of sorted values, linear between order statistics as `numpy.quantile` has it."""
    place = p * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return float(ordered[low] + (place - low) * (ordered[high] - ordered[low]))


def rate_interval(times_ns: Ints, weights: Floats, start_ns: int, end_ns: int, longest_ns: float) -> Interval | None:
    """95 % interval of a rate in 1/s over (start, end], or None.

    Batches are equal slices of time, none shorter than `longest_ns` (how long a request lives): rate ± t · s / √b,
    widened by their autocorrelation.
    """
    span_ns = end_ns - start_ns
    if span_ns <= 0 or longest_ns <= 0:
        return None
    batches = min(MOST_BATCHES, int(span_ns // longest_ns))
    if batches < FEWEST_BATCHES:
        return None
    edges = start_ns + np.arange(batches + 1) * (span_ns / batches)
    sums, _ = np.histogram(times_ns, bins=edges, weights=weights)
    rates = sums / (span_ns / batches / 1e9)
    return _around(float(rates.mean()), rates.tolist())


def share_interval(share: float, independent: int) -> Interval | None:
    """Wilson's 95 % score interval of a share, with the number of independent batches in place of the sample size."""
    if independent < FEWEST_BATCHES:
        return None
    z, n = _Z, independent
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def _around(centre: float, estimates: list[float]) -> Interval:
    batches = len(estimates)
    deviation = float(np.std(estimates, ddof=1)) * math.sqrt(_inflation(np.asarray(estimates)))
    half = _T[batches - FEWEST_BATCHES] * deviation / math.sqrt(batches)
    return centre - half, centre + half


def _inflation(estimates: Floats) -> float:
    """(1 + r) / (1 − r) of the lag-1 autocorrelation r."""
    r = _correlation(estimates)
    return (1 + r) / (1 - r)


def _correlation(estimates: Floats) -> float:
    """The lag-1 autocorrelation, whose bias of −1 / b is taken off, from 0 to 0.8."""
    centred = estimates - estimates.mean()
    power = float((centred**2).sum())
    if not power:
        return 0.0
    r = float((centred[1:] * centred[:-1]).sum()) / power + 1 / len(estimates)
    return min(max(r, 0.0), _MOST_CORRELATED)
