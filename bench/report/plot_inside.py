"""Charts of what went on inside a load: everything over time on one axis, and single requests from their parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bench.analysis.raw import read_columns
from bench.analysis.results import Measurement, text
from bench.report.clean import short
from bench.report.plots import Axis, Choice, Draw, Panel, Plot, Series, View
from bench.report.recorded import (
    NS_PER_MS,
    NS_PER_S,
    Floats,
    Recording,
    as_floats,
    bin_width_s,
    binned,
    chosen_rows,
    digits,
    end_ns,
    in_flight,
)

BINS = 120
SLOWEST, SAMPLED = 12, 8
WITH_EVENTS, EVENTS_SHOWN = 6, 40
PARTS = (
    ("waiting to be sent", "scheduled_ns", "sent_ns", 3),
    ("to the first token", "sent_ns", "first_token_ns", 1),
    ("tokens", "first_token_ns", "last_token_ns", 0),
    ("to the end", "last_token_ns", "done_ns", 5),
)
"""The stretches of a request: name, from, to, colour."""
FAILED_COLOUR = 4
Line = tuple[str, Floats, int]
"""A line over time: its name, a value a bin, its colour."""


@dataclass(frozen=True, kw_only=True)
class Inside:
    """The panels of one cell's load, and what is to be known of them."""

    cell: str
    load: str
    panels: Sequence[Panel]
    note: str


def over_time(found: Sequence[Inside]) -> Plot | None:
    """The plot of a run over time, a view a cell and load; None without any."""
    if not found:
        return None
    views, choices = _views(found, "Seconds since the first request was sent")
    return Plot(
        id="plot-time",
        section="runs",
        title="A run over time",
        note="Throughput and requests in flight as the client saw them, the server's own queue and cache, power and"
        " processor, on one axis of time. What was not recorded has no panel.",
        views=views,
        choices=choices,
    )


def single_requests(found: Sequence[Inside]) -> Plot | None:
    """The plot of single requests, a view a cell and load; None without any."""
    if not found:
        return None
    views, choices = _views(found, "ms since the request was scheduled")
    return Plot(
        id="plot-requests",
        section="runs",
        title="Single requests",
        note=f"The {SLOWEST} slowest requests of a load, the slowest on top, and below them an even sample of {SAMPLED}"
        " others: waiting in the client, time to the first token, and the tokens. Marks are token-bearing events.",
        views=views,
        choices=choices,
    )


def _views(found: Sequence[Inside], label: str) -> tuple[list[View], tuple[Choice, Choice]]:
    cells = list(dict.fromkeys(each.cell for each in found))
    loads = list(dict.fromkeys(each.load for each in found))
    views = [
        View(
            at=(cells.index(each.cell), loads.index(each.load)),
            x=Axis(label=label, may_be_log=False, zero=True),
            panels=each.panels,
            note=each.note,
        )
        for each in found
    ]
    return views, (Choice(name="Cell", options=cells), Choice(name="Load", options=loads))


def panels_over_time(recording: Recording, child: Measurement) -> tuple[list[Panel], str] | None:
    """Panels of a load over time, with what a bin holds in words; None where nothing ended."""
    sent, ended = recording.of("sent_ns"), end_ns(recording)
    known = np.isfinite(sent) & np.isfinite(ended)
    if not known.any():
        return None
    start = recording.start_ns
    duration_s = float(ended[known].max() - start) / NS_PER_S
    if duration_s <= 0:
        return None
    width = bin_width_s(duration_s, BINS)
    edges = np.arange(0, duration_s + width, width)
    panels = []
    if len(recording.event_ns):
        counted = bool(np.isfinite(recording.event_tokens).all())
        weights = recording.event_tokens if counted else np.ones(len(recording.event_ns))
        rate = binned((recording.event_ns - start) / NS_PER_S, weights, edges, "sum") / width
        what = "Output tokens/s" if counted else "Token-bearing events/s"
        panels.append(_panel(edges, what, 190, [(what.lower(), rate, 0)]))
    flying = in_flight((sent[known] - start) / NS_PER_S, (ended[known] - start) / NS_PER_S, edges)
    queue, cache = _of_server(child, start, edges)
    panels.append(_panel(edges, "Requests, largest", 190, [("in flight (client)", flying, 1), *queue]))
    if cache:
        panels.append(_panel(edges, "KV cache, %", 160, cache))
    panels += [_panel(edges, label, 160, lines) for label, lines in _of_machine(child, start, edges)]
    note = f"Bins of {width:g} s: tokens are added up, of requests and cache the largest value is drawn, of power and"
    return panels, f"{note} cores the mean."


