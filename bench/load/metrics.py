"""The metrics as declarations: tag, unit, which way is better, what it needs, its formula, and who says it.

Latency definitions follow the field (vLLM's and NVIDIA AIPerf's names); what differs is said where it is computed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np

from bench.load import latencies, rates
from bench.load.sample import Sample, Spread, Stream
from bench.load.statistics import Interval, median_interval, percentile, quantile_intervals, rate_interval
from bench.load.table import Floats, Ints, Owners

P99_REQUESTS = 1000
"""A p99 of fewer requests is not given, however many tokens they had: one request's are no independent values."""

_TAILS = {0.90: "p90", 0.95: "p95", 0.99: "p99"}


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


class Source(Enum):
    """Who says it: the client's stamps, the endpoint's `usage`, or both."""

    stamps = "stamps"
    usage = "usage"
    both = "stamps and usage"


def _always(_: Sample) -> bool:
    return True


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One declaration. Exactly one of `spread`, `stream` and `count` computes what `formula` says.

    A metric that does not apply (goodput without an SLO) is left out of a summary.
    """

    tag: str
    unit: str
    better: Better
    formula: str
    source: Source
    needs: frozenset[Need] = frozenset()
    spread: Callable[[Sample], Spread] | None = None
    stream: Callable[[Sample], Stream] | None = None
    count: Callable[[Sample], rates.Count] | None = None
    applies: Callable[[Sample], bool] = _always

    def compute(self, sample: Sample) -> dict[str, Any]:
        """The metric's entry in a summary, validity still empty. lo and hi bound p50, or value; intervals the tails."""
        if self.spread is not None:
            return _describe_spread(self.unit, *self.spread(sample), wave=sample.window.wave)
        if self.stream is not None:
            return _describe_stream(self.unit, *self.stream(sample), sample=sample)
        assert self.count is not None
        return scalar(self.unit, *self.count(sample))


def _describe_spread(unit: str, values: Floats, owner: Owners, *, wave: int) -> dict[str, Any]:
    interval = median_interval(values, owner, wave)
    requests = int(np.count_nonzero(np.diff(owner))) + 1 if len(owner) else 0
    ordered = np.sort(values)
    tails = {p: percentile(ordered, p) for p in _TAILS if p < 0.99 or requests >= P99_REQUESTS}
    known = {p: value for p, value in tails.items() if value is not None}
    bounds = quantile_intervals(values, owner, wave, known, ordered)
    return {
        "unit": unit,
        "p50": percentile(ordered, 0.50),
        **{name: known.get(p) for p, name in _TAILS.items()},
        "mean": float(values.mean()) if len(values) else None,
        "n": len(values),
        "requests": requests,
        "lo": None if interval is None else interval[0],
        "hi": None if interval is None else interval[1],
        "intervals": {_TAILS[p]: list(ends) for p, ends in bounds.items()},
        "validity": [],
    }


def _describe_stream(unit: str, times_ns: Ints, weights: Floats, *, sample: Sample) -> dict[str, Any]:
    window = sample.window
    if window.seconds <= 0 or not len(times_ns):
        return scalar(unit, None, None)
    inside = (times_ns > window.start_ns) & (times_ns <= window.end_ns)
    life = sample.table.done_ns - sample.table.sent_ns
    mean_life = float(life[window.measured].mean()) if window.measured.any() else 0.0
    interval = rate_interval(times_ns[inside], weights[inside], window.start_ns, window.end_ns, mean_life)
    return scalar(unit, float(weights[inside].sum()) / window.seconds, interval)


def scalar(unit: str, value: float | None, interval: Interval | None) -> dict[str, Any]:
    """The entry of a single figure, validity still empty."""
    lo, hi = (None, None) if interval is None else interval
    return {"unit": unit, "value": value, "lo": lo, "hi": hi, "validity": []}


_EVENTS = frozenset({Need.events})
_USAGE = frozenset({Need.usage})
_BOTH = _EVENTS | _USAGE


def _latency(tag: str, formula: str, spread: Callable[[Sample], Spread], **more: Any) -> Metric:
    defaults = {"unit": "ms", "better": Better.lower, "needs": _EVENTS, "source": Source.stamps}
    return Metric(tag=tag, formula=formula, spread=spread, **{**defaults, **more})


def _rate(tag: str, unit: str, formula: str, stream: Callable[[Sample], Stream], **more: Any) -> Metric:
    return Metric(tag=tag, unit=unit, formula=formula, stream=stream, better=Better.higher, **more)


def _total(column: str) -> Metric:
    return Metric(
        tag=f"{column}_total",
        unit="tokens",
        better=Better.neither,
        formula=f"Σ {column}, without warm-up",
        source=Source.usage,
        needs=_USAGE,
        count=rates.total(column),
    )


_TOKENS = {"needs": _BOTH, "source": Source.both}
_PER_EVENT = {"needs": _BOTH | {Need.tokens_per_event}, "source": Source.both}


def _has_slo(sample: Sample) -> bool:
    return sample.slo.given


METRICS: dict[str, Metric] = {
    metric.tag: metric
    for metric in (
        _latency("ttft", "first_token − sent", latencies.ttft),
        _latency("ttft_from_schedule", "first_token − scheduled", latencies.ttft_from_schedule),
        _latency("ttfo", "first_answer − sent", latencies.ttfo, applies=latencies.reasons),
        _latency("ttst", "second event − first event", latencies.ttst),
        _latency("inter_chunk_gap", "event − event before it", latencies.inter_chunk_gap),
        _latency("itl", "(event − event before it) / tokens of the event, once a token", latencies.itl, **_PER_EVENT),
        _latency("tpot", "(last_token − first_token) / (output_tokens − 1)", latencies.tpot, **_TOKENS),
        _latency(
            "tokens_per_s_user",
            "(output_tokens − 1) / (last_token − first_token)",
            latencies.tokens_per_s_user,
            unit="tokens/s",
            better=Better.higher,
            **_TOKENS,
        ),
        _latency("e2e_latency", "last_token − sent", latencies.e2e_latency),
        _latency("e2e_from_schedule", "last_token − scheduled", latencies.e2e_from_schedule),
        _rate("request_throughput", "req/s", "requests / window", rates.request_throughput, source=Source.stamps),
        _rate("output_throughput", "tokens/s", "output_tokens / window", rates.output_throughput, **_TOKENS),
        _rate("input_throughput", "tokens/s", "prompt_tokens / window", rates.input_throughput, **_TOKENS),
        _rate("total_throughput", "tokens/s", "(prompt + output tokens) / window", rates.total_throughput, **_TOKENS),
        _rate(
            *("goodput", "req/s", "requests that met the SLO / window", rates.goodput),
            applies=_has_slo,
            needs=_EVENTS,
            source=Source.both,
        ),
        Metric(
            tag="slo_attainment",
            unit="ratio",
            better=Better.higher,
            formula="met the SLO / (measured + failed)",
            source=Source.both,
            needs=_EVENTS,
            count=rates.slo_attainment,
            applies=_has_slo,
        ),
        Metric(
            tag="error_rate",
            unit="ratio",
            better=Better.lower,
            formula="failed / (failed + successful)",
            source=Source.stamps,
            count=rates.error_rate,
        ),
        _total("output_tokens"),
        _total("prompt_tokens"),
        _total("cached_tokens"),
    )
}
