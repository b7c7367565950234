"""Charts of raw recordings: distributions here, what went on inside a load beside it; each recording is read once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bench.analysis.candidates import Candidate
from bench.analysis.results import Measurement
from bench.report.plot_inside import Inside, over_time, panels_over_time, request_panel, single_requests
from bench.report.plots import Axis, Cast, Choice, Draw, Panel, Plot, Series, View
from bench.report.recorded import Curve, digits, distributions, read_recording

DETAILED_CELLS = 60
DETAILED_LOADS = 150
"""Recordings that are drawn in detail; of more, those of the cells and loads that come first."""
CURVE_POINTS = 90_000
METRICS = {
    "ttft": "Time to first token, ms",
    "ttft_from_schedule": "Time to first token from the schedule, ms",
    "tpot": "Time per output token of a request, ms",
    "inter_chunk_gap": "Gap between events, ms",
    "e2e_latency": "Whole request, ms",
}


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """One load of one cell in detail."""

    candidate: Candidate
    load: str
    curves: dict[str, Curve]
    over_time: Inside | None
    requests: Inside | None
    events_cut: bool


def raw_plots(cast: Cast) -> tuple[list[Plot], str]:
    """Distributions, a run over time and single requests, of what was recorded; and what is left out, in words."""
    wanted = _wanted(cast)[:DETAILED_LOADS]
    points = int(np.clip(CURVE_POINTS // max(1, len(wanted) * len(METRICS)), 24, 100))
    read = (_recorded(candidate, child, points) for candidate, child in wanted)
    found = [recorded for recorded in read if recorded is not None]
    plots = [
        _distributions(cast, found),
        over_time([each.over_time for each in found if each.over_time is not None]),
        single_requests([each.requests for each in found if each.requests is not None]),
    ]
    return [plot for plot in plots if plot is not None], _left_out(cast, len(wanted)) if found else ""


def _left_out(cast: Cast, kept: int) -> str:
    total = sum(len(candidate.cell.scenarios) for candidate in cast.candidates)
    if kept == total:
        return ""
    return (
        f"Raw recordings are drawn of {kept} of {total} loads: of the recommended cell, the baseline and the cheapest."
        " All are in the run's folder."
    )


def _wanted(cast: Cast) -> list[tuple[Candidate, Measurement]]:
    """Recordings, the priced load first, the cells in the cast's order."""
    reference = cast.analysis.reference
    order = [load.name for load in cast.analysis.loads]
    if reference is not None:
        order = [reference.name, *(name for name in order if name != reference.name)]
    cells = [candidate for candidate in cast.candidates if candidate.cell.scenarios][:DETAILED_CELLS]
    return [(c, c.cell.scenarios[name]) for name in order for c in cells if name in c.cell.scenarios]


def _recorded(candidate: Candidate, child: Measurement, points: int) -> Recorded | None:
    recording = read_recording(child)
    if recording is None:
        return None
    cell, load = candidate.cell.label, child.name
    timed, requests = panels_over_time(recording, child), request_panel(recording)
    return Recorded(
        candidate=candidate,
        load=load,
        curves=distributions(recording, points),
        over_time=None if timed is None else Inside(cell=cell, load=load, panels=timed[0], note=timed[1]),
        requests=None if requests is None else Inside(cell=cell, load=load, panels=[requests[0]], note=requests[1]),
        events_cut=recording.events_cut,
    )


def _distributions(cast: Cast, found: Sequence[Recorded]) -> Plot | None:
    loads = list(dict.fromkeys(each.load for each in found))
    metrics = [metric for metric in METRICS if any(metric in each.curves for each in found)]
    views = []
    for m, metric in enumerate(metrics):
        for place, load in enumerate(loads):
            curves = [(e.candidate, e.curves[metric]) for e in found if e.load == load and metric in e.curves]
            if curves:
                y = Axis(label="Values at or below, %", zero=True, may_be_log=False)
                panels = [Panel(y=y, series=[_curve(cast, *each) for each in curves], height=360)]
                note = _thinned([curve for _, curve in curves])
                views.append(View(at=(m, place), x=Axis(label=METRICS[metric]), panels=panels, note=note))
    if not views:
        return None
    cut = " Of some recordings only the first 4,000,000 events were read." if any(e.events_cut for e in found) else ""
    return Plot(
        id="plot-distribution",
        section="latency",
        title="Distributions of latency",
        note="Empirical distributions of single values, of requests that succeeded in the window: the share of values"
        f" at or below each latency. They are drawn whether or not their summary may be believed: see validity.{cut}",
        views=views,
        choices=(
            Choice(name="Show", options=[METRICS[metric].removesuffix(", ms") for metric in metrics]),
            Choice(name="Load", options=loads),
        ),
    )


def _curve(cast: Cast, candidate: Candidate, curve: Curve) -> Series:
    look = cast.look(candidate)
    return Series(
        name=candidate.cell.label,
        part=f"{curve.n:,} value{'s' if curve.n > 1 else ''}",
        colour=look.colour,
        shown=look.shown,
        draw=Draw.STEP if curve.whole else Draw.LINE,
        x=digits(curve.at),
        y=digits(100 * curve.share),
    )


def _thinned(curves: Sequence[Curve]) -> str:
    """What is drawn of many values."""
    most = max((len(curve.at) for curve in curves if not curve.whole), default=0)
    if not most:
        return "Every value is drawn."
    return (
        f"Of many values at most {most} are drawn a curve: exact order statistics, the upper tail finer, joined by"
        " straight lines."
    )