def _panel(edges: Floats, label: str, height: int, lines: Sequence[Line]) -> Panel:
    begins: list[float | None] = [round(float(edge), 4) for edge in edges[:-1]]
    series = [Series(name=name, x=begins, y=digits(found), draw=Draw.STEP, colour=c) for name, found, c in lines]
    return Panel(y=Axis(label=label, zero=True, may_be_log=False), series=series, height=height)


def _of_server(child: Measurement, start: float, edges: Floats) -> tuple[list[Line], list[Line]]:
    """What the server told of its queue, and of its cache."""
    told = read_columns(child, "server_metrics.parquet", ("t_ns", "running", "waiting", "kv_cache_use")) or {}
    if "t_ns" not in told:
        return [], []
    at = (as_floats(told["t_ns"]) - start) / NS_PER_S

    def line(name: str, word: str, colour: int, factor: float = 1.0) -> list[Line]:
        values = as_floats(told[name]) if name in told else np.empty(0)
        if not np.isfinite(values).any():
            return []
        return [(f"{word} (server)", _held(binned(at, factor * values, edges, "max")), colour)]

    queue = [*line("running", "running", 2), *line("waiting", "waiting", 3)]
    return queue, line("kv_cache_use", "KV cache in use", 4, 100)


def _of_machine(child: Measurement, start: float, edges: Floats) -> list[tuple[str, list[Line]]]:
    """Power of GPUs and packages, and cores kept busy, from the machine's telemetry: label and lines."""
    told = read_columns(child, "telemetry.parquet", ("t_ns", "device", "metric", "value"))
    if not told or len(told) < 4:
        return []
    times = (as_floats(told["t_ns"]) - start) / NS_PER_S
    device, metric, values = np.asarray(told["device"]), np.asarray(told["metric"]), as_floats(told["value"])

    def of(name: object, what: str) -> tuple[Floats, Floats]:
        pick = (device == name) & (metric == what)
        return times[pick], values[pick]

    power: list[tuple[str, Floats]] = []
    cores: list[tuple[str, Floats]] = []
    for name in dict.fromkeys(device.tolist()):
        at, watts = of(name, "power_w")
        if len(at):
            power.append((str(name), binned(at, watts, edges, "mean")))
        elif name == "cpu_package":
            power.append(("processor packages", _rate(*of(name, "energy_j"), edges)))
        for counter, word in (("cpu_busy_s", "whole machine"), ("cpu_s", str(name))):
            if len(of(name, counter)[0]):
                cores.append((word, _rate(*of(name, counter), edges)))
    found = []
    for label, rows in (("Power, W", power), ("Cores busy", cores)):
        lines = [(word, _held(line), (5 + i) % 7) for i, (word, line) in enumerate(rows) if np.isfinite(line).any()]
        if lines:
            found.append((label, lines))
    return found


def _rate(at: Floats, counted: Floats, edges: Floats) -> Floats:
    """What a counter gained a second between samples, at the later sample."""
    if len(at) < 2:
        return np.full(len(edges) - 1, np.nan)
    span = np.diff(at)
    with np.errstate(invalid="ignore", divide="ignore"):
        gained = np.where(span > 0, np.diff(counted) / span, np.nan)
    return binned(at[1:], gained, edges, "mean")


