"""Raw recordings as charts need them: one pass a measurement, columns only, and what is kept is small.

What is drawn of many values says what it is: points of a distribution are exact order statistics, a bin of a time
series holds a named aggregate, and requests are the slowest and an even sample.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.analysis.raw import read_columns
from bench.analysis.results import Measurement, mapping, number

Floats = npt.NDArray[np.float64]
NS_PER_MS = 1e6
NS_PER_S = 1e9
MOST_EVENTS = 4_000_000
"""Of a larger events file the requests that come first are read, up to so many events."""
WIDTHS_S = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600)
_NUMBERS = (
    *("request_id", "scheduled_ns", "sent_ns", "first_token_ns", "last_token_ns", "done_ns"),
    *("prompt_tokens", "output_tokens"),
)
_WORDS = ("status", "phase", "error_kind", "error_message", "finish_reason")


@dataclass(frozen=True, kw_only=True)
class Curve:
    """An empirical distribution: `share[i]` of `n` values are at most `at[i]`; `whole`: every value is in it."""

    at: Floats
    share: Floats
    n: int

    @property
    def whole(self) -> bool:
        """Whether every value is a point of the curve."""
        return len(self.at) == self.n


@dataclass(frozen=True, kw_only=True)
class Recording:
    """The requests and events of one load; times in ns, nan is missing. `measured`: succeeded in the summary's window.

    All arrays of requests have one entry a request, in order of sending, warm-up included. `event_row` is an event's
    place among the requests; `events_cut`: not every event was read.
    """

    numbers: Mapping[str, Floats]
    words: Mapping[str, npt.NDArray[np.object_]]
    main: npt.NDArray[np.bool_]
    measured: npt.NDArray[np.bool_]
    event_row: npt.NDArray[np.int64]
    event_ns: Floats
    event_tokens: Floats
    events_cut: bool = False

    def __len__(self) -> int:
        return len(self.main)

    def of(self, name: str) -> Floats:
        """A column of numbers; nan throughout where it was not recorded."""
        return self.numbers.get(name, np.full(len(self), np.nan))

    @property
    def start_ns(self) -> float:
        """When the first request was sent."""
        return float(np.nanmin(self.of("sent_ns")))


def read_recording(measurement: Measurement) -> Recording | None:
    """A load's recording; None where its requests are missing, damaged or lack what is needed."""
    columns = read_columns(measurement, "requests.parquet", (*_NUMBERS, *_WORDS))
    if columns is None or not {"sent_ns", "status"} <= columns.keys() or not len(columns["status"]):
        return None
    sent = as_floats(columns["sent_ns"])
    if not np.isfinite(sent).any():
        return None
    order = np.argsort(np.where(np.isfinite(sent), sent, np.inf), kind="stable")
    ids = columns.pop("request_id", None)
    numbers = {name: as_floats(columns[name])[order] for name in _NUMBERS if name in columns}
    words = {name: np.asarray(columns[name], dtype=object)[order] for name in _WORDS if name in columns}
    main = words["phase"] != "warmup" if "phase" in words else np.ones(len(sent), dtype=bool)
    window = mapping(measurement.summary.get("window"))
    start, end = number(window.get("start_ns")), number(window.get("end_ns"))
    inside = np.isfinite(numbers["sent_ns"])
    if start is not None and end is not None and end > start:
        inside &= (numbers["sent_ns"] >= start) & (numbers["sent_ns"] <= end)
    row, ns, tokens, cut = _events(measurement, None if ids is None else np.asarray(ids)[order])
    return Recording(
        numbers=numbers,
        words=words,
        main=main,
        measured=main & inside & (words["status"] == "ok"),
        event_row=row,
        event_ns=ns,
        event_tokens=tokens,
        events_cut=cut,
    )


def as_floats(values: Any) -> Floats:
    """Numbers of a column; what is none becomes nan."""
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        return np.full(len(values), np.nan)


def _events(measurement: Measurement, ids: Any) -> tuple[npt.NDArray[np.int64], Floats, Floats, bool]:
    """Events by their request's row, in order of time within it."""
    nothing = (np.empty(0, dtype=np.int64), np.empty(0), np.empty(0), False)
    if ids is None or ids.dtype.kind not in "iu":
        return nothing
    columns = read_columns(measurement, "events.parquet", ("request_id", "ns", "tokens"))
    if columns is None or not {"request_id", "ns"} <= columns.keys():
        return nothing
    owner = np.asarray(columns["request_id"])
    if owner.dtype.kind not in "iu" or not len(owner):
        return nothing
    cut = len(owner) > MOST_EVENTS
    kept = slice(0, MOST_EVENTS)
    by_id = np.argsort(ids, kind="stable")
    place = np.searchsorted(ids[by_id], owner[kept]).clip(max=len(ids) - 1)
    row = by_id[place]
    known = ids[row] == owner[kept]
    ns = as_floats(columns["ns"])[kept][known]
    tokens = as_floats(columns["tokens"])[kept][known] if "tokens" in columns else np.full(len(ns), np.nan)
    row = row[known].astype(np.int64)
    order = np.lexsort((ns, row))
    return row[order], ns[order], tokens[order], cut


