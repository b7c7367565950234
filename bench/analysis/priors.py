"""The rule of thumb for the measured machine, and where what was measured speaks against it."""

from __future__ import annotations

import re
from collections.abc import Mapping

from bench.analysis import formatting as fmt
from bench.analysis.candidates import Analysis, Candidate
from bench.analysis.config import Priority
from bench.analysis.prices import hardware_name
from bench.analysis.prior import LABEL, Prior, family_of, prior_of
from bench.analysis.results import Cell, mapping, number, text

_MIB_PER_GIB = 1024
_NUMBER = re.compile(r"[0-9.]+")


def prior_for(analysis: Analysis) -> Prior | None:
    """For the machine of the measured cells (the baseline's where they differ); None where none is recorded."""
    cells = [candidate.cell for candidate in analysis.candidates if candidate.cell.machine]
    if not cells:
        return None
    cell = analysis.baseline if analysis.baseline is not None and analysis.baseline.machine else cells[0]
    gpu, memory = gpu_of(cell)
    return prior_of(gpu, memory, quality_first=analysis.config.priority is Priority.quality)


def gpu_of(cell: Cell) -> tuple[str, float | None]:
    """Name and GiB of one GPU of the machine, as nvidia-smi told them; None where there is no GPU, 0 if not told."""
    if not cell.gpus:
        return "", None
    first = cell.gpus[0]
    if not isinstance(first, Mapping):
        return str(first), 0.0
    told = first.get("memory.total")
    found = _NUMBER.match(text(told) or "")
    mib = number(told) if not isinstance(told, str) else float(found.group()) if found else None
    return str(first.get("name", "")), 0.0 if mib is None else mib / _MIB_PER_GIB


def family(candidate: Candidate) -> str:
    """The family of a variant, in the names of the rule of thumb."""
    scheme = mapping(candidate.cell.variant.get("scheme")) or mapping(candidate.cell.config.get("scheme"))
    names = [
        candidate.cell.variant_label,
        text(scheme.get("kind")),
        text(scheme.get("type")),
        text(scheme.get("dtype")),
    ]
    return family_of([name for name in names if name is not None])


def disagreement(analysis: Analysis, choice: Candidate | None, prior: Prior | None) -> str:
    """Where the answer is not what the rule of thumb says: what became of its family here. Empty where they agree."""
    if prior is None or choice is None:
        return ""
    if family(choice) in prior.families:
        return ""
    usual = " or ".join(prior.families)
    where = hardware_name(choice.cell) or "this machine"
    lead = f"The rule of thumb for {where} is {usual} ({LABEL}); measured here, {choice.cell.label} does better"
    tried = [candidate for candidate in analysis.candidates if family(candidate) in prior.families]
    if not any(candidate.cell.scenarios or candidate.cell.tasks or candidate.cell.failure for candidate in tried):
        return f"The rule of thumb for {where} is {usual} ({LABEL}), which was not measured here."
    told = []
    for candidate in tried[:3]:
        label, cost, loss = candidate.cell.label, candidate.cost.estimate, candidate.loss.perplexity_change.estimate
        if candidate.cell.failure is not None:
            told.append(f"{label} failed ({candidate.cell.failure.kind})")
        elif candidate.cell.unsupported_reason is not None:
            told.append(f"{label} is unsupported")
        elif cost is None:
            told.append(f"{label} has no cost: {candidate.cost.missing}")
        else:
            money = fmt.money(analysis.config.price.currency)
            lost = "an unknown loss" if loss is None else f"perplexity {fmt.change(loss.value)}"
            told.append(f"{label} costs {money(cost.value)} per million output tokens at {lost}")
    return f"{lead}: {'; '.join(told)}."
