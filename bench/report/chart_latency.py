"""The figure of how latency grows with load: medians and 99th percentiles of TTFT and ITL.

Loads of one arrival process are joined by a line. Those of different ones are not: four streams that wait for their
answers and four requests a second that do not are no steps of one thing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.analysis import formatting as fmt
from bench.analysis.candidates import Candidate
from bench.analysis.loads import Load
from bench.analysis.readings import read
from bench.analysis.results import number, text
from bench.report import tables
from bench.report.clean import short
from bench.report.figures import (
    CHOSEN,
    DOTTED,
    MARKERS,
    Chart,
    Subject,
    add_hover_target,
    chart_label,
    make_logarithmic,
    new_figure,
    spread_widely,
)

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

NAME = "latency-against-load"
CLOSED = "closed loop"


@dataclass(frozen=True, kw_only=True)
class _Arrivals:
    """The loads of one arrival process, by what was asked: concurrent streams, or requests a second."""

    process: str
    loads: tuple[Load, ...]
    start: int

    @property
    def asked(self) -> list[float]:
        """Each load's place on the axis, one after the other from `start`."""
        return sorted({value for load in self.loads if (value := _asked(load)) is not None})

    @property
    def unit(self) -> str:
        """What the numbers along the axis are."""
        return "concurrent streams" if self.process == CLOSED else "requests/s"

    @property
    def centre(self) -> float:
        """The middle of its part of the axis."""
        return self.start + (len(self.asked) - 1) / 2

    def position(self, load: Load) -> float:
        """Where a load stands."""
        return self.start + self.asked.index(_asked(load) or 0.0)


@dataclass(frozen=True, kw_only=True)
class _Point:
    x: float
    load: str
    median_ms: float
    high_ms: float | None


def latency_chart(subject: Subject) -> Chart | None:
    """TTFT and ITL at each load over the priced load's workload, per arrival process; None without data."""
    arrivals = _arrivals(subject)
    loads = [load for one in arrivals for load in one.loads]
    if not loads:
        return None
    shown, left_out = _shown(subject)
    figure = new_figure(3.5 if len(arrivals) < 2 else 3.8)
    tooltips: dict[str, str] = {}
    for panel, (tag, title) in enumerate((("ttft", "Time to first token"), ("itl", "Time between tokens"))):
        axes = figure.add_subplot(1, 2, panel + 1)
        axes.set_title(title)
        drawn: list[_Point] = []
        for index, (candidate, look) in enumerate(zip(shown, _looks(subject, shown), strict=True)):
            curves = [_points(candidate, one, tag, _dodge(index, len(shown))) for one in arrivals]
            tooltips |= _curves(axes, candidate, look, curves, f"curve{panel}-{index}")
            drawn += [point for curve in curves for point in curve]
        axes.set_ylabel("ms" if panel == 0 else "")
        _latency_axis(axes, drawn)
        _load_axis(axes, subject, arrivals)
    if not tooltips:
        return None
    legend: dict[str, Artist] = {}
    for axes in figure.axes:
        handles, labels = axes.get_legend_handles_labels()
        legend |= {str(label): handle for label, handle in zip(labels, handles, strict=True)}
    figure.legend(list(legend.values()), list(legend), loc="outside lower center", ncols=min(4, len(legend)))
    apart = " Lines join loads of one arrival process only." if len(arrivals) > 1 else ""
    rest = f" {left_out} further cells are in the table only." if left_out else ""
    return Chart(
        name=NAME,
        title="How latency grows with load",
        description=(
            f"Loads {fmt.listing([short(load.name) for load in loads])}. Solid lines and large marks are medians,"
            " dotted lines and small marks 99th percentiles; lower is better. Loads stand evenly spaced in the order"
            f" of what was asked.{apart} Only valid numbers are drawn.{rest}"
        ),
        section="latency",
        tables=("latency",),
        figure=figure,
        tooltips=tooltips,
    )


def _arrivals(subject: Subject) -> list[_Arrivals]:
    """The loads over the priced load's workload, for a curve joins only what was asked alike; closed loops first."""
    reference = subject.analysis.reference
    by_process: dict[str, list[Load]] = {}
    for load in subject.analysis.loads:
        if reference is not None and load.workload == reference.workload and _asked(load) is not None:
            by_process.setdefault(_process(load), []).append(load)
    arrivals: list[_Arrivals] = []
    for process, loads in sorted(by_process.items(), key=lambda item: item[0] != CLOSED):
        start = arrivals[-1].start + len(arrivals[-1].asked) if arrivals else 0
        arrivals.append(_Arrivals(process=process, loads=tuple(loads), start=start))
    return arrivals


def _process(load: Load) -> str:
    if load.concurrency is not None:
        return CLOSED
    return chart_label(text(load.config.get("kind")) or "open loop")


