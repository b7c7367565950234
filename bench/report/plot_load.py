"""The chart of how a variant does as load grows: latency, throughput and cost against what was asked or reached."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.analysis.candidates import Analysis, Candidate
from bench.analysis.estimate import Estimate
from bench.analysis.loads import Load
from bench.analysis.readings import read
from bench.analysis.results import number, text
from bench.report.plot_variants import usable
from bench.report.plots import Axis, Cast, Choice, Draw, Panel, Plot, Series, View


@dataclass(frozen=True, kw_only=True)
class Process:
    """The loads of one arrival process over one workload; `x_of` is what was asked at each."""

    name: str
    unit: str
    loads: tuple[Load, ...]


@dataclass(frozen=True, kw_only=True)
class Figure:
    """What stands upward: statistics of one metric; the later ones are drawn faintly."""

    name: str
    label: str
    tag: str
    statistics: tuple[str | None, ...] = ("p50", "p99")


FIGURES = (
    Figure(name="time to first token", label="TTFT, ms", tag="ttft"),
    Figure(name="time between tokens", label="ITL, ms", tag="itl"),
    Figure(name="whole request", label="End-to-end latency, ms", tag="e2e_latency"),
    Figure(name="output tokens/s", label="Output tokens/s", tag="output_throughput", statistics=(None,)),
    Figure(name="requests/s", label="Requests/s", tag="request_throughput", statistics=(None,)),
)
ASKED, REACHED = "what was asked", "throughput reached"


def load_curves(cast: Cast) -> Plot | None:
    """Latency and throughput against load, a curve a variant; None without a load."""
    processes = processes_of(cast.analysis)
    if not processes:
        return None
    across = (ASKED, REACHED)
    views = [
        view
        for p, process in enumerate(processes)
        for f, figure in enumerate(FIGURES)
        for a, against in enumerate(across)
        if (view := _view(cast, (f, p, a), process, figure, against)) is not None
    ]
    if not views:
        return None
    return Plot(
        id="plot-load",
        section="latency",
        title="How a variant does as load grows",
        note="Full lines and large marks are medians or totals, dotted lines and small marks 99th percentiles, with"
        " 95 % intervals as bars. A line joins loads of one arrival process over the same workload. Only"
        " valid numbers are drawn.",
        views=views,
        choices=(
            Choice(name="Show", options=[figure.name for figure in FIGURES]),
            Choice(name="Loads", options=[process.name for process in processes]),
            Choice(name="Against", options=across),
        ),
    )


def processes_of(analysis: Analysis) -> list[Process]:
    """Arrival processes with their loads, those over the priced load's workload first; closed loops first."""
    reference = analysis.reference
    grouped: dict[tuple[bool, bool, str, str], list[Load]] = {}
    for load in analysis.loads:
        if asked(load) is None:
            continue
        own = reference is not None and load.workload == reference.workload
        kind = "closed loop" if load.concurrency is not None else f"{text(load.config.get('kind')) or 'open'} arrivals"
        grouped.setdefault((not own, load.concurrency is None, kind, workload_name(load)), []).append(load)
    several = len({key[3] for key in grouped}) > 1
    return [
        Process(
            name=f"{kind}, {workload}" if several and workload else kind,
            unit="Requests/s asked" if is_open else "Concurrent streams asked",
            loads=tuple(sorted(loads, key=lambda load: asked(load) or 0.0)),
        )
        for (_, is_open, kind, workload), loads in sorted(grouped.items(), key=lambda item: item[0][:2])
    ]


def workload_name(load: Load) -> str:
    """A workload in a few words."""
    tokens = [number(load.workload.get(name)) for name in ("input_tokens", "output_tokens")]
    api = text(load.workload.get("api"))
    if tokens[0] is None or tokens[1] is None:
        return text(load.workload.get("kind")) or ""
    return f"{tokens[0]:g} in, {tokens[1]:g} out" + (f", {api}" if api else "")


def asked(load: Load) -> float | None:
    """How much a load asks: concurrent streams, or requests a second."""
    return load.concurrency if load.concurrency is not None else number(load.config.get("rate_per_s"))


def _view(cast: Cast, at: tuple[int, int, int], process: Process, figure: Figure, against: str) -> View | None:
    if against == REACHED and figure.tag.endswith("_throughput"):
        return None
    series: list[Series] = []
    for candidate in cast.compared:
        series += _curves(cast, candidate, process, figure, against)
    if not series:
        return None
    several = against == REACHED or len(process.loads) > 2
    label = "Output tokens/s reached" if against == REACHED else process.unit
    spread = [asked(load) or 0.0 for load in process.loads]
    return View(
        at=at,
        x=Axis(
            label=label,
            zero=True,
            log=against == ASKED and several and min(spread) > 0 and max(spread) >= 16 * min(spread),
        ),
        panels=[Panel(y=Axis(label=figure.label, zero=True), series=series, height=360)],
        note=_describe(process.loads),
    )


def _describe(loads: Sequence[Load]) -> str:
    return (
        "Loads: "
        + "; ".join(f"{load.name} ({load.description})" for load in loads[:8])
        + (f"; and {len(loads) - 8} more" if len(loads) > 8 else "")
        + "."
    )


def _curves(cast: Cast, candidate: Candidate, process: Process, figure: Figure, against: str) -> list[Series]:
    found = []
    look = cast.look(candidate)
    for order, statistic in enumerate(figure.statistics):
        points: list[tuple[float, Estimate, str]] = []
        for load in process.loads:
            if candidate.cell.id not in load.cells:
                continue
            y = usable(read(candidate.cell, "scenarios", load.name, figure.tag, statistic))
            reached = usable(read(candidate.cell, "scenarios", load.name, "output_throughput"))
            x = asked(load) if against == ASKED else None if reached is None else reached.value
            if x is not None and y is not None:
                points.append((x, y, load.name))
        if points:
            found.append(
                Series(
                    name=candidate.cell.label,
                    part=statistic or "",
                    colour=look.colour,
                    shown=look.shown,
                    faint=order > 0,
                    draw=Draw.LINE_POINTS,
                    x=[x for x, _, _ in points],
                    y=[y.value for _, y, _ in points],
                    lo=[y.lo for _, y, _ in points],
                    hi=[y.hi for _, y, _ in points],
                    told=[f"load {name}" for _, _, name in points],
                )
            )
    return found


PlotOf = Callable[[Cast], Plot | None]
