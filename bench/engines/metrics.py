"""Engines' own metrics under common names: what is read, where from, and what an engine does not measure.

An engine names its `MetricMap` (`bench.engines.metric_maps`); what it does not measure is missing, never 0.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from bench.engines.histogram import Histogram


class Scalar(StrEnum):
    """Gauges and counters by their common names.

    `running` and `waiting` are requests, `kv_cache_use` and `prefix_cache_hit_rate` shares (0 to 1); the rest are
    totals since the server's start: `preemptions` of requests, `prompt_tokens` and `generation_tokens`.
    """

    RUNNING = "running"
    WAITING = "waiting"
    KV_CACHE_USE = "kv_cache_use"
    PREFIX_CACHE_HIT_RATE = "prefix_cache_hit_rate"
    PREEMPTIONS = "preemptions"
    PROMPT_TOKENS = "prompt_tokens"
    GENERATION_TOKENS = "generation_tokens"


class Timing(StrEnum):
    """Histograms in seconds by their common names.

    `ttft`: arrival to first token, with queueing; `itl`: one value a gap between tokens; `tpot`: one value a request,
    (last token − first token) / (tokens − 1); `e2e`: arrival to last token; `queue`: waiting to be scheduled;
    `prefill`: scheduled to first token.
    """

    TTFT = "ttft"
    ITL = "itl"
    TPOT = "tpot"
    E2E = "e2e"
    QUEUE = "queue"
    PREFILL = "prefill"


class Over(StrEnum):
    """How the values of a metric's label sets (engines, ranks, models) become one."""

    SUM = "sum"
    MAX = "max"


class Format(StrEnum):
    """What an endpoint answers with."""

    PROMETHEUS = "prometheus"
    JSON = "json"


@dataclass(frozen=True, kw_only=True)
class Source:
    """A route that is sampled."""

    path: str = "/metrics"
    format: Format = Format.PROMETHEUS


@dataclass(frozen=True)
class Value:
    """A metric by the names that versions gave it, the first one present counts; without `_total`.

    In JSON a name is the path of keys, joined by dots.
    """

    names: tuple[str, ...]
    over: Over = Over.SUM


@dataclass(frozen=True)
class Ratio:
    """`part` / sum of `whole`."""

    part: Value
    whole: tuple[Value, ...]