def distributions(recording: Recording, points: int) -> dict[str, Curve]:
    """Distributions in ms by metric, of measured requests; of gaps between their events too."""
    sent, first, last = (recording.of(name) for name in ("sent_ns", "first_token_ns", "last_token_ns"))
    tokens = recording.of("output_tokens")
    kept = recording.measured
    with np.errstate(invalid="ignore", divide="ignore"):
        per_token = np.where(tokens >= 2, (last - first) / np.maximum(tokens - 1, 1), np.nan)
    values = {
        "ttft": (first - sent)[kept],
        "ttft_from_schedule": (first - recording.of("scheduled_ns"))[kept],
        "tpot": per_token[kept],
        "e2e_latency": (last - sent)[kept],
    }
    if len(recording.event_ns):
        same = np.diff(recording.event_row) == 0
        values["inter_chunk_gap"] = np.diff(recording.event_ns)[same & kept[recording.event_row[1:]]]
    curves = {name: curve_of(found / NS_PER_MS, points) for name, found in values.items()}
    return {name: curve for name, curve in curves.items() if curve is not None}


def curve_of(values: Floats, points: int) -> Curve | None:
    """The distribution of `values` at about `points` ranks at most: all, or evenly spaced with the upper tail finer.

    Every point is a value that was measured, and its share is exact. None without a value.
    """
    known = np.sort(values[np.isfinite(values)])
    n = len(known)
    if n == 0:
        return None
    if n <= points:
        ranks = np.arange(n)
    else:
        tail = max(4, points // 4)
        even = np.linspace(0, n - 1, points - tail)
        fine = n - 1 - np.geomspace(0.1 * n, 1, tail) + 1
        ranks = np.unique(np.concatenate([even, fine, [n - 1]]).round().astype(np.int64).clip(0, n - 1))
    return Curve(at=known[ranks], share=np.searchsorted(known, known[ranks], side="right") / n, n=n)


def bin_width_s(duration_s: float, bins: int) -> float:
    """The finest usual width that cuts `duration_s` into at most `bins`."""
    return next((width for width in WIDTHS_S if duration_s / width <= bins), duration_s / bins)


def in_flight(starts: Floats, stops: Floats, edges: Floats) -> Floats:
    """The largest number of requests in flight in each bin of `edges` (bins + 1 times); shape (bins,)."""
    times = np.concatenate([starts, stops])
    steps = np.concatenate([np.ones(len(starts)), -np.ones(len(stops))])
    # At equal times an end comes first: what follows at once is not in flight together.
    order = np.lexsort((steps, times))
    times, level = times[order], np.cumsum(steps[order])
    places = np.searchsorted(times, edges)
    found = np.zeros(len(edges) - 1)
    for index, (begin, end) in enumerate(itertools.pairwise(places)):
        before = level[begin - 1] if begin else 0.0
        found[index] = max(before, level[begin:end].max()) if end > begin else before
    return found


def binned(times: Floats, values: Floats, edges: Floats, how: str) -> Floats:
    """`sum`, `mean` or `max` of the values in each bin; nan (of a sum: 0) where there is none."""
    bins = len(edges) - 1
    place = np.searchsorted(edges, times, side="right") - 1
    kept = (place >= 0) & (place < bins) & np.isfinite(values)
    place, values = place[kept], values[kept]
    if how == "max":
        found = np.full(bins, -np.inf)
        np.maximum.at(found, place, values)
        return np.where(np.isfinite(found), found, np.nan)
    total: Floats = np.bincount(place, weights=values, minlength=bins).astype(np.float64)
    if how == "sum":
        return total
    count = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(count > 0, total / count, np.nan)


def chosen_rows(recording: Recording, slowest: int, sample: int) -> Sequence[tuple[int, str]]:
    """Rows of requests and why: the slowest by time from schedule to end, then an even sample in sending order."""
    began = np.where(np.isfinite(recording.of("scheduled_ns")), recording.of("scheduled_ns"), recording.of("sent_ns"))
    took = _end_ns(recording) - began
    rows = np.flatnonzero(recording.main & np.isfinite(took))
    by_time = rows[np.argsort(-took[rows], kind="stable")]
    found = [(int(row), "slow") for row in by_time[:slowest]]
    taken = {row for row, _ in found}
    spaced = rows[np.linspace(0, len(rows) - 1, min(sample, len(rows))).round().astype(int)] if len(rows) else rows
    return [*found, *((int(row), "sample") for row in dict.fromkeys(spaced.tolist()) if row not in taken)]


def _end_ns(recording: Recording) -> Floats:
    done, last = recording.of("done_ns"), recording.of("last_token_ns")
    return np.where(np.isfinite(done), done, last)


def end_ns(recording: Recording) -> Floats:
    """When each request's answer ended: its last byte, else its last token."""
    return _end_ns(recording)


def digits(values: Floats) -> list[float | None]:
    """Five significant digits are finer than a pixel; what is not finite is None."""
    return [float(f"{value:.5g}") if np.isfinite(value) else None for value in values]
