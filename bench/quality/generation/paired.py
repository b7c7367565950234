"""Figures of the same items under a variant and its baseline, and how each comparison ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bench.base.validity import Reason
from bench.quality.intervals import share_interval
from bench.quality.job import value_metric
from bench.quality.statistics.student import t_quantile
from bench.quality.statistics.verdict import Comparison, compare_answers, compare_means


class Figures:
    """Metrics and comparisons of one task. `same`: the variant is the baseline, which by definition does not differ.

    Items without a verdict are left out, of a pair when either is missing; `n` of a metric tells how many are left.
    What compares is null, with the reason `no_baseline`, where there is none.
    """

    def __init__(self, *, margin: float, same: bool, found: Sequence[str]) -> None:
        self.margin = margin
        self._same = same
        self._found = list(found)
        self.metrics: dict[str, dict[str, Any]] = {}
        self.comparisons: dict[str, dict[str, Any]] = {}

    def share(
        self, tag: str, own: Sequence[bool | None], base: Sequence[bool | None] | None, *, flips: bool = True
    ) -> None:
        """Share of items that are right, with Wilson's interval, the baseline's, and the change between them.

        With `flips` also how many changed each way, the p-value of McNemar's test and the smallest change that so many
        items would find with power 0.8.
        """
        self.alone(tag, own)
        pairs = self._pairs(own, base)
        mine = np.array([a for a, _ in pairs], dtype=np.bool_)
        theirs = np.array([b for _, b in pairs], dtype=np.bool_)
        count, base_hits = len(pairs), int(theirs.sum())
        found = compare_answers(mine, theirs, margin=self.margin)
        self._put_base(tag, "ratio", base_hits / count if count else None, share_interval(base_hits, count), count)
        self._change(tag, "ratio", found)
        if flips:
            gained, lost = int((mine & ~theirs).sum()), int((~mine & theirs).sum())
            counts = {"wrong_to_right": gained, "right_to_wrong": lost}
            for name, flipped in counts.items():
                self._paired(name, "questions", flipped if count else None, None, count)
            self._paired("mcnemar_p", "1", None if found is None else found.p_value, None, count)
            self._paired("detectable_change", "ratio", None if found is None else found.detectable, None, count)

    def alone(self, tag: str, verdicts: Sequence[bool | None]) -> None:
        """Share of what is compared with the baseline already, with Wilson's interval."""
        known = [verdict for verdict in verdicts if verdict is not None]
        hits, total = sum(known), len(known)
        self._put(tag, "ratio", hits / total if total else None, share_interval(hits, total), n=total)

    def mean(
        self,
        tag: str,
        unit: str,
        own: Sequence[float | None],
        base: Sequence[float | None] | None,
        *,
        margin: float,
        higher_is_better: bool = True,
        items: str = "questions",
    ) -> None:
        """Mean over items with Student's interval, the baseline's, and the paired change."""
        known = np.array([value for value in own if value is not None], dtype=np.float64)
        self._put(tag, unit, *_mean(known), n=len(known))
        pairs = self._pairs(own, base)
        theirs = np.array([b for _, b in pairs], dtype=np.float64)
        differences = np.array([a - b for a, b in pairs], dtype=np.float64)
        self._put_base(tag, unit, *_mean(theirs), len(pairs))
        self._change(
            tag, unit, compare_means(differences, margin=margin, unit=items, higher_is_better=higher_is_better)
        )

    def _pairs(self, own: Sequence[Any], base: Sequence[Any] | None) -> list[tuple[Any, Any]]:
        self._compared = base is not None
        if base is None:
            return []
        return [(a, b) for a, b in zip(own, base, strict=True) if a is not None and b is not None]

    def _change(self, tag: str, unit: str, found: Comparison | None) -> None:
        if found is None:
            self._paired(f"{tag}_change", unit, None, None, 0)
            return
        interval = None if found.lo is None or found.hi is None or self._same else (found.lo, found.hi)
        self._paired(f"{tag}_change", unit, found.difference, interval, found.draws)
        if not self._same:
            self.comparisons[tag] = found.as_dict()

    def _put_base(
        self, tag: str, unit: str, value: float | None, interval: tuple[float, float] | None, count: int
    ) -> None:
        self._paired(f"base_{tag}", unit, value, interval, count)

    def _paired(
        self, tag: str, unit: str, value: float | None, interval: tuple[float, float] | None, count: int
    ) -> None:
        missing = [] if self._compared else [Reason.NO_BASELINE.value]
        self.metrics[tag] = value_metric(unit, value, interval, [*self._found, *missing], n=count)

    def _put(self, tag: str, unit: str, value: float | None, interval: tuple[float, float] | None, *, n: int) -> None:
        self.metrics[tag] = value_metric(unit, value, interval, self._found, n=n)


def _mean(values: np.ndarray[Any, np.dtype[np.float64]]) -> tuple[float | None, tuple[float, float] | None]:
    """A mean with its 95 % interval by Student's t; no interval below two values."""
    count = len(values)
    if not count:
        return None, None
    mean = float(values.mean())
    if count < 2:
        return mean, None
    half = t_quantile(count - 1) * float(values.std(ddof=1)) / float(np.sqrt(count))
    return mean, (mean - half, mean + half)
