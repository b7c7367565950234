"""The answer: which variant, what it costs, what it loses, how sure. Invalid numbers are never ranked.

Among the variants whose perplexity stays within the limit, the cheapest at the priced load. Variants whose throughput
cannot be told from the cheapest one's tie with it; among ties one that loses nothing that matters comes first, then the
smallest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from bench.analysis import formatting as fmt
from bench.analysis.candidates import Analysis, Candidate, Comparison, compare_throughput
from bench.analysis.estimate import Verdict
from bench.analysis.readings import advice

CAVEATS = 10


class Certainty(StrEnum):
    """How sure the answer is."""

    CLEAR = "clear"
    TENTATIVE = "tentative"
    NONE = "no answer"


class Acceptable(StrEnum):
    """Whether a variant's loss is within the limit."""

    YES = "yes"
    NO = "no"
    LIKELY = "likely"
    UNLIKELY = "unlikely"
    UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """`choice` is None when there is nothing to recommend; the texts are whole sentences."""

    headline: str
    certainty: Certainty
    sure: str
    choice: Candidate | None = None
    costs: str = ""
    loses: str = ""
    why: tuple[str, ...] = ()
    caveats: tuple[str, ...] = ()


def recommend(analysis: Analysis) -> Answer:
    """The answer to «which variant should I deploy», or why there is none."""
    comparable = [c for c in analysis.candidates if c.excluded is None]
    rankable = [c for c in comparable if c.rankable]
    if not rankable:
        return _nothing_to_rank(analysis)
    if len([c for c in comparable if c.throughput.estimate is not None]) == 1:
        return _single(analysis, rankable[0])
    graded = [(c, acceptable(c, analysis.config.max_perplexity_increase)) for c in rankable]
    if all(grade is Acceptable.UNKNOWN or c.is_baseline for c, grade in graded):
        return _cheapest_without_quality(analysis, rankable)
    fit = [c for c, grade in graded if grade in {Acceptable.YES, Acceptable.LIKELY}]
    if not fit:
        return _none_within_limit(analysis, graded)
    return _choose(analysis, fit, graded)


def acceptable(candidate: Candidate, limit: float) -> Acceptable:
    """Whether the perplexity change stays within `limit`: proven by the interval, or by the value alone."""
    reading = candidate.loss.perplexity_change
    if candidate.is_baseline:
        return Acceptable.YES
    if reading.estimate is None or not reading.usable:
        return Acceptable.UNKNOWN
    estimate = reading.estimate
    if estimate.hi is not None and estimate.hi <= limit:
        return Acceptable.YES
    if estimate.lo is not None and estimate.lo > limit:
        return Acceptable.NO
    return Acceptable.LIKELY if estimate.value <= limit else Acceptable.UNLIKELY


def _choose(analysis: Analysis, fit: Sequence[Candidate], graded: Sequence[tuple[Candidate, Acceptable]]) -> Answer:
    margin = analysis.config.margins.throughput
    cheapest = min(fit, key=_cost)
    against = {
        c.cell.id: compare_throughput(c.throughput, cheapest.throughput, cheapest.cell.label, margin)
        for c in fit
        if c is not cheapest
    }
    ties = [c for c in fit if c is cheapest or against[c.cell.id].verdict is not Verdict.WORSE]
    choice = min(ties, key=lambda candidate: _tie_order(candidate, analysis.config.margins.perplexity))
    grade = {c.cell.id: g for c, g in graded}[choice.cell.id]
    others = [c.cell.label for c in ties if c is not choice]
    proven = grade is Acceptable.YES
    clear = not others and proven
    headline = f"Deploy {choice.cell.label}." if clear else f"{choice.cell.label}, tentatively."
    if choice.is_baseline and clear:
        headline = f"Stay with {choice.cell.label}: no acceptable variant is cheaper."
    return Answer(
        headline=headline,
        certainty=Certainty.CLEAR if clear else Certainty.TENTATIVE,
        sure=_sure(others, fit, proven=proven),
        choice=choice,
        costs=_costs(analysis, choice),
        loses=_loses(choice),
        why=tuple(_why(choice, others, against, graded, analysis.config.max_perplexity_increase)),
        caveats=_caveats(analysis),
    )


def _sure(others: list[str], fit: Sequence[Candidate], *, proven: bool) -> str:
    parts = []
    if others:
        parts.append(f"Not sure of the cost: {fmt.listing(others)} cannot be told from it at this load.")
    elif len(fit) > 1:
        parts.append("Sure of the cost: its throughput interval is above every other acceptable variant's.")
    else:
        parts.append("No other variant that could be ranked keeps the quality limit.")
    if proven:
        parts.append("Sure of the quality limit: the whole interval is within it.")
    else:
        parts.append("Not sure of the quality limit: the value is within it, its interval is not; score more text.")
    return " ".join(parts)


