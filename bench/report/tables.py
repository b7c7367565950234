"""The report's tables of numbers: comparison, cost, latency, quality."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.analysis import formatting as fmt
from bench.analysis.candidates import Analysis, Candidate, Comparison
from bench.analysis.quality import quality_metric, tasks_by_tag
from bench.analysis.readings import Reading, absent, read
from bench.analysis.results import mapping, number, text, texts
from bench.report.shown import DASH, Shown, fact, plain, show, with_error

LATENCY_TAGS = ("ttft", "itl", "e2e_latency")
PERCENTILES = ("p50", "p90", "p99")
DIVERGENCE_TAGS = ("median_divergence", "p99_divergence", "max_divergence", "top1_agreement")


ACCURACY = "accuracy_micro"
PAIRED_ANSWERS: Mapping[str, fmt.Formatter] = {
    "accuracy_change": fmt.significant,
    "wrong_to_right": fmt.count,
    "right_to_wrong": fmt.count,
    "mcnemar_p": fmt.significant,
}
"""What the multiple choice table shows against the baseline, and how it is written."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """The cell a row is about."""

    id: str
    key: str
    label: str
    status: str
    marks: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """A verdict in words (empty where nothing could be compared), with the change it rests on or why there is none."""

    verdict: str
    change: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class ComparisonRow:
    """One line of the comparison table; `throughput` has one entry a load."""

    subject: Subject
    size: Shown
    bits: Shown
    perplexity: Shown
    change: Shown
    quality: Judgement
    divergence: Shown
    ttft: Shown
    itl: Shown
    throughput: tuple[Shown, ...]
    cost: Shown
    speed: Judgement


@dataclass(frozen=True, kw_only=True)
class Row:
    """A subject and its numbers, in the order of the table's columns; `note` is a last column in words."""

    subject: Subject
    numbers: tuple[Shown, ...]
    source: str = ""
    note: str = ""

    @property
    def reasons(self) -> list[str]:
        """Every reason that stands against one of the numbers."""
        return list(dict.fromkeys(reason for shown in self.numbers for reason in shown.reasons))


def subject_of(candidate: Candidate, choice: Candidate | None) -> Subject:
    """What a row says of its cell."""
    marks = []
    if choice is not None and candidate.cell.id == choice.cell.id:
        marks.append("the answer")
    if candidate.is_baseline:
        marks.append("baseline")
    if candidate.excluded is not None:
        marks.append(f"not compared: {candidate.excluded}")
    elif candidate.dominated_by is not None and not marks:
        marks.append(f"{candidate.dominated_by} has better values")
    cell = candidate.cell
    return Subject(id=cell.id, key=cell.key, label=cell.label, status=cell.status, marks=tuple(marks))


def in_order(analysis: Analysis) -> list[Candidate]:
    """Ranked by cost where it may be; what cannot be ranked follows in the order it was planned."""

    def rank(candidate: Candidate) -> tuple[bool, float]:
        estimate = candidate.cost.estimate
        return not candidate.rankable, estimate.value if candidate.rankable and estimate is not None else math.inf

    return sorted(analysis.candidates, key=rank)


def comparison(analysis: Analysis, choice: Candidate | None) -> list[ComparisonRow]:
    """The main table: every cell, cheapest first."""
    reference = analysis.reference.name if analysis.reference is not None else ""
    money = fmt.money(analysis.config.price.currency)
    rows = []
    for candidate in in_order(analysis):
        cell, loss = candidate.cell, candidate.loss
        rows.append(
            ComparisonRow(
                subject=subject_of(candidate, choice),
                size=fact(cell, cell.size_bytes, fmt.megabytes, "size_bytes"),
                bits=fact(cell, cell.bits_per_weight, fmt.significant, "effective_bits_per_weight"),
                perplexity=with_error(loss.perplexity, fmt.perplexity),
                change=show(loss.perplexity_change, fmt.change),
                quality=judgement(candidate.quality, is_baseline=candidate.is_baseline),
                divergence=plain(loss.divergence),
                ttft=plain(read(cell, "scenarios", reference, "ttft", "p50")),
                itl=plain(read(cell, "scenarios", reference, "itl", "p50")),
                throughput=tuple(plain(_throughput(candidate, load.name)) for load in analysis.loads),
                cost=show(candidate.cost, money),
                speed=judgement(candidate.speed, is_baseline=candidate.is_baseline),
            )
        )
    return rows


def judgement(compared: Comparison, *, is_baseline: bool) -> Judgement:
    """A comparison in words."""
    if is_baseline:
        return Judgement(verdict="baseline", change="", reason="")
    if compared.change is None:
        return Judgement(verdict="", change="", reason=compared.reason)
    return Judgement(verdict=compared.verdict.value, change=fmt.change(compared.change.value), reason=compared.reason)


def _throughput(candidate: Candidate, load: str) -> Reading:
    return read(candidate.cell, "scenarios", load, "output_throughput")


def latency(analysis: Analysis, choice: Candidate | None) -> list[Row]:
    """Per cell and load: medians and high percentiles, throughput, errors."""
    rows = []
    for candidate in in_order(analysis):
        for load in analysis.loads:
            child = candidate.cell.scenarios.get(load.name)
            if child is None:
                continue
            numbers = [
                with_error(read(candidate.cell, "scenarios", load.name, tag, percentile))
                for tag in LATENCY_TAGS
                for percentile in PERCENTILES
            ]
            numbers.append(show(_throughput(candidate, load.name)))
            numbers.append(plain(read(candidate.cell, "scenarios", load.name, "request_throughput")))
            errors = fmt.listing([f"{count:g} {kind}" for kind, count in child.errors.items() if count])
            subject = subject_of(candidate, choice)
            rows.append(Row(subject=subject, source=load.name, numbers=tuple(numbers), note=errors or "none"))
    return rows


