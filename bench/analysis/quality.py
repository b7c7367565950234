"""What a variant loses against the baseline: perplexity and divergence, with intervals and how they are paired."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.analysis.estimate import Estimate, ratio
from bench.analysis.readings import Reading, absent, read
from bench.analysis.results import Cell

PERPLEXITY_CHANGE = "perplexity_change"
PAIRED = "paired over the same text"
UNPAIRED = "not paired: the interval is wider than need be"


@dataclass(frozen=True, kw_only=True)
class Loss:
    """`perplexity_change` is relative to the baseline (0.01 = 1 % more); `pairing` tells where its interval is from."""

    perplexity: Reading
    divergence: Reading
    perplexity_change: Reading
    pairing: str


def tasks_by_tag(cells: Sequence[Cell]) -> dict[str, str]:
    """For each metric tag the task that gives it in most cells; the first by name among equals."""
    counts: dict[str, dict[str, int]] = {}
    for cell in cells:
        for name, task in cell.tasks.items():
            for tag in task.metrics:
                by_name = counts.setdefault(tag, {})
                by_name[name] = by_name.get(name, 0) + 1
    return {tag: min(names, key=lambda name: (-names[name], name)) for tag, names in counts.items()}


def quality_metric(cell: Cell, tasks: Mapping[str, str], tag: str) -> Reading:
    """`tag` of `cell`, from the task that `tasks` names for it."""
    if tag not in tasks:
        return absent(cell, "quality", tag, "no task measured it")
    return read(cell, "tasks", tasks[tag], tag)


def loss_of(cell: Cell, baseline: Cell | None, tasks: Mapping[str, str]) -> Loss:
    """The quality of `cell` and its change against `baseline`.

    The change is the task's own paired ratio where there is one; else the ratio of two perplexities over the same
    task, taken as independent, which makes the interval too wide rather than too narrow.
    """
    perplexity = quality_metric(cell, tasks, "perplexity")
    change, pairing = _change(cell, baseline, tasks, perplexity)
    return Loss(
        perplexity=perplexity,
        divergence=quality_metric(cell, tasks, "mean_divergence"),
        perplexity_change=change,
        pairing=pairing,
    )


def _change(cell: Cell, baseline: Cell | None, tasks: Mapping[str, str], own: Reading) -> tuple[Reading, str]:
    blank = dataclasses.replace(own, tag=PERPLEXITY_CHANGE, unit="ratio", estimate=None, validity=(), missing="")
    if baseline is None:
        return dataclasses.replace(blank, missing="there is no baseline"), ""
    if cell.id == baseline.id and cell.tasks:
        return dataclasses.replace(blank, estimate=Estimate(value=0.0), missing=None), ""
    if cell.id == baseline.id:
        return dataclasses.replace(blank, missing=own.missing), ""
    paired = quality_metric(cell, tasks, "perplexity_ratio")
    if paired.estimate is not None:
        return dataclasses.replace(paired, tag=PERPLEXITY_CHANGE, estimate=paired.estimate.shifted(-1.0)), PAIRED
    reference = quality_metric(baseline, tasks, "perplexity")
    relative, missing = _unpaired(cell, baseline, own, reference)
    if relative is None:
        return dataclasses.replace(blank, missing=missing), ""
    validity = tuple(dict.fromkeys([*own.validity, *reference.validity]))
    shifted = dataclasses.replace(blank, estimate=relative.shifted(-1.0), validity=validity, missing=None)
    return shifted, UNPAIRED


def _unpaired(cell: Cell, baseline: Cell, own: Reading, reference: Reading) -> tuple[Estimate | None, str]:
    """The ratio of two perplexities over the same task, or why there is none."""
    if own.estimate is None:
        return None, own.missing or "not measured"
    if reference.estimate is None:
        return None, f"the baseline has none: {reference.missing}"
    if cell.tasks[own.source].config != baseline.tasks[reference.source].config:
        return None, "scored otherwise than the baseline"
    return ratio(own.estimate, reference.estimate), "a perplexity is not positive"
