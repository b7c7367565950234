"""The metrics as declarations: tag, unit, which way is better, what it needs, and its formula.

Latency definitions follow the field (NVIDIA GenAI-Perf's and vLLM's names); what differs is said in the docstring.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np

from bench.base.clock import NS_PER_MS
from bench.load.outcome import Status
from bench.load.statistics import median_interval, percentile, rate_interval, share_interval
from bench.load.table import MISSING, Events, Floats, Ints, Mask, Table
from bench.load.window import Window


class Better(Enum):
    """Which way a metric improves."""

    lower = "lower"
    higher = "higher"
    neither = "neither"


class Need(Enum):
    """What a metric cannot do without."""

    events = "events"
    usage = "usage"
    tokens_per_event = "tokens_per_event"


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What metrics are computed from: a run and its window."""

    table: Table
    events: Events
    window: Window

    def ordered(self, usable: Mask) -> Ints:
        """Row numbers of measured requests that are `usable`, in order of sending."""
        rows = np.flatnonzero(self.window.measured & usable)
        return np.asarray(rows[np.argsort(self.table.sent_ns[rows], kind="stable")], dtype=np.int64)

    def answered(self) -> Ints:
        """Measured requests with at least one token, in order of sending."""
        return self.ordered(self.table.first_token_ns != MISSING)


Spread = tuple[Floats, Ints]
"""(values in ms, number of the request each belongs to in order of sending, ascending)"""
Stream = tuple[Ints, Floats]
"""(times in ns, what happened at each)"""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One declaration. Exactly one of `spread`, `stream` and `count` holds the formula."""

    tag: str
    unit: str
    better: Better
    needs: frozenset[Need] = frozenset()
    spread: Callable[[Sample], Spread] | None = None
    stream: Callable[[Sample], Stream] | None = None
    count: Callable[[Sample], tuple[float | None, tuple[float, float] | None]] | None = None

    def compute(self, sample: Sample) -> dict[str, Any]:
        """The metric's entry in a summary, validity still empty. lo and hi bound p50, or value."""
        if self.spread is not None:
            return _describe_spread(self.unit, *self.spread(sample), wave=sample.window.wave)
        if self.stream is not None:
            return _describe_stream(self.unit, *self.stream(sample), sample=sample)
        assert self.count is not None
        value, interval = self.count(sample)
        return _scalar(self.unit, value, interval)


def _describe_spread(unit: str, values: Floats, owner: Ints, *, wave: int) -> dict[str, Any]:
    interval = median_interval(values, owner, wave)
    return {
        "unit": unit,
        "p50": percentile(values, 0.50),
        "p90": percentile(values, 0.90),
        "p95": percentile(values, 0.95),
        "p99": percentile(values, 0.99),
        "mean": float(values.mean()) if len(values) else None,
        "n": len(values),
        "lo": None if interval is None else interval[0],
        "hi": None if interval is None else interval[1],
        "validity": [],
    }


def _describe_stream(unit: str, times_ns: Ints, weights: Floats, *, sample: Sample) -> dict[str, Any]:
    window = sample.window
    if window.seconds <= 0 or not len(times_ns):
        return _scalar(unit, None, None)
    inside = (times_ns > window.start_ns) & (times_ns <= window.end_ns)
    life = sample.table.done_ns - sample.table.sent_ns
    mean_life = float(life[window.measured].mean()) if window.measured.any() else 0.0
    interval = rate_interval(times_ns[inside], weights[inside], window.start_ns, window.end_ns, mean_life)
    return _scalar(unit, float(weights[inside].sum()) / window.seconds, interval)


def _scalar(unit: str, value: float | None, interval: tuple[float, float] | None) -> dict[str, Any]:
    lo, hi = (None, None) if interval is None else interval
    return {"unit": unit, "value": value, "lo": lo, "hi": hi, "validity": []}


# ---- latencies


def _per_request(later: Ints, earlier: Ints) -> Spread:
    return (later - earlier) / NS_PER_MS, np.arange(len(later))


def ttft(sample: Sample) -> Spread:
    """Time to first token: first_token - sent. The first event with non-empty content, reasoning or tool call."""
    rows = sample.answered()
    return _per_request(sample.table.first_token_ns[rows], sample.table.sent_ns[rows])


def ttft_from_schedule(sample: Sample) -> Spread:
    """first_token - scheduled: with the waiting in the client and for the connection, which closed loops hide."""
    rows = sample.answered()
    return _per_request(sample.table.first_token_ns[rows], sample.table.scheduled_ns[rows])


def e2e_latency(sample: Sample) -> Spread:
    """last_token - sent."""
    rows = sample.answered()
    return _per_request(sample.table.last_token_ns[rows], sample.table.sent_ns[rows])


def tpot(sample: Sample) -> Spread:
    """Time per output token after the first: (last_token - first_token) / (output_tokens - 1), one value a request."""
    rows = sample.ordered((sample.table.first_token_ns != MISSING) & (sample.table.output_tokens >= 2))
    span = sample.table.last_token_ns[rows] - sample.table.first_token_ns[rows]
    return span / (sample.table.output_tokens[rows] - 1) / NS_PER_MS, np.arange(len(rows))


def inter_chunk_gap(sample: Sample) -> Spread:
    """Time between consecutive token-bearing events of a request, however many tokens they carry."""
    gaps, _, owner = _gaps(sample, sample.table.events >= 2)
    return gaps / NS_PER_MS, owner


def itl(sample: Sample) -> Spread:
    """Inter-token latency: each gap / the tokens of the event that ended it, once a token.

    Only of requests where the tokens of every event are known: said by the stream, or one each because there were as
    many events as tokens.
    """
    gaps, tokens, owner = _gaps(sample, single_tokens_known(sample))
    repeats = np.maximum(tokens, 1)
    return np.repeat(gaps / repeats, repeats) / NS_PER_MS, np.repeat(owner, repeats)


