"""Tasks of two cells paired item by item: the same questions, or the same windows of the same text."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.analysis.config import MarginConfig
from bench.analysis.estimate import Estimate, Verdict
from bench.analysis.raw import read_columns
from bench.analysis.results import Cell, Measurement
from bench.quality.statistics.verdict import Comparison, compare_answers, compare_means

_SAME = ("item", "id", "subject", "question", "answer", "prompt_digest", "window", "position", "token_id")
"""Columns that must be equal row by row, as far as both have them."""
_RIGHT = ("correct", "passed")
_NLL = "nll"


@dataclass(frozen=True, kw_only=True)
class Paired:
    """The change of a task's figure from A to B over the items of both; `absolute`: B - A of shares."""

    task: str
    metric: str
    before: Estimate
    after: Estimate
    change: Estimate
    verdict: Verdict
    absolute: bool
    basis: str
    reason: str = ""


def paired_tasks(own: Cell, other: Cell, margins: MarginConfig) -> dict[str, Paired]:
    """By task, what could be paired; tasks whose items are missing, or not the same, are left out."""
    found = {}
    for name, task in own.tasks.items():
        theirs = other.tasks.get(name)
        paired = None if theirs is None else _paired(task, theirs, margins)
        if paired is not None:
            found[name] = paired
    return found


def _paired(task: Measurement, theirs: Measurement, margins: MarginConfig) -> Paired | None:
    if task.status != "complete" or theirs.status != "complete" or task.validity or theirs.validity:
        return None
    names = (*_SAME, *_RIGHT, _NLL)
    own, other = read_columns(task, "items.parquet", names), read_columns(theirs, "items.parquet", names)
    if not own or not other or not _same_items(own, other):
        return None
    right = next((name for name in _RIGHT if name in own and name in other), None)
    if right is not None:
        return _answers(task.name, right, own, other, margins)
    if _NLL in own and _NLL in other and "window" in own:
        return _windows(task.name, own, other, margins)
    return None


def _same_items(own: dict[str, Any], other: dict[str, Any]) -> bool:
    keys = [name for name in _SAME if name in own and name in other]
    return bool(keys) and all(np.array_equal(own[name], other[name]) for name in keys)


def _answers(
    task: str, column: str, own: dict[str, Any], other: dict[str, Any], margins: MarginConfig
) -> Paired | None:
    """Questions that both answered; the change is one of accuracies."""
    known = np.array([a is not None and b is not None for a, b in zip(own[column], other[column], strict=True)])
    before, after = own[column][known].astype(bool), other[column][known].astype(bool)
    compared = compare_answers(after, before, margin=margins.accuracy)
    if compared is None:
        return None
    gained, lost = int((after & ~before).sum()), int((~after & before).sum())
    return Paired(
        task=task,
        metric="accuracy",
        before=Estimate(value=float(before.mean())),
        after=Estimate(value=float(after.mean())),
        change=Estimate(value=compared.difference, lo=compared.lo, hi=compared.hi),
        verdict=Verdict(compared.verdict.value),
        absolute=True,
        basis=f"paired over {len(before)} questions, {gained} became right and {lost} wrong ({compared.test})",
        reason=_reason(compared),
    )


def _windows(task: str, own: dict[str, Any], other: dict[str, Any], margins: MarginConfig) -> Paired | None:
    """Mean negative log-likelihood by window; the relative change of perplexity is exp of its difference - 1."""
    before, after = (_means(each["window"], each[_NLL]) for each in (own, other))
    if not (np.isfinite(before).all() and np.isfinite(after).all()):
        return None
    compared = compare_means(after - before, margin=math.log1p(margins.perplexity))
    if compared is None:
        return None
    lo, hi = (None if end is None else math.expm1(end) for end in (compared.lo, compared.hi))
    return Paired(
        task=task,
        metric="perplexity",
        before=Estimate(value=math.exp(float(before.mean()))),
        after=Estimate(value=math.exp(float(after.mean()))),
        change=Estimate(value=math.expm1(compared.difference), lo=lo, hi=hi),
        verdict=Verdict(compared.verdict.value),
        absolute=False,
        basis=f"paired over {len(before)} windows ({compared.test})",
        reason=_reason(compared),
    )


def _means(window: npt.NDArray[Any], values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """The mean of each window's values, windows in ascending order."""
    _, index = np.unique(window, return_inverse=True)
    sums = np.bincount(index, weights=np.asarray(values, dtype=np.float64))
    return np.asarray(sums / np.bincount(index), dtype=np.float64)


def _reason(compared: Comparison) -> str:
    return compared.said() if compared.verdict.value == Verdict.INCONCLUSIVE.value else ""
