"""The summary as Markdown, for a pull request or a terminal: the answer, one table, what to bear in mind."""

from __future__ import annotations

import re
from collections.abc import Iterable

from bench.analysis.candidates import Analysis
from bench.analysis.recommend import Answer
from bench.report import records, server_table, tables
from bench.report.clean import short
from bench.report.page import summary_line, title_of
from bench.report.shown import DASH, Shown

ROWS = 60
PUT_ASIDE = DIFFERENCES = 12
NOT_ASKED = Shown(text=DASH, missing="not measured")
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~&!@])")


def escape(value: str, limit: int = 300) -> str:
    """One inert line: Markdown, HTML and mention characters lose their meaning."""
    return (
        _SPECIAL.sub(r"\\\1", short(value, limit)).replace("\\<", "&lt;").replace("\\>", "&gt;").replace("\\&", "&amp;")
    )


def render_markdown(analysis: Analysis, answer: Answer) -> str:
    """The whole summary; at most `ROWS` cells are listed."""
    lines = [f"# quantbench: {escape(title_of(analysis.results))}", "", f"**{escape(answer.headline)}**", ""]
    for name, told in (("Costs", answer.costs), ("Loses", answer.loses), ("How sure", answer.sure)):
        if told:
            lines += [f"- {name}: {escape(told, 600)}"]
    reasons = (*answer.why, *answer.put_aside[:PUT_ASIDE], *answer.caveats)
    lines += [f"- {escape(line, 400)}" for line in reasons]
    lines += [f"- {escape(line, 600)}" for line in (_prior(answer), answer.disagreement) if line]
    lines += ["", escape(summary_line(analysis)), "", *_table(analysis, answer)]
    notes = tables.task_notes(analysis)
    if notes:
        lines += ["", *(f"- {escape(note, 400)}" for note in notes)]
    apart = analysis.not_comparable
    if apart:
        lines += ["", "## Not comparable", ""]
        lines += [f"- {escape(each.said, 400)}" for each in apart[:DIFFERENCES]]
        lines += [f"- {len(apart) - DIFFERENCES} more are in report.json"] if len(apart) > DIFFERENCES else []
    failures = records.faults(analysis)
    if failures:
        lines += ["", "## Failures", ""]
        lines += [
            f"- {escape('; '.join(fault.labels[:4]))}: {escape(fault.failure.kind)} in {escape(fault.failure.stage)}:"
            f" {escape(fault.failure.message)}"
            for fault in failures[:20]
        ]
    price = analysis.config.price
    assumed = "an assumption" if price.assumed else f"seen {price.date}"
    lines += ["", f"Price: {price.currency} {price.hourly:.4g} an hour for {escape(price.name)} ({assumed})."]
    return "\n".join(lines) + "\n"


def _prior(answer: Answer) -> str:
    """The rule of thumb, where nothing is recommended from measurements."""
    return f"Usual here: {answer.prior.said}" if answer.prior is not None and answer.choice is None else ""


def _table(analysis: Analysis, answer: Answer) -> Iterable[str]:
    heads = ["Variant", "MB", "Bits/weight", "Perplexity", "Change", "Divergence", "TTFT p50 ms", "ITL p50 ms"]
    served = server_table.has_server_ttft(analysis)
    heads += ["TTFT mean ms", "Server's TTFT mean ms"] if served else []
    heads += [f"Tokens/s at {escape(load.name, 40)}" for load in analysis.loads]
    heads += [f"{analysis.config.price.currency}/10⁶ tokens"]
    choices = tables.multiple_choice_tasks(analysis)
    heads += [f"Accuracy in {escape(name, 40)}" for name in choices]
    accuracy = {(row.subject.id, row.source): row.numbers[0] for row in tables.multiple_choice(analysis, answer.choice)}
    yield f"| {' | '.join(heads)} |"
    yield f"| --- |{' ---: |' * (len(heads) - 1)}"
    rows = tables.comparison(analysis, answer.choice)
    candidates = {candidate.cell.id: candidate for candidate in analysis.candidates}
    for row in rows[:ROWS]:
        numbers = (row.size, row.bits, row.perplexity, row.change, row.divergence, row.ttft, row.itl)
        asked = (accuracy.get((row.subject.id, name), NOT_ASKED) for name in choices)
        told = server_table.server_ttft(analysis, candidates[row.subject.id]) if served else ()
        shown_numbers = (*numbers, *told, *row.throughput, row.cost, *asked)
        cells = [escape(row.subject.label, 80), *(_number(shown) for shown in shown_numbers)]
        yield f"| {' | '.join(cells)} |"
    if len(rows) > ROWS:
        yield f"\n{len(rows) - ROWS} further cells are in summary.csv."


def _number(shown: Shown) -> str:
    if shown.missing:
        return DASH
    detail = f" ({shown.detail})" if shown.detail else ""
    if shown.reasons:
        return f"~~{shown.text}~~ {escape(', '.join(shown.reasons), 80)}"
    return f"{shown.text}{detail}"