@dataclass(frozen=True, kw_only=True)
class MetricMap:
    """An engine's metrics by common names; of alternatives the first that is present counts.

    `missing` says why a common name has no entry: every one is in exactly one of the three. `notes` say what a name
    means here beyond what it says.
    """

    sources: tuple[Source, ...] = (Source(),)
    scalars: Mapping[Scalar, tuple[Value | Ratio, ...]]
    timings: Mapping[Timing, tuple[str, ...]]
    missing: Mapping[Scalar | Timing, str] = field(default_factory=dict)
    notes: Mapping[Scalar | Timing, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class MetricSample:
    """What a server said of itself at one time; what it did not say is None.

    `prefix_cache` are its totals (hits, queries) in tokens, where the hit rate comes from counters; hits are None where
    only the queries are told, as before the first hit of a counter that comes with it.
    """

    scalars: Mapping[Scalar, float | None]
    timings: Mapping[Timing, Histogram | None]
    prefix_cache: tuple[float | None, float] | None = None


Flat = dict[str, list[float]]
"""Values by name without `_total`, one for each label set."""


def read_sample(metrics: MetricMap, answers: Mapping[str, str], *, buckets: bool = True) -> MetricSample:
    """The common names out of what the sources answered, by path. Damaged answers count as missing.

    Without `buckets` histograms have sums and counts only, which is a good deal faster.
    """
    flat: Flat = {}
    bounds: dict[str, dict[float, float]] = {}
    wanted = _wanted(metrics, buckets=buckets)
    for source in metrics.sources:
        text = answers.get(source.path)
        if text is None:
            continue
        if source.format is Format.JSON:
            flat.update(_flat_json(text))
        else:
            _read_prometheus(text, wanted, flat, bounds)
    return MetricSample(
        scalars={name: _scalar(metrics.scalars.get(name, ()), flat) for name in Scalar},
        timings={name: _histogram(metrics.timings.get(name, ()), flat, bounds) for name in Timing},
        prefix_cache=_prefix_cache(metrics, flat),
    )


def _wanted(metrics: MetricMap, *, buckets: bool) -> frozenset[str]:
    """The sample names that are worth parsing: an exposition is a hundred times larger."""
    names = [name for value in _values(metrics) for name in value.names]
    wanted = {*names, *(f"{name}_total" for name in names)}
    endings = ("_sum", "_count", "_bucket") if buckets else ("_sum", "_count")
    for alternatives in metrics.timings.values():
        wanted.update(f"{name}{ending}" for name in alternatives for ending in endings)
    return frozenset(wanted)


def _values(metrics: MetricMap) -> Iterator[Value]:
    for alternatives in metrics.scalars.values():
        for entry in alternatives:
            yield from (entry.part, *entry.whole) if isinstance(entry, Ratio) else (entry,)


def _read_prometheus(text: str, wanted: frozenset[str], flat: Flat, bounds: dict[str, dict[float, float]]) -> None:
    from prometheus_client.parser import text_string_to_metric_families

    # Without their TYPE lines samples keep the names they have, and nothing is asked of their order.
    lines = [line for line in text.splitlines() if line.partition("{")[0].partition(" ")[0] in wanted]
    try:
        families = list(text_string_to_metric_families("\n".join(lines) + "\n"))
    except ValueError:
        return
    for family in families:
        for sample in family.samples:
            if math.isnan(sample.value):
                continue
            if "le" in sample.labels and sample.name.endswith("_bucket"):
                found = bounds.setdefault(sample.name.removesuffix("_bucket"), {})
                bound = float(sample.labels["le"])
                found[bound] = found.get(bound, 0.0) + sample.value
            else:
                flat.setdefault(sample.name.removesuffix("_total"), []).append(sample.value)


def _flat_json(text: str) -> Flat:
    """The latest entry of a list of statistics, with the path of each number as its name."""
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    latest = (value[-1] if value else {}) if isinstance(value, list) else value
    return dict(_numbers(latest, ""))


def _numbers(value: object, path: str) -> Iterator[tuple[str, list[float]]]:
    if isinstance(value, Mapping):
        for key, entry in value.items():
            yield from _numbers(entry, f"{path}.{key}" if path else str(key))
    elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        yield path, [float(value)]


def _scalar(alternatives: Sequence[Value | Ratio], flat: Flat) -> float | None:
    for entry in alternatives:
        if isinstance(entry, Ratio):
            parts = _parts(entry, flat)
            part, whole = parts or (None, 0.0)
            found = part / whole if part is not None and whole > 0 else None
        else:
            found = _value(entry, flat)
        if found is not None:
            return found
    return None


def _value(entry: Value, flat: Flat) -> float | None:
    for name in entry.names:
        if flat.get(name):
            return max(flat[name]) if entry.over is Over.MAX else math.fsum(flat[name])
    return None


def _parts(ratio: Ratio, flat: Flat) -> tuple[float | None, float] | None:
    part = _value(ratio.part, flat)
    whole = [_value(entry, flat) for entry in ratio.whole]
    known = [value for value in whole if value is not None]
    return None if len(known) < len(whole) else (part, math.fsum(known))


def _prefix_cache(metrics: MetricMap, flat: Flat) -> tuple[float | None, float] | None:
    ratios = (entry for entry in metrics.scalars.get(Scalar.PREFIX_CACHE_HIT_RATE, ()) if isinstance(entry, Ratio))
    return next((parts for ratio in ratios if (parts := _parts(ratio, flat)) is not None), None)


def _histogram(names: Sequence[str], flat: Flat, bounds: Mapping[str, Mapping[float, float]]) -> Histogram | None:
    """Buckets, sums and counts added up over label sets."""
    for name in names:
        if flat.get(f"{name}_count"):
            sums = flat.get(f"{name}_sum")
            return Histogram(
                buckets=tuple(sorted(bounds.get(name, {}).items())),
                total=math.fsum(sums) if sums else None,
                count=math.fsum(flat[f"{name}_count"]),
            )
    return None
