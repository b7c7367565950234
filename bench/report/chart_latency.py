"""The figure of how latency grows with load: medians and 99th percentiles of TTFT and ITL."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.analysis import formatting as fmt
from bench.analysis.candidates import Candidate
from bench.analysis.loads import Load
from bench.analysis.readings import read
from bench.report.clean import short
from bench.report.figures import DOTTED, MARKERS, Chart, Subject, chart_label, new_figure

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

NAME = "latency-against-load"


@dataclass(frozen=True, kw_only=True)
class _Point:
    x: float
    median_ms: float
    high_ms: float | None


def latency_chart(subject: Subject) -> Chart | None:
    """TTFT and ITL against concurrent streams, or against achieved requests/s with open loops; None without data."""
    loads = _one_workload(subject)
    by_streams = bool(loads) and all(load.concurrency is not None for load in loads)
    shown, left_out = _shown(subject)
    figure = new_figure()
    tooltips: dict[str, str] = {}
    for panel, (tag, title) in enumerate((("ttft", "Time to first token"), ("itl", "Time between tokens"))):
        axes = figure.add_subplot(1, 2, panel + 1)
        axes.set_title(title)
        for number, candidate in enumerate(shown):
            points = _points(candidate, loads, tag, by_streams=by_streams)
            tooltips |= _curve(axes, subject, candidate, points, f"curve{panel}-{number}")
        axes.set_xlabel("concurrent streams" if by_streams else "requests per second achieved")
        axes.set_ylabel("ms" if panel == 0 else "")
        axes.set_ylim(bottom=0)
        if by_streams:
            _stream_axis(axes, sorted({load.concurrency for load in loads if load.concurrency is not None}))
    if not tooltips:
        return None
    legend: dict[str, Artist] = {}
    for axes in figure.axes:
        handles, labels = axes.get_legend_handles_labels()
        legend |= {str(label): handle for label, handle in zip(labels, handles, strict=True)}
    figure.legend(list(legend.values()), list(legend), loc="outside lower center", ncols=min(4, len(legend)))
    rest = f" {left_out} further cells are in the table only." if left_out else ""
    return Chart(
        name=NAME,
        title="How latency grows with load",
        description=(
            f"Loads {fmt.listing([short(load.name) for load in loads])}. Solid lines are medians, dotted lines 99th"
            f" percentiles; lower is better. Only valid numbers are drawn.{rest}"
        ),
        figure=figure,
        tooltips=tooltips,
    )


def _one_workload(subject: Subject) -> list[Load]:
    """The loads over the priced load's workload: a curve joins only what was asked alike."""
    reference = subject.analysis.reference
    return [load for load in subject.analysis.loads if reference is not None and load.workload == reference.workload]


def _shown(subject: Subject) -> tuple[list[Candidate], int]:
    """One cell a colour: the chosen one and the baseline first, then the cheapest; and how many are left out."""
    eligible = [c for c in subject.analysis.candidates if c.excluded is None and c.cell.scenarios]
    room = len(subject.palette.series)
    if len(eligible) <= room:
        return eligible, 0

    def rank(candidate: Candidate) -> tuple[bool, bool, float]:
        told = subject.chosen(candidate) or candidate.is_baseline
        cost = candidate.cost.estimate
        return not told, not candidate.rankable, cost.value if cost else math.inf

    return sorted(eligible, key=rank)[:room], len(eligible) - room


def _points(candidate: Candidate, loads: Sequence[Load], tag: str, *, by_streams: bool) -> list[_Point]:
    points = []
    for load in loads:
        if candidate.cell.id not in load.cells:
            continue
        median = read(candidate.cell, "scenarios", load.name, tag, "p50")
        high = read(candidate.cell, "scenarios", load.name, tag, "p99")
        achieved = read(candidate.cell, "scenarios", load.name, "request_throughput").estimate
        x = load.concurrency if by_streams else (achieved.value if achieved is not None else None)
        if x is not None and median.usable and median.estimate is not None:
            high_ms = high.estimate.value if high.estimate is not None else None
            points.append(_Point(x=x, median_ms=median.estimate.value, high_ms=high_ms))
    return sorted(points, key=lambda point: point.x)


def _curve(axes: Axes, subject: Subject, candidate: Candidate, points: Sequence[_Point], prefix: str) -> dict[str, str]:
    """Draw one cell's two lines; returns the hover text of each median by its id."""
    if not points:
        return {}
    number = int(prefix.rpartition("-")[2])
    colour = subject.palette.series[number % len(subject.palette.series)]
    marker = MARKERS[number % len(MARKERS)]
    axes.plot(
        [point.x for point in points],
        [point.median_ms for point in points],
        color=colour,
        marker=marker,
        markersize=4.5,
        linewidth=1.6,
        label=chart_label(candidate.cell.label),
    )
    highs = [(point.x, point.high_ms) for point in points if point.high_ms is not None]
    if highs:
        axes.plot(*zip(*highs, strict=True), color=colour, marker=marker, markersize=3, linewidth=1, linestyle=DOTTED)
    tooltips = {}
    for index, point in enumerate(points):
        # An invisible, larger mark on top takes the pointer.
        target = axes.plot(point.x, point.median_ms, marker="o", markersize=12, alpha=0, linestyle="none")[0]
        target.set_gid(f"{prefix}-{index}")
        tooltips[f"{prefix}-{index}"] = f"{short(candidate.cell.label)}: median {fmt.significant(point.median_ms)} ms"
    return tooltips


def _stream_axis(axes: Axes, streams: Sequence[float]) -> None:
    """A tick at each load that was run; logarithmic, because streams double from load to load."""
    if len(streams) > 1 and streams[-1] / streams[0] > 2:
        axes.set_xscale("log", base=2)
    axes.set_xticks(list(streams), [f"{value:g}" for value in streams], minor=False)
    axes.set_xticks([], minor=True)
