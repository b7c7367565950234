"""Tasks of two cells paired item by item: the same questions, problems or conversations, or windows of one text."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.analysis.config import MarginConfig
from bench.analysis.estimate import Estimate, Verdict
from bench.analysis.raw import read_columns
from bench.analysis.results import Cell, Measurement
from bench.quality.lm_eval_bridge import tag_of
from bench.quality.statistics.verdict import Comparison, compare_answers, compare_means

_SAME = (
    *("item", "id", "subject", "question", "answer", "prompt_digest", "window", "position", "token_id"),
    *("problem", "sample", "turn"),
    *("task", "doc_id", "filter", "doc_hash", "prompt_hash"),
)
"""Columns that must be equal row by row, as far as both have them."""
_RIGHT = "correct"
_EXTRACTED = {"strict_correct": "exact_match", "flexible_correct": "exact_match_flexible"}
"""Columns of right answers by how they were extracted, and the figure each belongs to."""
_RATING = "rating"
_NLL = "nll"
_HARNESS = ("task", "filter")
_HARNESS_SHARES = ("acc", "acc_norm", "exact_match")
"""lm-eval's names of what is 1 for a right answer and 0 for a wrong one."""


@dataclass(frozen=True, kw_only=True)
class Paired:
    """The change of a task's figure from A to B over the items of both; `absolute`: B - A, in `unit`."""

    task: str
    metric: str
    before: Estimate
    after: Estimate
    change: Estimate
    verdict: Verdict
    absolute: bool
    basis: str
    reason: str = ""
    unit: str = "ratio"


def paired_tasks(own: Cell, other: Cell, margins: MarginConfig) -> dict[str, tuple[Paired, ...]]:
    """By task, what could be paired; tasks whose items are missing, or not the same, are left out."""
    found = {}
    for name, task in own.tasks.items():
        theirs = other.tasks.get(name)
        paired = () if theirs is None else tuple(_paired(task, theirs, margins))
        if paired:
            found[name] = paired
    return found


def _paired(task: Measurement, theirs: Measurement, margins: MarginConfig) -> Iterator[Paired]:
    if task.status != "complete" or theirs.status != "complete" or task.validity or theirs.validity:
        return
    names = (*_SAME, _RIGHT, *_EXTRACTED, _RATING, _NLL, *_HARNESS_SHARES)
    own, other = read_columns(task, "items.parquet", names), read_columns(theirs, "items.parquet", names)
    if not own or not other or not _same_items(own, other):
        return
    both = own.keys() & other.keys()
    if {_RIGHT, "problem", "sample"} <= both and (own["sample"] != 0).any():
        yield from _means_of(task.name, "pass_at_1", ("problem", _RIGHT), own, other, margin=margins.accuracy)
    elif _RIGHT in both:
        yield from _answers(task.name, "accuracy", own[_RIGHT], other[_RIGHT], margins)
    elif _EXTRACTED.keys() <= both:
        for name, metric in _EXTRACTED.items():
            yield from _answers(task.name, metric, own[name], other[name], margins)
    elif {_RATING, "question"} <= both:
        figure = ("question", _RATING)
        yield from _means_of(task.name, "mt_bench_score", figure, own, other, margin=margins.rating, unit="points")
    elif set(_HARNESS) <= both:
        yield from _harness(task.name, own, other, margins)
    elif {_NLL, "window"} <= both:
        yield from _windows(task.name, own, other, margins)


def _harness(task: str, own: dict[str, Any], other: dict[str, Any], margins: MarginConfig) -> Iterator[Paired]:
    """Of lm-eval's documents, its shares of right answers, by its task and filter."""
    kinds = list(zip(own["task"], own["filter"], strict=True))
    for kind in dict.fromkeys(kinds):
        rows = np.array([each == kind for each in kinds])
        for metric in _HARNESS_SHARES:
            if metric in own and metric in other:
                yield from _answers(
                    task, tag_of(kind[0], metric, kind[1]), own[metric][rows], other[metric][rows], margins
                )