def single_tokens_known(sample: Sample) -> Mask:
    """Requests whose every event is known to carry a certain number of tokens, two events or more."""
    table, events = sample.table, sample.events
    position = np.searchsorted(table.slot, events.slot)
    unknown = np.bincount(position[events.tokens == MISSING], minlength=len(table)) > 0
    known: Mask = ~unknown | (table.events == table.output_tokens)
    return known & (table.events >= 2)


def _gaps(sample: Sample, usable: Mask) -> tuple[Ints, Ints, Ints]:
    """(gap in ns, tokens of the later event (1 when not said), number of the request) in order of sending."""
    rows = sample.ordered(usable)
    events = sample.events
    sending = np.full(len(sample.table), MISSING)
    sending[rows] = np.arange(len(rows))
    owner = sending[np.searchsorted(sample.table.slot, events.slot)]
    kept = np.flatnonzero(owner != MISSING)
    kept = kept[np.argsort(owner[kept], kind="stable")]
    owner, ns, tokens = owner[kept], events.ns[kept], np.where(events.tokens[kept] == MISSING, 1, events.tokens[kept])
    same = owner[1:] == owner[:-1]
    return np.diff(ns)[same], tokens[1:][same], owner[1:][same]


# ---- rates


def request_throughput(sample: Sample) -> Stream:
    """Successful requests that ended in the window / its length."""
    done = sample.table.done_ns[_succeeded(sample)]
    return done, np.ones(len(done))


def output_throughput(sample: Sample) -> Stream:
    """Output tokens of successful requests in the window / its length; each event carries its request's mean tokens."""
    table, events = sample.table, sample.events
    position = np.searchsorted(table.slot, events.slot)
    usable = (_succeeded(sample) & (table.output_tokens != MISSING))[position]
    share = table.output_tokens[position] / np.maximum(table.events[position], 1)
    return events.ns[usable], share[usable]


def input_throughput(sample: Sample) -> Stream:
    """Prompt tokens of successful requests, counted at their first token / the window's length."""
    table = sample.table
    usable = _succeeded(sample) & (table.prompt_tokens != MISSING) & (table.first_token_ns != MISSING)
    return table.first_token_ns[usable], table.prompt_tokens[usable].astype(np.float64)


def total_throughput(sample: Sample) -> Stream:
    """Input and output tokens together."""
    parts = (input_throughput(sample), output_throughput(sample))
    return np.concatenate([times for times, _ in parts]), np.concatenate([weights for _, weights in parts])


def _succeeded(sample: Sample) -> Mask:
    return sample.table.main & sample.table.with_status(Status.ok)


# ---- counts


def error_rate(sample: Sample) -> tuple[float | None, tuple[float, float] | None]:
    """Failed / (failed + successful), over the whole run without warm-up; cancelled requests are neither."""
    failed = int((sample.table.main & sample.table.with_status(Status.error)).sum())
    ended = failed + int(_succeeded(sample).sum())
    if not ended:
        return None, None
    return failed / ended, share_interval(failed / ended, ended // sample.window.wave)


def _total(column: str) -> Callable[[Sample], tuple[float | None, None]]:
    def total(sample: Sample) -> tuple[float | None, None]:
        values: Ints = getattr(sample.table, column)
        known = values[sample.table.main & (values != MISSING)]
        return (int(known.sum()) if len(known) else None), None

    total.__doc__ = f"Sum of {column} over the whole run without warm-up, as the endpoint's usage reports it."
    return total


_EVENTS = frozenset({Need.events})
_USAGE = frozenset({Need.usage})
_BOTH = _EVENTS | _USAGE

METRICS: dict[str, Metric] = {
    metric.tag: metric
    for metric in (
        Metric(tag="ttft", unit="ms", better=Better.lower, needs=_EVENTS, spread=ttft),
        Metric(tag="ttft_from_schedule", unit="ms", better=Better.lower, needs=_EVENTS, spread=ttft_from_schedule),
        Metric(tag="inter_chunk_gap", unit="ms", better=Better.lower, needs=_EVENTS, spread=inter_chunk_gap),
        Metric(tag="itl", unit="ms", better=Better.lower, needs=_BOTH | {Need.tokens_per_event}, spread=itl),
        Metric(tag="tpot", unit="ms", better=Better.lower, needs=_BOTH, spread=tpot),
        Metric(tag="e2e_latency", unit="ms", better=Better.lower, needs=_EVENTS, spread=e2e_latency),
        Metric(tag="request_throughput", unit="req/s", better=Better.higher, stream=request_throughput),
        Metric(tag="output_throughput", unit="tokens/s", better=Better.higher, needs=_BOTH, stream=output_throughput),
        Metric(tag="input_throughput", unit="tokens/s", better=Better.higher, needs=_BOTH, stream=input_throughput),
        Metric(tag="total_throughput", unit="tokens/s", better=Better.higher, needs=_BOTH, stream=total_throughput),
        Metric(tag="error_rate", unit="ratio", better=Better.lower, count=error_rate),
        Metric(
            tag="output_tokens_total", unit="tokens", better=Better.neither, needs=_USAGE, count=_total("output_tokens")
        ),
        Metric(
            tag="prompt_tokens_total", unit="tokens", better=Better.neither, needs=_USAGE, count=_total("prompt_tokens")
        ),
        Metric(
            tag="cached_tokens_total", unit="tokens", better=Better.neither, needs=_USAGE, count=_total("cached_tokens")
        ),
    )
}
