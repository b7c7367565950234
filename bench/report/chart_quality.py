"""The figure of what is lost for what is paid: perplexity change against cost and against size."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.analysis import formatting as fmt
from bench.analysis.candidates import Candidate
from bench.analysis.estimate import Estimate
from bench.report.clean import short
from bench.report.figures import DASHED, Chart, Subject, chart_label, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LABELLED = 14
HOVERED = 120
NAME = "quality-against-cost"
XOf = Callable[[Candidate], Estimate | None]


@dataclass(frozen=True, kw_only=True)
class _Point:
    """A candidate at its place; y in per cent."""

    candidate: Candidate
    x: Estimate
    y: Estimate


def quality_chart(subject: Subject) -> Chart | None:
    """Perplexity change against cost at the priced load and against bits per weight; None without data."""
    analysis = subject.analysis
    known = [c for c in analysis.candidates if c.excluded is None and c.loss.perplexity_change.usable]
    priced = [c for c in known if c.cost.usable]
    sized = [c for c in known if c.cell.bits_per_weight is not None]
    panels: list[tuple[str, list[Candidate], str, XOf]] = []
    if len(priced) > 1 and analysis.reference is not None:
        axis = f"{analysis.config.price.currency} per million output tokens at {chart_label(analysis.reference.name)}"
        panels.append(("Loss against cost", priced, axis, lambda c: c.cost.estimate))
    if len(sized) > 1:
        panels.append(("Loss against size", sized, "effective bits per weight", _bits))
    if not panels:
        return None
    figure = new_figure()
    tooltips: dict[str, str] = {}
    for index, (title, shown, axis_label, x_of) in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), index + 1)
        axes.set_title(title)
        tooltips |= _scatter(axes, subject, shown, x_of, f"point{index}")
        if shown is priced:
            _frontier(axes, subject, shown, x_of)
        axes.set_xlabel(axis_label)
        axes.set_ylabel("perplexity against the baseline, %" if index == 0 else "")
        _limit_lines(axes, subject)
    return Chart(
        name=NAME,
        title="What is lost for what is paid",
        description=(
            "Points are variants with 95 % intervals; lower and further left is better. The line joins variants that no"
            " other beats on both cost and loss; the dashed line is the limit. Invalid numbers are left out."
        ),
        figure=figure,
        tooltips=tooltips,
    )


def _bits(candidate: Candidate) -> Estimate | None:
    value = candidate.cell.bits_per_weight
    return None if value is None else Estimate(value=value)


def _limit_lines(axes: Axes, subject: Subject) -> None:
    axes.axhline(0, color=subject.palette.muted, linewidth=0.8)
    limit = subject.analysis.config.max_perplexity_increase * 100
    if axes.get_ylim()[1] > limit:
        axes.axhline(limit, color=subject.palette.muted, linewidth=0.8, linestyle=DASHED)


def _scatter(axes: Axes, subject: Subject, shown: Sequence[Candidate], x_of: XOf, prefix: str) -> dict[str, str]:
    """Draw the points; returns the hover text of each by its id."""
    palette = subject.palette
    points = [
        _Point(candidate=c, x=x, y=y) for c in shown if (x := x_of(c)) is not None and (y := _change(c)) is not None
    ]
    telling = {c.cell.id for c in _most_telling(subject, shown)}
    chosen = [point for point in points if subject.chosen(point.candidate)]
    named = [point for point in points if point.candidate.cell.id in telling and point not in chosen]
    rest = [point for point in points if point.candidate.cell.id not in telling and point not in chosen]
    _marks(axes, rest, palette.muted, "o", 4)
    _marks(axes, named, palette.series[0], "o", 5)
    _marks(axes, chosen, palette.series[1], "D", 7)
    axes.margins(x=0.16, y=0.18)
    _labels(axes, subject, [*chosen, *named])
    tooltips: dict[str, str] = {}
    for number, point in enumerate([*named, *chosen, *rest][:HOVERED]):
        # An invisible, larger mark on top takes the pointer.
        target = axes.plot(point.x.value, point.y.value, marker="o", markersize=12, alpha=0, linestyle="none")[0]
        target.set_gid(f"{prefix}-{number}")
        tooltips[f"{prefix}-{number}"] = _point_text(point.candidate)
    return tooltips


def _labels(axes: Axes, subject: Subject, points: Sequence[_Point]) -> None:
    """Name the points, each beside its mark where no earlier name is; a name without room is left to the hover text."""
    axes.autoscale_view()  # else the places below are those of an empty axis
    taken: list[tuple[float, float, float, float]] = []
    for point in points:
        text = chart_label(point.candidate.cell.variant_label)
        x, y = axes.transData.transform((point.x.value, point.y.value))
        width, height = 6.5 * len(text), 13.0
        for right, up in ((True, True), (True, False), (False, True), (False, False)):
            left, bottom = (x + 8 if right else x - 8 - width), (y + 5 if up else y - 5 - height)
            box = (left, bottom, left + width, bottom + height)
            if not any(_overlap(box, other) for other in taken):
                taken.append(box)
                axes.annotate(
                    text,
                    (point.x.value, point.y.value),
                    xytext=(6 if right else -6, 5 if up else -5),
                    textcoords="offset points",
                    ha="left" if right else "right",
                    va="bottom" if up else "top",
                    fontsize=8.5,
                    fontweight="bold" if subject.chosen(point.candidate) else "normal",
                )
                break


def _overlap(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> bool:
    """Whether two boxes (left, bottom, right, top) share a point."""
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _change(candidate: Candidate) -> Estimate | None:
    """The perplexity change in per cent."""
    estimate = candidate.loss.perplexity_change.estimate
    return None if estimate is None else estimate.scaled(100.0)


def _marks(axes: Axes, points: Sequence[_Point], colour: str, marker: str, size: float) -> None:
    """All points of one kind with their intervals, in one go."""
    if points:
        axes.errorbar(
            [point.x.value for point in points],
            [point.y.value for point in points],
            xerr=_arms([point.x for point in points]),
            yerr=_arms([point.y for point in points]),
            color=colour,
            elinewidth=1,
            marker=marker,
            markersize=size,
            linestyle="none",
        )


def _arms(estimates: Sequence[Estimate]) -> list[list[float]]:
    """The error bars' lengths below and above; none where there is no interval."""
    below = [0.0 if e.lo is None else max(0.0, e.value - e.lo) for e in estimates]
    above = [0.0 if e.hi is None else max(0.0, e.hi - e.value) for e in estimates]
    return [below, above]