OWN_ERRORS = (
    (("read_delay_us", "p99"), 1.0),
    (("schedule_slip_us", "p99"), 1.0),
    (("delivered_share",), 100.0),
    (("coalesced_reads_share",), 100.0),
    (("busy_share",), 100.0),
)
"""What the load generator says of itself: path in `own_error`, factor to the shown unit."""


def own_errors(analysis: Analysis, choice: Candidate | None) -> list[Row]:
    """Per cell and load: how far the measuring client itself was off."""
    rows = []
    for candidate in in_order(analysis):
        for child in candidate.cell.scenarios.values():
            own = mapping(child.summary.get("own_error"))
            if not own:
                continue
            numbers = tuple(_own_error(own, path, factor) for path, factor in OWN_ERRORS)
            source = text(own.get("time_source")) or DASH
            subject = subject_of(candidate, choice)
            rows.append(Row(subject=subject, source=child.name, numbers=numbers, note=source))
    return rows


def _own_error(own: Mapping[str, Any], path: tuple[str, ...], factor: float) -> Shown:
    value: object = own
    for part in path:
        value = mapping(value).get(part)
    plain_value = number(value)
    if plain_value is None:
        return Shown(text=DASH, missing="not recorded")
    return Shown(text=fmt.significant(plain_value * factor))


def quality(analysis: Analysis, choice: Candidate | None) -> list[Row]:
    """Per cell: perplexity, its change, divergence and its tail, agreement, and what accepted the variant."""
    tasks = tasks_by_tag(analysis.results.cells)
    rows = []
    for candidate in in_order(analysis):
        cell, loss = candidate.cell, candidate.loss
        if not cell.tasks and not cell.acceptance:
            continue
        numbers = [
            show(loss.perplexity, fmt.perplexity),
            show(loss.perplexity_change, fmt.change),
            show(loss.divergence),
            *(plain(quality_metric(cell, tasks, tag)) for tag in DIVERGENCE_TAGS),
        ]
        rows.append(Row(subject=subject_of(candidate, choice), numbers=tuple(numbers), note=_accepted(candidate)))
    return rows


def multiple_choice(analysis: Analysis, choice: Candidate | None) -> list[Row]:
    """Per cell and multiple choice task: accuracy over questions and over subjects, and changed answers."""
    names = multiple_choice_tasks(analysis)
    rows = []
    for candidate in in_order(analysis):
        for name in names:
            task = candidate.cell.tasks.get(name)
            if task is None:
                continue
            numbers = [
                show(read(candidate.cell, "tasks", name, ACCURACY)),
                show(read(candidate.cell, "tasks", name, "accuracy_macro")),
                *(show(read(candidate.cell, "tasks", name, tag), form) for tag, form in PAIRED_ANSWERS.items()),
            ]
            asked = number(mapping(task.summary.get("protocol")).get("questions"))
            note = DASH if asked is None else fmt.count(asked)
            subject = subject_of(candidate, choice)
            rows.append(Row(subject=subject, source=name, numbers=tuple(numbers), note=note))
    return rows


def multiple_choice_tasks(analysis: Analysis) -> list[str]:
    """The names of the tasks that gave an accuracy in some cell."""
    found = [name for cell in analysis.results.cells for name, task in cell.tasks.items() if ACCURACY in task.metrics]
    return list(dict.fromkeys(found))


def task_notes(analysis: Analysis) -> list[str]:
    """What the tasks themselves say must be known before believing their figures, each once."""
    return list(
        dict.fromkeys(
            f"{name}: {note}"
            for cell in analysis.results.cells
            for name, task in cell.tasks.items()
            for note in texts(task.summary.get("notes"))
        )
    )


def _accepted(candidate: Candidate) -> str:
    verdict = text(candidate.cell.acceptance.get("verdict"))
    if verdict is None:
        return "not checked"
    figures = []
    for name in ("perplexity", "mean_divergence"):
        value = number(candidate.cell.acceptance.get(name))
        if value is not None:
            figures.append(f"{name.replace('_', ' ')} {fmt.significant(value)}")
    return f"{verdict} ({', '.join(figures)})" if figures else verdict


def scored_by(candidates: Sequence[Candidate]) -> list[str]:
    """What scored which tasks, in words."""
    tasks: dict[str, dict[str, None]] = {}
    for candidate in candidates:
        for task in candidate.cell.tasks.values():
            scorer = mapping(task.summary.get("scored_by"))
            words = [
                f"{name} {value}".replace("_", " ") for name, value in scorer.items() if not isinstance(value, dict)
            ]
            if words:
                tasks.setdefault(", ".join(words), {})[task.name] = None
    return [f"{fmt.listing(list(names))}: {words}" for words, names in tasks.items()]


def key_figures(analysis: Analysis, choice: Candidate) -> list[tuple[str, str, Shown]]:
    """The few numbers that go with the answer: name, unit and figure."""
    cell, reference = choice.cell, analysis.reference
    money = fmt.money(analysis.config.price.currency)
    name = reference.name if reference is not None else ""
    nothing = absent(cell, name, "load", "no load was measured")
    return [
        ("cost", "per million output tokens", show(choice.cost, money)),
        ("throughput", "output tokens/s", show(choice.throughput)),
        ("first token", "ms, median", plain(read(cell, "scenarios", name, "ttft", "p50") if reference else nothing)),
        ("between tokens", "ms, median", plain(read(cell, "scenarios", name, "itl", "p50") if reference else nothing)),
        ("perplexity", "against the baseline", show(choice.loss.perplexity_change, fmt.change)),
        ("size", "MB", fact(cell, cell.size_bytes, fmt.megabytes, "size_bytes")),
    ]