def _held(values: Floats) -> Floats:
    """Samples are a second apart: a finer bin without one keeps the last value seen."""
    known = np.flatnonzero(np.isfinite(values))
    if not len(known):
        return values
    places = np.searchsorted(known, np.arange(len(values)), side="right") - 1
    return np.where(places >= 0, values[known[places.clip(min=0)]], np.nan)


def request_panel(recording: Recording) -> tuple[Panel, str] | None:
    """The slowest requests of a load and a sample, with what is shown of how many; None without any."""
    rows = chosen_rows(recording, SLOWEST, SAMPLED)
    if not rows:
        return None
    columns = {name: recording.of(name) for _, begin, end, _ in PARTS for name in (begin, end)}
    scheduled, sent = columns["scheduled_ns"], columns["sent_ns"]
    zero = np.where(np.isfinite(scheduled), scheduled, sent)
    places = {row: len(rows) - 1 - order for order, (row, _) in enumerate(rows)}
    series = []
    for name, begin, end, colour in PARTS:
        ends = [(row, columns[begin][row], columns[end][row]) for row in places]
        bars = [(row, (b - zero[row]) / NS_PER_MS, (e - zero[row]) / NS_PER_MS) for row, b, e in ends if e > b]
        series += _bars(recording, name, bars, places, colour)
    ended = end_ns(recording)
    tokenless = [row for row in places if not np.isfinite(columns["first_token_ns"][row])]
    bars = [(row, (sent[row] - zero[row]) / NS_PER_MS, (ended[row] - zero[row]) / NS_PER_MS) for row in tokenless]
    series += _bars(recording, "no token came", bars, places, FAILED_COLOUR)
    marks = _marks(recording, list(places)[:WITH_EVENTS], zero, places)
    ticks = {float(places[row]): f"{'slow ' if why == 'slow' else ''}#{row}" for row, why in rows}
    note = f"{len(rows)} of {int(recording.main.sum()):,} requests, numbered in sending order."
    if marks:
        note += f" Events of the first {min(WITH_EVENTS, len(rows))} only, at most {EVENTS_SHOWN} each, evenly spaced."
    panel = Panel(y=Axis(label="", may_be_log=False, ticks=ticks), series=[*series, *marks], height=60 + 22 * len(rows))
    return panel, note


def _bars(
    recording: Recording,
    name: str,
    bars: Sequence[tuple[int, float, float]],
    places: Mapping[int, int],
    colour: int,
) -> list[Series]:
    if not bars:
        return []
    begins, ends = (digits(np.array([bar[side] for bar in bars])) for side in (1, 2))
    return [
        Series(
            name=name,
            draw=Draw.BARS,
            colour=colour,
            x=ends,
            y=[float(places[row]) for row, _, _ in bars],
            x_lo=begins,
            x_hi=ends,
            told=[_told(recording, row) for row, _, _ in bars],
        )
    ]


def _told(recording: Recording, row: int) -> str:
    counted = ((recording.of("prompt_tokens")[row], "tokens in"), (recording.of("output_tokens")[row], "out"))
    words = [text(recording.words[name][row]) for name in ("error_kind", "error_message") if name in recording.words]
    status = text(recording.words["status"][row]) or "status unknown"
    return ", ".join(
        [*(f"{count:g} {word}" for count, word in counted if np.isfinite(count)), status]
        + [short(word, 120) for word in words if word]
    )


def _marks(recording: Recording, rows: Sequence[int], zero: Floats, places: Mapping[int, int]) -> list[Series]:
    xs: list[float] = []
    ys: list[float] = []
    for row in rows:
        own = recording.event_ns[recording.event_row == row]
        if len(own) > EVENTS_SHOWN:
            own = own[np.linspace(0, len(own) - 1, EVENTS_SHOWN).round().astype(int)]
        xs += ((own - zero[row]) / NS_PER_MS).tolist()
        ys += [float(places[row])] * len(own)
    return [Series(name="events", draw=Draw.POINTS, colour=2, faint=True, x=digits(np.array(xs)), y=ys)] if xs else []
