"""Why figures that a server was asked for are not there, by their names in the report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.engines.histogram import Histogram
from bench.engines.metrics import MetricMap, MetricSample, Scalar, Timing
from bench.pipeline.latency import prefix_gain

RESTARTED = "the server was started anew meanwhile"
_NOT_TOLD = "the server's metrics do not hold it"


def why_untold(
    metrics: MetricMap, before: MetricSample, after: MetricSample, observed: Mapping[str, Any], error: str | None
) -> dict[str, str]:
    """Of what is None in `observed` why; `error` is that of a route that did not answer, where there was one."""
    found: dict[str, str] = {}
    for timing in Timing:
        latency = observed["server_latency"][timing.value]
        if latency is None or latency["mean_ms"] is None:
            why = _no_timing(before.timings[timing], after.timings[timing], error)
            found[f"server_{timing.value}"] = metrics.missing.get(timing, why)
    for name, peak in observed["peaks"].items():
        if peak is None:
            found[f"peak_{name}"] = metrics.missing.get(Scalar(name), error or _NOT_TOLD)
    if observed["preemptions"] is None:
        told = None not in (before.scalars[Scalar.PREEMPTIONS], after.scalars[Scalar.PREEMPTIONS])
        found["preemptions"] = metrics.missing.get(Scalar.PREEMPTIONS, RESTARTED if told else error or _NOT_TOLD)
    if observed["prefix_cache_hit_rate"] is None:
        why = _no_hit_rate(before, after) or error or _NOT_TOLD
        found["prefix_cache_hit_rate"] = metrics.missing.get(Scalar.PREFIX_CACHE_HIT_RATE, why)
    return found


def _no_timing(before: Histogram | None, after: Histogram | None, error: str | None) -> str:
    if after is None:
        return error or _NOT_TOLD
    gained = after if before is None else after.since(before)
    if gained is None:
        return RESTARTED
    return "the server observed none" if gained.count == 0 else "the server tells no sum of it"


def _no_hit_rate(before: MetricSample, after: MetricSample) -> str | None:
    gained = prefix_gain(before, after)
    if gained is None:
        return None
    return RESTARTED if min(gained) < 0 else "no prompt was looked up in the cache"
