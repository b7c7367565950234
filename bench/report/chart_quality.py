"""The figure of what is lost for what is gained: perplexity change against speed, cost and size."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.analysis import formatting as fmt
from bench.analysis.candidates import Candidate
from bench.analysis.estimate import Estimate
from bench.report.clean import short
from bench.report.figures import (
    CHOSEN,
    DASHED,
    MARKERS,
    Chart,
    Subject,
    add_hover_target,
    chart_label,
    error_arms,
    new_figure,
)
from bench.report.label_places import Box, along, free_place

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LABELLED = 14
HOVERED = 120
NAME = "quality-against-cost"
XOf = Callable[[Candidate], Estimate | None]


@dataclass(frozen=True, kw_only=True)
class _Panel:
    """One scatter: `against` names what is on x, `better` the side on which it is better."""

    against: str
    better: str
    axis_label: str
    x_of: XOf
    shown: list[Candidate]
    has_frontier: bool


@dataclass(frozen=True, kw_only=True)
class _Point:
    """A candidate at its place; y in per cent."""

    candidate: Candidate
    x: Estimate
    y: Estimate


@dataclass(frozen=True, kw_only=True)
class _Points:
    """The points of one panel, by how they are drawn."""

    chosen: list[_Point]
    named: list[_Point]
    rest: list[_Point]
    front: list[tuple[float, float]]


def quality_chart(subject: Subject) -> Chart | None:
    """Perplexity change against speed and cost at the priced load and against bits per weight; None without data."""
    panels = _panels(subject)
    if not panels:
        return None
    figure = new_figure()
    drawn: list[tuple[Axes, _Points]] = []
    for index, panel in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), index + 1, sharey=drawn[0][0] if drawn else None)
        axes.set_title(f"Loss against {panel.against}")
        drawn.append((axes, _scatter(axes, subject, panel)))
        axes.set_xlabel(panel.axis_label)
        axes.tick_params(labelleft=index == 0)
        axes.locator_params(axis="x", nbins=5)
    drawn[0][0].set_ylabel("perplexity against the baseline, %")
    limit_shown = _limit_lines([axes for axes, _ in drawn], subject)
    figure.draw_without_rendering()  # the places of labels are those of the finished layout
    tooltips: dict[str, str] = {}
    for index, (axes, points) in enumerate(drawn):
        _labels(axes, subject, points)
        tooltips |= _hover_texts(axes, points, f"point{index}")
    return Chart(
        name=NAME,
        title=f"Quality against {fmt.listing([panel.against for panel in panels])}",
        description=_description(subject, panels, limit_shown=limit_shown),
        section="comparison",
        tables=("comparison",),
        figure=figure,
        tooltips=tooltips,
    )


def _panels(subject: Subject) -> list[_Panel]:
    analysis = subject.analysis
    known = [c for c in analysis.candidates if c.excluded is None and c.loss.perplexity_change.usable]
    fast = [c for c in known if c.throughput.usable]
    priced = [c for c in known if c.cost.usable]
    sized = [c for c in known if c.cell.bits_per_weight is not None]
    at_load = f"at {chart_label(analysis.reference.name)}" if analysis.reference is not None else ""
    panels = [
        _Panel(
            against="speed",
            better="right",
            axis_label=f"output tokens/s\n{at_load}",
            x_of=lambda c: c.throughput.estimate,
            shown=fast,
            has_frontier=True,
        ),
        _Panel(
            against="cost",
            better="left",
            axis_label=f"{analysis.config.price.currency} per million output tokens\n{at_load}",
            x_of=lambda c: c.cost.estimate,
            shown=priced,
            has_frontier=True,
        ),
        _Panel(
            against="size",
            better="left",
            axis_label="effective bits per weight",
            x_of=_bits,
            shown=sized,
            has_frontier=False,
        ),
    ]
    return [panel for panel in panels if len(panel.shown) > 1]


def _description(subject: Subject, panels: Sequence[_Panel], *, limit_shown: bool) -> str:
    sides = [
        f"further {side} for {fmt.listing(names)}"
        for side in ("right", "left")
        if (names := [panel.against for panel in panels if panel.better == side])
    ]
    front = (
        " The line joins variants that no other beats on both cost (at one price the same as speed) and loss."
        if any(panel.has_frontier for panel in panels)
        else ""
    )
    limit = fmt.percent(subject.analysis.config.max_perplexity_increase)
    line = f"The dashed line is the limit, {limit}." if limit_shown else f"The limit, {limit}, is above the axis."
    return (
        f"Points are variants with 95 % intervals; lower is better, {', '.join(sides)}.{front} {line}"
        " Invalid numbers are left out."
    )


def _bits(candidate: Candidate) -> Estimate | None:
    value = candidate.cell.bits_per_weight
    return None if value is None else Estimate(value=value)


def _limit_lines(panels: Sequence[Axes], subject: Subject) -> bool:
    """A line at no change, and one at the limit where the common axis reaches it; returns whether it does."""
    limit = subject.analysis.config.max_perplexity_increase * 100
    reached = panels[0].get_ylim()[1] > limit
    for axes in panels:
        axes.axhline(0, color=subject.palette.muted, linewidth=0.8)
        if reached:
            axes.axhline(limit, color=subject.palette.muted, linewidth=0.8, linestyle=DASHED)
    return reached


def _scatter(axes: Axes, subject: Subject, panel: _Panel) -> _Points:
    """Draw the points of one panel."""
    palette = subject.palette
    points = [
        _Point(candidate=c, x=x, y=y)
        for c in panel.shown
        if (x := panel.x_of(c)) is not None and (y := _change(c)) is not None
    ]
    telling = {c.cell.id for c in _most_telling(subject, panel.shown)}
    others = [point for point in points if not subject.chosen(point.candidate)]
    sorted_points = _Points(
        chosen=[point for point in points if subject.chosen(point.candidate)],
        named=[point for point in others if point.candidate.cell.id in telling],
        rest=[point for point in others if point.candidate.cell.id not in telling],
        front=_front(points) if panel.has_frontier else [],
    )
    if len(sorted_points.front) > 1:
        axes.plot(*zip(*sorted_points.front, strict=True), color=palette.muted, linewidth=1, zorder=1)
    _marks(axes, sorted_points.rest, palette.muted, "o", 4)
    _marks(axes, sorted_points.named, palette.series[0], "o", 5)
    _marks(axes, sorted_points.chosen, palette.series[CHOSEN], MARKERS[CHOSEN], 7)
    axes.margins(x=0.16, y=0.18)
    return sorted_points


def _hover_texts(axes: Axes, points: _Points, prefix: str) -> dict[str, str]:
    """Lay the hover targets over the marks; returns the text of each by its id."""
    tooltips: dict[str, str] = {}
    for number, point in enumerate([*points.named, *points.chosen, *points.rest][:HOVERED]):
        gid = f"{prefix}-{number}"
        add_hover_target(axes, point.x.value, point.y.value, gid)
        tooltips[gid] = _point_text(point.candidate)
    return tooltips


def _labels(axes: Axes, subject: Subject, points: _Points) -> None:
    """Name the points, each beside its mark where nothing is yet; a name without room is left to the hover text."""
    named = [*points.chosen, *points.named]
    places = _pixels(axes, [(point.x.value, point.y.value) for point in named])
    others = _pixels(axes, [(point.x.value, point.y.value) for point in points.rest])
    taken = [Box.around(x, y, 6.0) for x, y in [*places, *others]]
    bars = [
        [(point.x.value, point.y.lo), (point.x.value, point.y.hi)]
        for point in named
        if point.y.lo is not None and point.y.hi is not None
    ]
    lines = [box for line in [points.front, *bars] for box in along(_pixels(axes, line))]
    inside = Box(*axes.bbox.extents)
    for point, place in zip(named, places, strict=True):
        text = chart_label(point.candidate.cell.variant_label)
        found = free_place(place, text, inside, taken, lines)
        if found is None:
            continue
        taken.append(found.box)
        axes.annotate(
            text,
            (point.x.value, point.y.value),
            xytext=found.offset_points,
            textcoords="offset points",
            ha=found.horizontal,
            va=found.vertical,
            fontsize=8.5,
            fontweight="bold" if subject.chosen(point.candidate) else "normal",
        )


def _pixels(axes: Axes, values: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in map(axes.transData.transform, values)]


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
            xerr=error_arms([point.x for point in points]),
            yerr=error_arms([point.y for point in points]),
            color=colour,
            elinewidth=1,
            marker=marker,
            markersize=size,
            linestyle="none",
        )


def _front(points: Sequence[_Point]) -> list[tuple[float, float]]:
    """The frontier's corners from left to right."""
    return sorted((point.x.value, point.y.value) for point in points if point.candidate.on_frontier)


def _most_telling(subject: Subject, shown: Sequence[Candidate]) -> list[Candidate]:
    """Those that get a label: all of a few; of many the chosen one, the baseline and some of the frontier."""
    if len(shown) <= LABELLED:
        return list(shown)
    first = [c for c in shown if c.is_baseline or subject.chosen(c)]
    front = [c for c in shown if c.on_frontier and c not in first]
    step = max(1, math.ceil(len(front) / (LABELLED - len(first))))
    return first + front[::step]


def _point_text(candidate: Candidate) -> str:
    """What hovering over a point tells; only what may be believed."""
    parts = [short(candidate.cell.label)]
    for name, reading in (("cost", candidate.cost), ("throughput", candidate.throughput)):
        if reading.usable and reading.estimate is not None:
            parts.append(f"{name} {fmt.significant(reading.estimate.value)} {reading.unit}")
    bits = candidate.cell.bits_per_weight
    if bits is not None:
        parts.append(f"{fmt.significant(bits)} bits per weight")
    change = candidate.loss.perplexity_change.estimate
    if change is not None:
        parts.append(f"perplexity {fmt.change(change.value)}")
    return "; ".join(parts)
