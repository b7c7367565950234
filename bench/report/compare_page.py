"""Two runs side by side as Markdown, as one HTML page that fetches nothing, and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench._version import __version__
from bench.analysis import formatting as fmt
from bench.analysis.compare import Change, SideBySide
from bench.analysis.estimate import Estimate, Verdict
from bench.report.clean import clean, one_line, short
from bench.report.shown import DASH

TEMPLATES = Path(__file__).parent / "templates"
HEADS = ("Cell", "Of", "Figure", "A", "B", "Change", "95 % interval", "Verdict", "Basis, or why not")
NOT_COMPARED = "not compared"
_ORDER = (Verdict.WORSE, Verdict.BETTER, Verdict.INCONCLUSIVE, Verdict.EQUIVALENT)


@dataclass(frozen=True, kw_only=True)
class Line:
    """One change as it is shown."""

    cell: str
    source: str
    metric: str
    before: str
    after: str
    change: str
    interval: str
    verdict: str
    basis: str

    @property
    def cells(self) -> tuple[str, ...]:
        """In the order of `HEADS`."""
        return (
            *(self.cell, self.source, self.metric, self.before, self.after),
            *(self.change, self.interval, self.verdict, self.basis),
        )


def lines_of(side: SideBySide) -> list[Line]:
    """Every change, the worst verdicts first."""
    ordered = sorted(side.changes, key=lambda each: (not each.compared, _ORDER.index(each.verdict)))
    return [_line(each) for each in ordered]


def _line(each: Change) -> Line:
    written = fmt.change if not each.absolute else points if each.unit == "ratio" else signed
    basis = each.basis if not each.reason else f"{each.reason} ({each.basis})" if each.compared else each.reason
    return Line(
        cell=each.cell,
        source=each.source,
        metric=f"{each.metric}, {each.unit}" if each.unit not in {"", "1", "ratio"} else each.metric,
        before=_number(each.before),
        after=_number(each.after),
        change=DASH if each.change is None else written(each.change.value),
        interval=DASH if each.change is None else fmt.interval(each.change, written) or DASH,
        verdict=each.verdict.value if each.compared else NOT_COMPARED,
        basis=basis,
    )


def points(difference: float) -> str:
    """A difference of shares in percentage points, with its sign."""
    return f"{signed(difference * 100)} points"


def signed(difference: float) -> str:
    """A difference with its sign, to two digits."""
    return f"{'+' if difference > 0 else fmt.MINUS if difference < 0 else '±'}{fmt.significant(abs(difference), 2)}"


def _number(estimate: Estimate | None) -> str:
    return DASH if estimate is None else fmt.significant(estimate.value)


def headline(side: SideBySide) -> str:
    """The counts in a sentence."""
    told = [f"{side.count(verdict)} {verdict.value}" for verdict in _ORDER]
    apart = sum(not each.compared for each in side.changes)
    rest = f", {apart} not compared" if apart else ""
    return f"{side.after} against {side.before}: {', '.join(told)}{rest}."


def remarks(side: SideBySide) -> list[str]:
    """What is not compared and why, cells that only one side has, and what else to know."""
    told = [f"Not compared: {said}." for said in side.not_comparable]
    if side.only_before:
        told.append(f"Only in A: {fmt.listing(list(side.only_before), 12)}.")
    if side.only_after:
        told.append(f"Only in B: {fmt.listing(list(side.only_after), 12)}.")
    return [*told, *side.notes]


def render_markdown(side: SideBySide) -> str:
    """For a pull request."""
    from bench.report.markdown import escape

    lines = [
        f"# quantbench: {escape(side.before)} (A) and {escape(side.after)} (B)",
        "",
        f"**{escape(headline(side))}**",
    ]
    lines += ["", *(f"- {escape(each, 400)}" for each in remarks(side)), ""]
    lines += [f"| {' | '.join(HEADS)} |", f"|{' --- |' * len(HEADS)}"]
    lines += [f"| {' | '.join(escape(cell, 200) for cell in line.cells)} |" for line in lines_of(side)]
    return "\n".join(lines) + "\n"


def render_html(side: SideBySide) -> str:
    """One page; every text in it is escaped and inert."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        finalize=lambda value: clean(value) if isinstance(value, str) and not isinstance(value, Markup) else value,
    )
    environment.filters |= {"short": short}
    return environment.get_template("compare.html.j2").render(
        side=side,
        headline=headline(side),
        remarks=remarks(side),
        heads=HEADS,
        lines=lines_of(side),
        version=__version__,
    )


def render_csv(side: SideBySide) -> str:
    """Full precision, one row a change; a missing number is an empty field, and no text starts a formula."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        (
            "cell",
            "kind",
            "source",
            "metric",
            "unit",
            "before",
            "before_lo",
            "before_hi",
            "after",
            "after_lo",
            "after_hi",
            "change",
            "change_lo",
            "change_hi",
            "absolute",
            "verdict",
            "basis",
            "reason",
        )
    )
    for each in side.changes:
        numbers: list[float | None] = []
        for estimate in (each.before, each.after, each.change):
            numbers += [None] * 3 if estimate is None else [estimate.value, estimate.lo, estimate.hi]
        verdict = each.verdict.value if each.compared else NOT_COMPARED
        texts = _inert((each.cell, each.kind, each.source, each.metric, each.unit))
        writer.writerow((*texts, *numbers, each.absolute, verdict, *_inert((each.basis, each.reason))))
    return out.getvalue()


def _inert(texts: Sequence[str]) -> Iterable[str]:
    for value in texts:
        line = one_line(value)
        yield f"'{line}" if line.startswith(("=", "+", "-", "@")) else line