def _asked(load: Load) -> float | None:
    return load.concurrency if load.concurrency is not None else number(load.config.get("rate_per_s"))


def _shown(subject: Subject) -> tuple[list[Candidate], int]:
    """One cell a colour: the chosen one and the baseline first, then the cheapest; and how many are left out."""
    eligible = [c for c in tables.in_order(subject.analysis) if c.excluded is None and c.cell.scenarios]
    room = len(subject.palette.series)
    if len(eligible) <= room:
        return eligible, 0

    def rank(candidate: Candidate) -> tuple[bool, bool, float]:
        told = subject.chosen(candidate) or candidate.is_baseline
        cost = candidate.cost.estimate
        return not told, not candidate.rankable, cost.value if cost else math.inf

    return sorted(eligible, key=rank)[:room], len(eligible) - room


def _looks(subject: Subject, shown: Sequence[Candidate]) -> list[tuple[str, str]]:
    """Colour and marker of each cell; the chosen one looks as it does in the other figures."""
    looks = list(zip(subject.palette.series, MARKERS, strict=True))
    if not any(map(subject.chosen, shown)):
        return looks[: len(shown)]
    others = iter(looks[:CHOSEN] + looks[CHOSEN + 1 :])
    return [looks[CHOSEN] if subject.chosen(candidate) else next(others) for candidate in shown]


def _dodge(index: int, of: int) -> float:
    """How far a cell's marks stand beside their load's place, so that cells do not hide each other."""
    return 0.06 * (index - (of - 1) / 2)


def _points(candidate: Candidate, arrivals: _Arrivals, tag: str, dodge: float) -> list[_Point]:
    points = []
    for load in arrivals.loads:
        if candidate.cell.id not in load.cells:
            continue
        median = read(candidate.cell, "scenarios", load.name, tag, "p50")
        high = read(candidate.cell, "scenarios", load.name, tag, "p99")
        if median.usable and median.estimate is not None:
            high_ms = high.estimate.value if high.usable and high.estimate is not None else None
            x = arrivals.position(load) + dodge
            points.append(_Point(x=x, load=load.name, median_ms=median.estimate.value, high_ms=high_ms))
    return sorted(points, key=lambda point: point.x)


def _curves(
    axes: Axes, candidate: Candidate, look: tuple[str, str], curves: Sequence[Sequence[_Point]], prefix: str
) -> dict[str, str]:
    """Draw one cell's two lines for each arrival process; returns the hover text of each median by its id."""
    colour, marker = look
    tooltips: dict[str, str] = {}
    for points in curves:
        axes.plot(
            [point.x for point in points],
            [point.median_ms for point in points],
            color=colour,
            marker=marker,
            markersize=4.5,
            linewidth=1.6,
            label=chart_label(candidate.cell.label) if points else None,
        )
        highs = [(point.x, point.high_ms) for point in points if point.high_ms is not None]
        if highs:
            xs, values = zip(*highs, strict=True)
            axes.plot(xs, values, color=colour, marker=marker, markersize=2.5, linewidth=1, linestyle=DOTTED)
        for point in points:
            gid = f"{prefix}-{len(tooltips)}"
            add_hover_target(axes, point.x, point.median_ms, gid)
            high = "" if point.high_ms is None else f", p99 {fmt.significant(point.high_ms)} ms"
            at = f"{short(candidate.cell.label)} at {short(point.load)}"
            tooltips[gid] = f"{at}: median {fmt.significant(point.median_ms)} ms{high}"
    return tooltips


def _latency_axis(axes: Axes, points: Sequence[_Point]) -> None:
    """From zero, or logarithmic where slow loads would press the fast ones flat."""
    values = [value for point in points for value in (point.median_ms, point.high_ms) if value is not None]
    if spread_widely(values):
        make_logarithmic(axes, "y")
    else:
        axes.set_ylim(bottom=0)


def _load_axis(axes: Axes, subject: Subject, arrivals: Sequence[_Arrivals]) -> None:
    """A tick at each load that was run; with several arrival processes a rule between them, and each named."""
    ticks = [(one.start + place, f"{value:g}") for one in arrivals for place, value in enumerate(one.asked)]
    axes.set_xticks([place for place, _ in ticks], [label for _, label in ticks])
    axes.set_xlim(-0.5, len(ticks) - 0.5)
    axes.grid(visible=False, axis="x")
    if len(arrivals) == 1:
        axes.set_xlabel(f"{arrivals[0].unit}, {arrivals[0].process}")
        return
    for one in arrivals:
        if one.start:
            axes.axvline(one.start - 0.5, color=subject.palette.muted, linewidth=0.8)
        axes.annotate(
            f"{one.unit}\n{one.process}",
            (one.centre, 0),
            xycoords=axes.get_xaxis_transform(),
            xytext=(0, -20),
            textcoords="offset points",
            ha="center",
            va="top",
            fontsize=8.5,
        )
