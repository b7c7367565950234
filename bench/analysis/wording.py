"""The sentences of an answer: what the chosen variant costs and loses, and what to bear in mind."""

from __future__ import annotations

from collections.abc import Sequence

from bench.analysis import formatting as fmt
from bench.analysis.candidates import Analysis, Candidate
from bench.analysis.pareto import Axis

CAVEATS = 10


def costs(analysis: Analysis, choice: Candidate) -> str:
    """What the choice costs, with how its speed compares with the baseline's."""
    estimate = choice.cost.estimate
    if estimate is None or analysis.reference is None:
        return f"Unknown: {choice.cost.missing or 'no load was measured'}."
    price = analysis.config.price
    money = fmt.money(price.currency)
    told = f"{money(estimate.value)} per million output tokens at load {analysis.reference.name}"
    if estimate.has_interval:
        told += f" (95 % interval {fmt.interval(estimate, money)})"
    told += _at_slo(analysis, choice)
    if choice.is_baseline or analysis.baseline is None:
        return f"{told}."
    speed = choice.speed
    if speed.change is None:
        return f"{told}; not compared with {analysis.baseline.label}: {speed.reason}."
    detail = f"; {speed.reason}" if speed.reason else ""
    return (
        f"{told}; throughput {fmt.change(speed.change.value)} against {analysis.baseline.label}:"
        f" {speed.verdict.value}{detail}."
    )


def loses(choice: Candidate) -> str:
    """What the choice loses against the baseline."""
    if choice.is_baseline:
        return "Nothing: it is the baseline."
    reading = choice.loss.perplexity_change
    if reading.estimate is None:
        return f"Unknown: {reading.missing}."
    if not reading.usable:
        return f"Unknown: the figure is not valid ({', '.join(reading.validity)})."
    told = f"Perplexity {fmt.change(reading.estimate.value)} against {choice.quality.against}"
    if reading.estimate.has_interval:
        told += f" (95 % interval {fmt.interval(reading.estimate, fmt.change)}; {choice.loss.pairing})"
    told += f": {choice.quality.verdict.value}."
    divergence = choice.loss.divergence
    if divergence.estimate is not None and divergence.usable:
        told += f" Mean divergence {fmt.significant(divergence.estimate.value)} nat per token."
    return told


def caveats(analysis: Analysis) -> tuple[str, ...]:
    """What to bear in mind: at most `CAVEATS` lines."""
    told = list(analysis.notes)
    if analysis.config.price.assumed:
        told.append("The price is an assumption: costs scale with it, their order does not change.")
    if len(told) > CAVEATS:
        told = [*told[: CAVEATS - 1], f"{len(told) - CAVEATS + 1} more notes are further down."]
    return tuple(told)


def _at_slo(analysis: Analysis, choice: Candidate) -> str:
    """The cost at the objective and the replicas of the demand, where either is asked for."""
    row, told = choice.costs, ""
    if row is None:
        return told
    money = fmt.money(analysis.config.price.currency)
    if analysis.config.slo.given and row.at_slo.estimate is not None:
        least = "at most " if row.capacity.at_least else ""
        told += f"; {least}{money(row.at_slo.estimate.value)} per million tokens at the SLO"
    if row.replicas is not None:
        count = row.replicas.count
        told += f"; {count} replica{'' if count == 1 else 's'}" if count is not None else "; replicas unknown"
        told += f" ({row.replicas.why})"
    return told


def sure(others: Sequence[str], fit: Sequence[Candidate], axis: Axis, *, proven: bool) -> str:
    """How sure the ranking and the quality limit are."""
    parts = []
    if others:
        parts.append(f"Not sure of the {axis.name}: {fmt.listing(list(others))} cannot be told from it at this load.")
    elif len(fit) > 1:
        parts.append(f"Sure of the {axis.name}: its interval is apart from every other acceptable variant's.")
    else:
        parts.append("No other variant that could be ranked keeps the quality limit.")
    if proven:
        parts.append("Sure of the quality limit: the whole interval is within it.")
    else:
        parts.append("Not sure of the quality limit: the value is within it, its interval is not; score more text.")
    return " ".join(parts)