def _same_items(own: dict[str, Any], other: dict[str, Any]) -> bool:
    keys = [name for name in _SAME if name in own and name in other]
    if not keys or not all(np.array_equal(own[name], other[name]) for name in keys if name != "prompt_digest"):
        return False
    if "prompt_digest" not in keys:
        return True
    # What is asked in a second turn holds the model's own first answer.
    asked = own["turn"] == 1 if "turn" in keys else slice(None)
    return np.array_equal(own["prompt_digest"][asked], other["prompt_digest"][asked])


def _answers(task: str, metric: str, own: Any, other: Any, margins: MarginConfig) -> Iterator[Paired]:
    """Questions that both answered, right or wrong and nothing between; the change is one of accuracies."""
    known = np.array([a in (0, 1) and b in (0, 1) for a, b in zip(own, other, strict=True)], dtype=bool)
    before, after = own[known].astype(bool), other[known].astype(bool)
    compared = compare_answers(after, before, margin=margins.accuracy)
    if compared is None:
        return
    gained, lost = int((after & ~before).sum()), int((~after & before).sum())
    over = f"questions, {gained} became right and {lost} wrong"
    yield _difference(task, metric, before, after, compared, over=over)


def _means_of(
    task: str,
    metric: str,
    columns: tuple[str, str],
    own: dict[str, Any],
    other: dict[str, Any],
    *,
    margin: float,
    unit: str = "ratio",
) -> Iterator[Paired]:
    """The mean of every owner's values where both have them all: several values of one owner are not independent.

    `columns` name the owner and the value: a problem and whether a sample of it passes, a question and the rating of a
    turn.
    """
    owner, value = columns
    before, after = (each[value].astype(np.float64) for each in (own, other))
    whole = ~np.isin(own[owner], own[owner][~np.isfinite(before + after)])
    before, after = (_means(own[owner][whole], each[whole]) for each in (before, after))
    compared = compare_means(after - before, margin=margin, unit=f"{owner}s", higher_is_better=True)
    if compared is None:
        return
    yield _difference(task, metric, before, after, compared, over=f"{owner}s", unit=unit)


def _difference(
    task: str,
    metric: str,
    before: npt.NDArray[Any],
    after: npt.NDArray[Any],
    compared: Comparison,
    *,
    over: str,
    unit: str = "ratio",
) -> Paired:
    """The change of the means of paired values, in their own unit."""
    return Paired(
        task=task,
        metric=metric,
        before=Estimate(value=float(before.mean())),
        after=Estimate(value=float(after.mean())),
        change=Estimate(value=compared.difference, lo=compared.lo, hi=compared.hi),
        verdict=Verdict(compared.verdict.value),
        absolute=True,
        basis=f"paired over {len(before)} {over} ({compared.test})",
        reason=_reason(compared),
        unit=unit,
    )


def _windows(task: str, own: dict[str, Any], other: dict[str, Any], margins: MarginConfig) -> Iterator[Paired]:
    """Mean negative log-likelihood by window; the relative change of perplexity is exp of its difference - 1."""
    before, after = (_means(each["window"], each[_NLL]) for each in (own, other))
    if not (np.isfinite(before).all() and np.isfinite(after).all()):
        return
    compared = compare_means(after - before, margin=math.log1p(margins.perplexity))
    if compared is None:
        return
    lo, hi = (None if end is None else math.expm1(end) for end in (compared.lo, compared.hi))
    yield Paired(
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


def _means(owners: npt.NDArray[Any], values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """The mean of each owner's values, such as a window's, owners in ascending order."""
    _, index = np.unique(owners, return_inverse=True)
    sums = np.bincount(index, weights=np.asarray(values, dtype=np.float64))
    return np.asarray(sums / np.bincount(index), dtype=np.float64)


def _reason(compared: Comparison) -> str:
    return compared.said() if compared.verdict.value == Verdict.INCONCLUSIVE.value else ""
