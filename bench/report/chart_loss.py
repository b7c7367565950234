"""The figure of how sure the losses are: per variant the perplexity change, divergence and accuracy with intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.analysis import formatting as fmt
from bench.analysis.candidates import Candidate
from bench.analysis.estimate import Estimate
from bench.analysis.readings import Reading, read
from bench.analysis.results import texts
from bench.report import tables
from bench.report.clean import short
from bench.report.figures import (
    CHOSEN,
    DASHED,
    DOTTED,
    MARKERS,
    Chart,
    Subject,
    add_hover_target,
    chart_label,
    error_arms,
    make_logarithmic,
    new_figure,
    spread_widely,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NAME = "quality-with-intervals"
ROWS = 16
GUESSING = 0.25
"""The accuracy of guessing: a question has four choices."""


@dataclass(frozen=True, kw_only=True)
class _Line:
    """A value to hold the points against: `told` is what the description says of it, `label` what the panel does."""

    value: float
    told: str
    label: str = ""


@dataclass(frozen=True, kw_only=True)
class _Panel:
    """One column: `reading_of` a candidate, shown times `factor`; `better` is the side on which it is better."""

    name: str
    axis_label: str
    better: str
    reading_of: Callable[[Candidate], Reading]
    formatter: fmt.Formatter
    factor: float = 1.0
    zero_line: bool = False
    may_be_log: bool = False
    line: _Line | None = None

    def estimate(self, candidate: Candidate) -> Estimate | None:
        """The figure to draw; None where it is missing or must not be believed."""
        reading = self.reading_of(candidate)
        return reading.estimate.scaled(self.factor) if reading.usable and reading.estimate is not None else None


def loss_chart(subject: Subject) -> Chart | None:
    """A row a variant, a panel a quality figure, each with its 95 % interval; None when nothing was measured."""
    tasks = tables.multiple_choice_tasks(subject.analysis)[:1]
    eligible = [c for c in tables.in_order(subject.analysis) if c.excluded is None]
    loss = [panel for panel in _loss_panels(subject) if any(panel.estimate(c) for c in eligible if not c.is_baseline)]
    accuracy = [panel for task in tasks if any(map((panel := _accuracy_panel(subject, task)).estimate, eligible))]
    panels = [*loss, *accuracy]
    measured = [c for c in eligible if any(panel.estimate(c) for panel in panels)]
    if not measured:
        return None
    shown = _rows(subject, measured)
    figure = new_figure(1.15 + 0.27 * max(4, len(shown)))
    tooltips: dict[str, str] = {}
    notes: list[str] = []
    for index, panel in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), index + 1)
        tooltips |= _forest(axes, subject, panel, shown, f"row{index}")
        notes += _held_against(axes, subject, panel)
        _name_rows(axes, subject, shown, visible=index == 0)
    notes += [note for task in tasks if accuracy for note in _notes_of(subject, task)]
    if len(measured) > len(shown):
        notes.append(f"{len(measured) - len(shown)} further cells are in the table only.")
    sides = [
        f"further {side} for {fmt.listing(names)}"
        for side in ("left", "right")
        if (names := [panel.name for panel in panels if panel.better == side])
    ]
    return Chart(
        name=NAME,
        title="Quality with intervals",
        description=(
            f"Bars are 95 % intervals; better is {', '.join(sides)}. A hollow mark is the baseline."
            f" Invalid numbers are left out. {' '.join(notes)}"
        ).rstrip(),
        section="quality",
        tables=("quality", "multiple-choice") if accuracy else ("quality",),
        figure=figure,
        tooltips=tooltips,
    )


def _loss_panels(subject: Subject) -> list[_Panel]:
    limit = subject.analysis.config.max_perplexity_increase
    return [
        _Panel(
            name="perplexity change",
            axis_label="% against the baseline",
            better="left",
            reading_of=lambda c: c.loss.perplexity_change,
            formatter=lambda value: fmt.change(value / 100),
            factor=100.0,
            zero_line=True,
            line=_Line(value=limit * 100, told=f"limit, {fmt.percent(limit)}"),
        ),
        _Panel(
            name="mean divergence",
            axis_label="nat/token",
            better="left",
            reading_of=lambda c: c.loss.divergence,
            formatter=fmt.significant,
            may_be_log=True,
        ),
    ]


def _accuracy_panel(subject: Subject, task: str) -> _Panel:
    # A figure's file is also seen without the page: what a task says first goes with it.
    notes = "".join(f"\n{chart_label(note.partition(':')[0])}" for note in _notes_of(subject, task)[:1])
    return _Panel(
        name=f"accuracy in {chart_label(task)}",
        axis_label=f"share of questions{notes}",
        better="right",
        reading_of=lambda c: read(c.cell, "tasks", task, tables.ACCURACY),
        formatter=fmt.significant,
        line=_Line(value=GUESSING, told=f"accuracy of guessing, {GUESSING}", label="guessing"),
    )


def _notes_of(subject: Subject, task: str) -> list[str]:
    """What a task says must be known before believing its figures, as sentences."""
    cells = subject.analysis.results.cells
    notes = [short(note) for c in cells if task in c.tasks for note in texts(c.tasks[task].summary.get("notes"))]
    return [f"{note[:1].upper()}{note[1:].rstrip('.')}." for note in dict.fromkeys(notes)]


def _rows(subject: Subject, measured: Sequence[Candidate]) -> list[Candidate]:
    """The baseline, then the order of the tables; of too many, the chosen one and the first."""
    first = sorted(measured, key=lambda c: not (c.is_baseline or subject.chosen(c)))[:ROWS]
    kept = {c.cell.id for c in first}
    return sorted((c for c in measured if c.cell.id in kept), key=lambda c: not c.is_baseline)


def _forest(axes: Axes, subject: Subject, panel: _Panel, shown: Sequence[Candidate], prefix: str) -> dict[str, str]:
    """Draw one panel; returns the hover text of each point by its id."""
    axes.set_title(f"{panel.name[:1].upper()}{panel.name[1:]}")
    axes.set_xlabel(panel.axis_label)
    found = [(row, c, estimate) for row, c in enumerate(shown) if (estimate := panel.estimate(c)) is not None]
    logarithmic = panel.may_be_log and spread_widely([estimate.value for _, _, estimate in found])
    if logarithmic:
        make_logarithmic(axes, "x")
    tooltips: dict[str, str] = {}
    for row, candidate, estimate in found:
        if logarithmic and estimate.value <= 0:  # such an axis has no place for it
            _write_at_edge(axes, subject, row, panel.formatter(estimate.value))
            continue
        look = CHOSEN if subject.chosen(candidate) else 0
        axes.errorbar(
            estimate.value,
            row,
            xerr=error_arms([estimate]),
            color=subject.palette.series[look],
            elinewidth=1.4,
            capsize=3,
            marker=MARKERS[look],
            markersize=5,
            markerfacecolor=subject.palette.paper if candidate.is_baseline else None,
        )
        gid = f"{prefix}-{row}"
        add_hover_target(axes, estimate.value, row, gid)
        tooltips[gid] = _point_text(panel, candidate, estimate)
    axes.margins(x=0.12)
    return tooltips


def _write_at_edge(axes: Axes, subject: Subject, row: int, text: str) -> None:
    axes.annotate(
        text,
        (0, row),
        xycoords=axes.get_yaxis_transform(),
        xytext=(4, 0),
        textcoords="offset points",
        va="center",
        fontsize=8.5,
        color=subject.palette.muted,
    )


def _point_text(panel: _Panel, candidate: Candidate, estimate: Estimate) -> str:
    interval = fmt.interval(estimate, panel.formatter)
    told = f" ({interval})" if interval else ""
    return f"{short(candidate.cell.label)}: {panel.name} {panel.formatter(estimate.value)}{told}"


def _held_against(axes: Axes, subject: Subject, panel: _Panel) -> list[str]:
    """Draw what a panel's points are held against; returns what must be said of it."""
    muted = subject.palette.muted
    if panel.zero_line:
        axes.axvline(0, color=muted, linewidth=0.8)
    if panel.line is None:
        return []
    line = panel.line
    low, high = axes.get_xlim()
    margin = 0.04 * (high - low)
    stretched = (min(low, line.value - margin), max(high, line.value + margin))
    # Not so far that intervals can no longer be told apart.
    if stretched[1] - stretched[0] > 2 * (high - low):
        return [f"The {line.told}, is outside the axis."]
    axes.set_xlim(stretched)
    axes.axvline(line.value, color=muted, linewidth=0.8, linestyle=DOTTED if line.label else DASHED)
    if line.label:
        axes.annotate(
            line.label,
            (line.value, 1),
            xycoords=axes.get_xaxis_transform(),
            xytext=(3, -2),
            textcoords="offset points",
            va="top",
            fontsize=8,
            color=muted,
        )
    return [f"The {'dotted' if line.label else 'dashed'} line is the {line.told}."]


def _name_rows(axes: Axes, subject: Subject, shown: Sequence[Candidate], *, visible: bool) -> None:
    """A row's name at the left of the figure; the first row at the top, with room above for a line's label."""
    names = [f"{chart_label(c.cell.label)}{' (baseline)' if c.is_baseline else ''}" for c in shown]
    axes.set_yticks(range(len(shown)), names if visible else [""] * len(shown))
    for label, candidate in zip(axes.get_yticklabels(), shown, strict=True):
        label.set_color(subject.palette.ink)
        label.set_fontweight("bold" if subject.chosen(candidate) else "normal")
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.set_ylim(len(shown) - 0.4, -1.0)