def _frontier(axes: Axes, subject: Subject, shown: Sequence[Candidate], x_of: XOf) -> None:
    points = [(x_of(c), _change(c)) for c in shown if c.on_frontier]
    front = sorted((x.value, y.value) for x, y in points if x is not None and y is not None)
    if len(front) > 1:
        axes.plot(*zip(*front, strict=True), color=subject.palette.muted, linewidth=1, zorder=1)


def _most_telling(subject: Subject, shown: Sequence[Candidate]) -> list[Candidate]:
    """Those that get a label: all of a few; of many the chosen one, the baseline and some of the frontier."""
    if len(shown) <= LABELLED:
        return list(shown)
    first = [c for c in shown if c.is_baseline or subject.chosen(c)]
    front = [c for c in shown if c.on_frontier and c not in first]
    step = max(1, math.ceil(len(front) / (LABELLED - len(first))))
    return first + front[::step]


def _point_text(candidate: Candidate) -> str:
    parts = [short(candidate.cell.label)]
    if candidate.cost.estimate is not None:
        parts.append(f"cost {fmt.significant(candidate.cost.estimate.value)} {candidate.cost.unit}")
    change = candidate.loss.perplexity_change.estimate
    if change is not None:
        parts.append(f"perplexity {fmt.change(change.value)}")
    return "; ".join(parts)