def _why(
    choice: Candidate,
    others: list[str],
    against: dict[str, Comparison],
    graded: Sequence[tuple[Candidate, Acceptable]],
    limit: float,
) -> list[str]:
    why = []
    if others:
        size = choice.cell.size_bytes
        told = f", {fmt.megabytes(size)} MB" if size is not None else ""
        why.append(f"Of {1 + len(others)} variants that cost about the same, it loses least or is the smallest{told}.")
    for candidate, grade in graded:
        label, estimate = candidate.cell.label, candidate.loss.perplexity_change.estimate
        cheaper = _cost(candidate) < _cost(choice)
        if grade in {Acceptable.NO, Acceptable.UNLIKELY} and estimate is not None:
            but = "is cheaper, but its" if cheaper else "is not cheaper, and its"
            why.append(
                f"{label} {but} perplexity changes by {fmt.change(estimate.value)}; the limit is +{fmt.percent(limit)}."
            )
        elif grade is Acceptable.UNKNOWN and cheaper:
            reason = candidate.loss.perplexity_change.missing or "its figure is not valid"
            why.append(f"{label} is cheaper, but what it loses is unknown: {reason}.")
        elif candidate is not choice and candidate.cell.id in against:
            change = against[candidate.cell.id].change
            if change is not None and against[candidate.cell.id].verdict is Verdict.WORSE:
                why.append(f"{label} is slower: {fmt.change(change.value)} tokens/s.")
    return why[:8]


def _costs(analysis: Analysis, choice: Candidate) -> str:
    estimate = choice.cost.estimate
    assert estimate is not None
    assert analysis.reference is not None
    price = analysis.config.price
    money = fmt.money(price.currency)
    told = f"{money(estimate.value)} per million output tokens at load {analysis.reference.name}"
    if estimate.has_interval:
        told += f" (95 % interval {fmt.interval(estimate, money)})"
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


def _loses(choice: Candidate) -> str:
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


def _caveats(analysis: Analysis) -> tuple[str, ...]:
    caveats = list(analysis.notes)
    if analysis.config.price.assumed:
        caveats.append("The price is an assumption: costs scale with it, their order does not change.")
    if len(caveats) > CAVEATS:
        caveats = [*caveats[: CAVEATS - 1], f"{len(caveats) - CAVEATS + 1} more notes are further down."]
    return tuple(caveats)


def _single(analysis: Analysis, only: Candidate) -> Answer:
    others = sum(c is not only for c in analysis.candidates)
    rest = f"; {others} other cell{'' if others == 1 else 's'} could not be compared" if others else ""
    return Answer(
        headline=f"Only {only.cell.label} was measured: there is nothing to compare it with.",
        certainty=Certainty.NONE,
        sure=f"A single cell gives no ranking{rest}. Add a variant, and the unquantized one as a baseline.",
        choice=only,
        costs=_costs(analysis, only),
        loses=_loses(only) if analysis.baseline is not None else "Unknown: there is no baseline.",
        caveats=_caveats(analysis),
    )


def _cheapest_without_quality(analysis: Analysis, rankable: Sequence[Candidate]) -> Answer:
    cheapest = min(rankable, key=_cost)
    return Answer(
        headline=f"No recommendation: {cheapest.cell.label} costs least, but what the variants lose is unknown.",
        certainty=Certainty.NONE,
        sure="Cost alone decides nothing: score the variants against an unquantized baseline.",
        choice=cheapest,
        costs=_costs(analysis, cheapest),
        loses=_loses(cheapest) if analysis.baseline is not None else "Unknown: there is no baseline.",
        caveats=_caveats(analysis),
    )


def _none_within_limit(analysis: Analysis, graded: Sequence[tuple[Candidate, Acceptable]]) -> Answer:
    limit = fmt.percent(analysis.config.max_perplexity_increase)
    return Answer(
        headline=f"No variant keeps perplexity within +{limit} of the baseline.",
        certainty=Certainty.NONE,
        sure="Every variant that could be ranked is outside the limit or unknown. Raise the limit, or use more bits.",
        why=tuple(
            f"{c.cell.label}: perplexity {fmt.change(estimate.value)}."
            for c, _ in graded
            if (estimate := c.loss.perplexity_change.estimate) is not None
        )[:8],
        caveats=_caveats(analysis),
    )


def _nothing_to_rank(analysis: Analysis) -> Answer:
    cells = [c.cell for c in analysis.candidates]
    statuses = {cell.status for cell in cells}
    invalid = [c for c in analysis.candidates if c.throughput.estimate is not None and c.throughput.validity]
    codes = list(dict.fromkeys(code for c in invalid for code in c.throughput.validity))
    sure = "There is no number to rank."
    if not cells:
        headline = "Nothing was measured: the run has no cells."
    elif invalid and analysis.reference is not None:
        headline = f"No recommendation: no throughput at load {analysis.reference.name} may be believed."
        sure = " ".join(f"{code}: {advice(code)}" for code in codes[:3])
    elif statuses == {"unsupported"}:
        headline = "Nothing was measured: no cell is supported."
        sure = "See the reasons under failures."
    elif statuses <= {"failed", "unsupported"}:
        headline = (
            "Nothing to recommend: every cell failed."
            if "unsupported" not in statuses
            else ("Nothing to recommend: every cell failed or is unsupported.")
        )
        sure = "See the reasons and log tails under failures."
    else:
        headline = "No recommendation: no cell has a throughput that can be priced."
        sure = "Add a scenario, or see what is missing under failures."
    return Answer(headline=headline, certainty=Certainty.NONE, sure=sure, caveats=_caveats(analysis))


def _cost(candidate: Candidate) -> float:
    assert candidate.cost.estimate is not None
    return candidate.cost.estimate.value


def _tie_order(candidate: Candidate, margin: float) -> tuple[bool, bool, float, float]:
    """Nothing lost that matters (all of the interval below the margin), then the smallest, then the cheapest."""
    loss = candidate.loss.perplexity_change
    highest = loss.estimate.hi if loss.usable and loss.estimate is not None else None
    harmless = candidate.is_baseline or (highest is not None and highest <= margin)
    size = candidate.cell.size_bytes
    return not harmless, size is None, size or 0.0, _cost(candidate)
