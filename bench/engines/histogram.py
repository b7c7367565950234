"""Histograms as Prometheus exposes them, and quantiles of them as its `histogram_quantile` computes them."""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass

#: Relative differences of two cumulative counts below this are float noise (promql/quantile.go).
_NOISE = 1e-12


@dataclass(frozen=True, kw_only=True)
class Quantile:
    """An interpolated quantile, and the bucket it lies in: more is not known. None: the bucket is open on that side."""

    value: float
    lower: float | None
    upper: float | None


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """`buckets` are (upper bound, cumulative count); `total` is the sum of the observations, None where not told."""

    buckets: tuple[tuple[float, float], ...]
    total: float | None
    count: float

    @property
    def mean(self) -> float | None:
        """total / count, exact whatever the buckets are; None where nothing was observed."""
        return self.total / self.count if self.total is not None and self.count > 0 else None

    def since(self, before: Histogram) -> Histogram | None:
        """What was observed after `before`; None where a count fell, because the server was started anew."""
        earlier = dict(before.buckets)
        buckets = tuple((bound, count - earlier.get(bound, 0.0)) for bound, count in self.buckets)
        count = self.count - before.count
        if count < 0 or any(number < 0 for _, number in buckets):
            return None
        total = None if self.total is None or before.total is None else self.total - before.total
        return Histogram(buckets=buckets, total=total, count=count)

    def quantile(self, q: float) -> Quantile | None:
        """The `q`-quantile with its bucket; None where Prometheus gives NaN."""
        return bucket_quantile(q, self.buckets)


def bucket_quantile(q: float, buckets: Sequence[tuple[float, float]]) -> Quantile | None:
    """The `q`-quantile of cumulative `buckets` (upper bound, count), as Prometheus' promql/quantile.go.

    Linear inside a bucket, from 0 in the first one where its bound is positive. In the +Inf bucket it is the highest
    finite bound. None where Prometheus gives NaN: nothing observed, fewer than two buckets, none for +Inf.
    """
    if math.isnan(q) or not buckets:
        return None
    if not 0 <= q <= 1:
        return Quantile(value=math.copysign(math.inf, q), lower=None, upper=None)
    bounds, counts = _cleaned(buckets)
    if bounds[-1] != math.inf or len(bounds) < 2 or counts[-1] == 0:
        return None
    return _interpolated(q * counts[-1], bounds, counts)


def _interpolated(rank: float, bounds: Sequence[float], counts: Sequence[float]) -> Quantile | None:
    index = bisect.bisect_left(counts, rank, 0, len(counts) - 1)
    upper = bounds[index]
    if index == len(bounds) - 1:
        return Quantile(value=bounds[-2], lower=bounds[-2], upper=None)
    if index == 0 and upper <= 0:
        return Quantile(value=upper, lower=None, upper=upper)
    lower, below = (bounds[index - 1], counts[index - 1]) if index else (0.0, 0.0)
    inside = counts[index] - below
    if inside == 0:
        return None
    return Quantile(value=lower + (upper - lower) * ((rank - below) / inside), lower=lower, upper=upper)


def _cleaned(buckets: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """Bounds in order, each once, and counts that never fall."""
    merged: dict[float, float] = {}
    for bound, count in sorted(buckets):
        merged[bound] = merged.get(bound, 0.0) + count
    counts = list(merged.values())
    previous = counts[0]
    for index, count in enumerate(counts):
        if count and abs(count - previous) / count <= _NOISE:
            counts[index] = previous
        else:
            counts[index] = max(count, previous)
        previous = counts[index]
    return list(merged), counts
