"""The answer: which variant, what it costs, what it loses, how sure. Invalid numbers are never ranked.

Constraints first: what does not fit, is not on the wanted hardware, is below the quality floor or does not hold the
objective is put aside, and so is what is not known to. Of the rest whose perplexity stays within the limit, the best by
the configured priority at the priced load. Variants that cannot be told from the best tie with it; among ties one that
loses nothing that matters comes first, then the smallest.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from bench.analysis import formatting as fmt
from bench.analysis.axes import LOSS, axis_of
from bench.analysis.candidates import Analysis, Candidate, Comparison
from bench.analysis.config import Priority
from bench.analysis.constraints import Check, broken, checks
from bench.analysis.estimate import Estimate, Verdict, judge, ratio
from bench.analysis.pareto import MEMORY_VARIES, Axis
from bench.analysis.prior import Prior
from bench.analysis.priors import disagreement, prior_for
from bench.analysis.readings import advice
from bench.analysis.wording import caveats, costs, loses, sure


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
    """`choice` is None when there is nothing to recommend; the texts are whole sentences.

    `put_aside` are the reasons of variants that hold not every constraint. `prior` is the rule of thumb for the
    hardware, never measured, and `disagreement` says where what was measured speaks against it; both may be empty.
    """

    headline: str
    certainty: Certainty
    sure: str
    choice: Candidate | None = None
    costs: str = ""
    loses: str = ""
    why: tuple[str, ...] = ()
    caveats: tuple[str, ...] = ()
    put_aside: tuple[str, ...] = ()
    prior: Prior | None = None
    disagreement: str = ""


def recommend(analysis: Analysis) -> Answer:
    """The answer to «which variant should I deploy», or why there is none."""
    answer = _measured(analysis)
    prior = prior_for(analysis)
    chosen = answer.choice if answer.certainty is not Certainty.NONE else None
    return dataclasses.replace(answer, prior=prior, disagreement=disagreement(analysis, chosen, prior))


def _measured(analysis: Analysis) -> Answer:
    axis = axis_of(analysis.config.priority, analysis.reference, analysis.config)
    comparable = [c for c in analysis.candidates if c.excluded is None]
    measured = [c for c in comparable if c.cell.scenarios or c.cell.tasks]
    found = {c.cell.id: checks(c, analysis.config) for c in measured}
    aside = tuple(f"Put aside: {check.said}." for c in measured for check in broken(found[c.cell.id]))
    allowed = [c for c in measured if not broken(found[c.cell.id])]
    answer = _of(analysis, allowed, comparable, found, axis)
    return dataclasses.replace(answer, put_aside=aside)


def _of(
    analysis: Analysis,
    allowed: Sequence[Candidate],
    comparable: Sequence[Candidate],
    found: Mapping[str, Sequence[Check]],
    axis: Axis,
) -> Answer:
    rankable = [c for c in allowed if axis.read(c).usable]
    if not rankable:
        before = [c for c in comparable if axis.read(c).usable or c.rankable]
        return _all_put_aside(analysis) if before and not allowed else _nothing_to_rank(analysis, axis)
    if len([c for c in comparable if c.throughput.estimate is not None]) == 1:
        return _single(analysis, rankable[0])
    graded = [(c, acceptable(c, analysis.config.max_perplexity_increase)) for c in rankable]
    if all(grade is Acceptable.UNKNOWN or c.is_baseline for c, grade in graded):
        return _best_without_quality(analysis, rankable, axis)
    fit = [c for c, grade in graded if grade in {Acceptable.YES, Acceptable.LIKELY}]
    if not fit:
        return _none_within_limit(analysis, graded)
    answer = _choose(analysis, fit, graded, axis)
    held = [check.said for check in found[answer.choice.cell.id]] if answer.choice is not None else []
    return dataclasses.replace(answer, why=(*(f"{said}." for said in held), *answer.why))


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


def _choose(
    analysis: Analysis, fit: Sequence[Candidate], graded: Sequence[tuple[Candidate, Acceptable]], axis: Axis
) -> Answer:
    config = analysis.config
    best = min(fit, key=lambda candidate: _badness(candidate, axis))
    margin = config.margins.perplexity if config.priority is Priority.quality else config.margins.throughput
    against = {c.cell.id: _compared(c, best, axis, margin) for c in fit if c is not best}
    ties = [c for c in fit if c is best or against[c.cell.id].verdict is not Verdict.WORSE]
    choice = min(ties, key=lambda candidate: _tie_order(candidate, config.margins.perplexity))
    grade = {c.cell.id: g for c, g in graded}[choice.cell.id]
    others = [c.cell.label for c in ties if c is not choice]
    proven = grade is Acceptable.YES
    clear = not others and proven
    headline = f"Deploy {choice.cell.label}." if clear else f"{choice.cell.label}, tentatively."
    if choice.is_baseline and clear:
        headline = f"Stay with {choice.cell.label}: no acceptable variant is {_BETTER[config.priority]}."
    return Answer(
        headline=headline,
        certainty=Certainty.CLEAR if clear else Certainty.TENTATIVE,
        sure=sure(others, fit, axis, proven=proven),
        choice=choice,
        costs=costs(analysis, choice),
        loses=loses(choice),
        why=tuple(_why(analysis, choice, others, against, graded, axis=axis)),
        caveats=caveats(analysis),
    )


_BETTER = {
    Priority.cost: "cheaper",
    Priority.quality: "as good",
    Priority.latency: "quicker",
    Priority.throughput: "faster",
    Priority.memory: "smaller",
}


def _badness(candidate: Candidate, axis: Axis) -> float:
    estimate = axis.read(candidate).estimate
    assert estimate is not None
    return -estimate.value if axis.higher_is_better else estimate.value


def _compared(candidate: Candidate, best: Candidate, axis: Axis, margin: float) -> Comparison:
    """A candidate against the best: a relative change; of losses, which are changes already, their difference."""
    own, other = axis.read(candidate).estimate, axis.read(best).estimate
    assert own is not None
    assert other is not None
    change = _difference(own, other) if axis is LOSS else ratio(own, other)
    if change is not None and axis is not LOSS:
        change = change.shifted(-1.0)
    label = best.cell.label
    if change is None:
        return Comparison(against=label, change=None, verdict=Verdict.INCONCLUSIVE, reason="a figure is not positive")
    if not change.has_interval and axis.read(candidate).unit == "bytes":
        change = Estimate(value=change.value, lo=change.value - MEMORY_VARIES, hi=change.value + MEMORY_VARIES)
    verdict = judge(change, margin=margin, higher_is_better=axis.higher_is_better)
    reason = "" if change.has_interval else "there is no interval to judge by"
    return Comparison(against=label, change=change, verdict=verdict, reason=reason)


def _difference(own: Estimate, other: Estimate) -> Estimate:
    """own - other of independent estimates; one without an interval (the baseline against itself) is exact."""
    value = own.value - other.value
    halves = [0.0 if each.lo is None or each.hi is None else (each.hi - each.lo) / 2 for each in (own, other)]
    half = (halves[0] ** 2 + halves[1] ** 2) ** 0.5
    return Estimate(value=value, lo=value - half, hi=value + half)


def _why(
    analysis: Analysis,
    choice: Candidate,
    others: Sequence[str],
    against: Mapping[str, Comparison],
    graded: Sequence[tuple[Candidate, Acceptable]],
    *,
    axis: Axis,
) -> list[str]:
    why, limit = [], analysis.config.max_perplexity_increase
    if others:
        size = choice.cell.size_bytes
        told = f", {fmt.megabytes(size)} MB" if size is not None else ""
        why.append(
            f"Of {1 + len(others)} variants with about the same {axis.name}, it loses least or is the smallest{told}."
        )
    better = _BETTER[analysis.config.priority]
    for candidate, grade in graded:
        label, estimate = candidate.cell.label, candidate.loss.perplexity_change.estimate
        ahead = _badness(candidate, axis) < _badness(choice, axis)
        if grade in {Acceptable.NO, Acceptable.UNLIKELY} and estimate is not None:
            but = f"is {better}, but its" if ahead else f"is not {better}, and its"
            why.append(
                f"{label} {but} perplexity changes by {fmt.change(estimate.value)}; the limit is +{fmt.percent(limit)}."
            )
        elif grade is Acceptable.UNKNOWN and ahead:
            reason = candidate.loss.perplexity_change.missing or "its figure is not valid"
            why.append(f"{label} is {better}, but what it loses is unknown: {reason}.")
        elif candidate is not choice and candidate.cell.id in against:
            change = against[candidate.cell.id].change
            if change is not None and against[candidate.cell.id].verdict is Verdict.WORSE:
                why.append(f"{label} is worse: {axis.name} {fmt.change(change.value)}.")
    return why[:8]


def _single(analysis: Analysis, only: Candidate) -> Answer:
    others = sum(c is not only for c in analysis.candidates)
    rest = f"; {others} other cell{'' if others == 1 else 's'} could not be compared" if others else ""
    return Answer(
        headline=f"Only {only.cell.label} was measured: there is nothing to compare it with.",
        certainty=Certainty.NONE,
        sure=f"A single cell gives no ranking{rest}. Add a variant, and the unquantized one as a baseline.",
        choice=only,
        costs=costs(analysis, only),
        loses=loses(only) if analysis.baseline is not None else "Unknown: there is no baseline.",
        caveats=caveats(analysis),
    )


def _best_without_quality(analysis: Analysis, rankable: Sequence[Candidate], axis: Axis) -> Answer:
    best = min(rankable, key=lambda candidate: _badness(candidate, axis))
    told = "costs least" if analysis.config.priority is Priority.cost else f"has the best {axis.name}"
    return Answer(
        headline=f"No recommendation: {best.cell.label} {told}, but what the variants lose is unknown.",
        certainty=Certainty.NONE,
        sure=f"The {axis.name} alone decides nothing: score the variants against an unquantized baseline.",
        choice=best,
        costs=costs(analysis, best),
        loses=loses(best) if analysis.baseline is not None else "Unknown: there is no baseline.",
        caveats=caveats(analysis),
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
        caveats=caveats(analysis),
    )


def _all_put_aside(analysis: Analysis) -> Answer:
    return Answer(
        headline="No recommendation: no variant is known to hold every constraint.",
        certainty=Certainty.NONE,
        sure="Each was put aside for the reason given with it: loosen the constraint, or measure what is unknown.",
        caveats=caveats(analysis),
    )


def _nothing_to_rank(analysis: Analysis, axis: Axis) -> Answer:
    cells = [c.cell for c in analysis.candidates]
    statuses = {cell.status for cell in cells}
    invalid = [c for c in analysis.candidates if c.throughput.estimate is not None and c.throughput.validity]
    codes = list(dict.fromkeys(code for c in invalid for code in c.throughput.validity))
    told = "There is no number to rank."
    if not cells:
        headline = "Nothing was measured: the run has no cells."
    elif invalid and analysis.reference is not None:
        headline = f"No recommendation: no throughput at load {analysis.reference.name} may be believed."
        told = " ".join(f"{code}: {advice(code)}" for code in codes[:3])
    elif statuses == {"unsupported"}:
        headline = "Nothing was measured: no cell is supported."
        told = "See the reasons under failures."
    elif statuses <= {"failed", "unsupported"}:
        end = " or is unsupported" if "unsupported" in statuses else ""
        headline = f"Nothing to recommend: every cell failed{end}."
        told = "See the reasons and log tails under failures."
    elif analysis.config.priority is Priority.cost:
        headline = "No recommendation: no cell has a throughput that can be priced."
        told = "Add a scenario, or see what is missing under failures."
    else:
        headline = f"No recommendation: no cell has a {axis.name} that may be believed."
        told = "Add a scenario, or see what is missing under failures."
    return Answer(headline=headline, certainty=Certainty.NONE, sure=told, caveats=caveats(analysis))


def _tie_order(candidate: Candidate, margin: float) -> tuple[bool, bool, float, float]:
    """Nothing lost that matters (all of the interval below the margin), then the smallest, then the cheapest."""
    loss = candidate.loss.perplexity_change
    highest = loss.estimate.hi if loss.usable and loss.estimate is not None else None
    harmless = candidate.is_baseline or (highest is not None and highest <= margin)
    size, cost = candidate.cell.size_bytes, candidate.cost.estimate
    return not harmless, size is None, size or 0.0, cost.value if cost is not None else 0.0
