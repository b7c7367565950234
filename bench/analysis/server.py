"""What a server said of itself while a scenario ran, as metrics beside ours, and where the two differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from bench.analysis import formatting as fmt
from bench.analysis.results import Metric, mapping, number, text
from bench.base.validity import Reason

TIMINGS = ("ttft", "itl", "tpot", "e2e", "queue", "prefill")
AGREE = 0.05
"""A mean that differs by no more than this share of ours agrees."""
_SINGLE = {
    "peak_running": "requests",
    "peak_waiting": "requests",
    "peak_kv_cache_use": "ratio",
    "preemptions": "1",
    "prefix_cache_hit_rate": "ratio",
}
_METERS = ("gpu", "cpu_package")


def server_metrics(entry: Mapping[str, Any], observed: tuple[str, ...]) -> dict[str, Metric]:
    """Metrics by tag from a scenario's entry; empty for one recorded before there were any.

    `server_NAME` are the server's histograms: percentiles as Prometheus interpolates them, `lo` and `hi` the bucket of
    the median. `client_NAME` are our means over the same requests, `beyond_server_NAME` how much longer ours are, where
    both are of as many values. `observed` speaks against all of them.
    """
    if "server_latency" not in entry:
        return {}
    return {metric.tag: metric for metric in (*_latencies(entry, observed), *_states(entry, observed))}


def _latencies(entry: Mapping[str, Any], observed: tuple[str, ...]) -> Iterator[Metric]:
    validity = (*observed, Reason.NOT_QUIESCENT.value) if entry.get("quiescent") is False else observed
    server, client = mapping(entry.get("server_latency")), mapping(entry.get("client_latency"))
    for name in TIMINGS:
        theirs, ours = mapping(server.get(name)), mapping(client.get(name))
        their_mean, our_mean = number(theirs.get("mean_ms")), number(ours.get("mean_ms"))
        if their_mean is not None:
            percentiles = {f"p{percent}": mapping(theirs.get(f"p{percent}")) for percent in (50, 90, 99)}
            values = {name: number(found.get("value_ms")) for name, found in percentiles.items()}
            median = percentiles["p50"]
            bounds = (number(median.get("from_ms")), number(median.get("to_ms")))
            n = number(theirs.get("count"))
            yield _metric(f"server_{name}", "ms", validity, {"mean": their_mean, **values}, n=n, bounds=bounds)
        if our_mean is not None:
            yield _metric(f"client_{name}", "ms", observed, {"mean": our_mean}, n=number(ours.get("count")))
        alike = unlike(number(ours.get("count")), number(theirs.get("count"))) is None
        if their_mean is not None and our_mean is not None and alike:
            yield _metric(f"beyond_server_{name}", "ms", validity, {"value": our_mean - their_mean})


def _states(entry: Mapping[str, Any], observed: tuple[str, ...]) -> Iterator[Metric]:
    peaks = {f"peak_{name}": value for name, value in mapping(entry.get("peaks")).items()}
    for tag, unit in _SINGLE.items():
        value = number({**entry, **peaks}.get(tag))
        if value is not None:
            yield _metric(tag, unit, observed, {"value": value})
    for tag in ("energy_j", "energy_per_output_token_j"):
        for meter, joules in mapping(entry.get(tag)).items():
            value = number(joules)
            if value is not None:
                yield _metric(f"{tag.removesuffix('_j')}_{meter}", "J", observed, {"value": value})


def _metric(
    tag: str,
    unit: str,
    validity: tuple[str, ...],
    statistics: Mapping[str, float | None],
    *,
    n: float | None = None,
    bounds: tuple[float | None, float | None] = (None, None),
) -> Metric:
    lo, hi = bounds
    return Metric(tag=tag, unit=unit, statistics=statistics, n=n, lo=lo, hi=hi, validity=validity)


def untold(entry: Mapping[str, Any]) -> dict[str, str]:
    """By tag, why a figure of the server or a meter is not there, as far as a scenario's entry says."""
    told = {str(name): why for name, value in mapping(entry.get("unavailable")).items() if (why := text(value))}
    found = {}
    for tag in (*(f"server_{name}" for name in TIMINGS), *_SINGLE):
        found[tag] = told.get(tag) or told.get("server_metrics")
    for meter in _METERS:
        found[f"energy_{meter}"] = told.get(f"energy_{meter}") or told.get(meter)
        tag = f"energy_per_output_token_{meter}"
        found[tag] = told.get(tag) or found[f"energy_{meter}"]
    server, client = mapping(entry.get("server_latency")), mapping(entry.get("client_latency"))
    for name in TIMINGS:
        theirs, ours = mapping(server.get(name)), mapping(client.get(name))
        if number(theirs.get("mean_ms")) is None:
            found[f"beyond_server_{name}"] = found[f"server_{name}"]
        elif number(ours.get("mean_ms")) is None:
            found[f"beyond_server_{name}"] = "we measured none"
        else:
            counts = unlike(number(ours.get("count")), number(theirs.get("count")))
            found[f"beyond_server_{name}"] = f"not of the same values: {counts}" if counts else None
    return {tag: why for tag, why in found.items() if why is not None}


def unlike(ours: float | None, theirs: float | None) -> str | None:
    """Of how many values two means are, where that differs: then they are not compared."""
    if ours is not None and theirs is not None and round(ours) == round(theirs):
        return None
    return f"we {_count(ours)}, the server {_count(theirs)}"


def where_it_lies(metrics: Mapping[str, Metric]) -> str:
    """In words: whether the server's mean TTFT agrees with ours, and if not, where the difference lies.

    Other means that are of other numbers of values than ours are named.
    """
    others = []
    for name in TIMINGS[1:]:
        ours, theirs = metrics.get(f"client_{name}"), metrics.get(f"server_{name}")
        counts = unlike(ours.n, theirs.n) if ours is not None and theirs is not None else None
        if counts is not None:
            others.append(f"{name.upper()} ({counts})")
    said = _where_ttft_lies(metrics)
    return f"{said}; not compared: {', '.join(others)}" if others else said


def _where_ttft_lies(metrics: Mapping[str, Metric]) -> str:
    means = {tag: metric.statistics.get("mean") for tag, metric in metrics.items()}
    ours, theirs = means.get("client_ttft"), means.get("server_ttft")
    queue, prefill = means.get("server_queue"), means.get("server_prefill")
    inside = [(name, value) for name, value in (("queue", queue), ("prefill", prefill)) if value is not None]
    if theirs is not None and queue is not None and prefill is not None:
        inside.append(("the rest of the server", max(0.0, theirs - queue - prefill)))
    parts = ", ".join(f"{name} {fmt.significant(value)} ms" for name, value in inside)
    if ours is None:
        return "we saw no first token"
    if theirs is None:
        return f"the server told no TTFT; inside it: {parts}" if parts else "the server told no TTFT"
    counts = unlike(metrics["client_ttft"].n, metrics["server_ttft"].n)
    if counts is not None:
        return f"not the same requests: {counts}"
    gap = ours - theirs
    if abs(gap) <= AGREE * ours:
        said = f"agree to {fmt.percent(abs(gap) / ours)}"
    elif gap > 0:
        said = f"{fmt.significant(gap)} ms outside what the server times: HTTP, tokenizing, streaming"
    else:
        said = f"the server's is {fmt.significant(-gap)} ms longer"
    return f"{said}; inside it: {parts}" if parts else said


def _count(value: float | None) -> str:
    return "unknown" if value is None else fmt.count(value)
