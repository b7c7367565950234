"""What the client itself did to the figures, and every reason not to believe one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.base.clock import NS_PER_MS
from bench.base.validity import Reason
from bench.load.arrivals.config import TraceConfig
from bench.load.config import ClosedConfig, OpenConfig, ScenarioConfig, SyntheticConfig, WorkloadConfig
from bench.load.metrics import METRICS, Metric, Need
from bench.load.outcome import Status
from bench.load.sample import Sample
from bench.load.steady import backlog_growing
from bench.load.table import MISSING, Floats, Ints, Mask, Table
from bench.load.window import has_one_rate

# Bounds beyond which a figure is not to be believed.
DELAY_NS = 10 * NS_PER_MS
SLIP_NS = 5 * NS_PER_MS
COALESCED_SHARE = 0.01
DELIVERED_SHARE = 0.98
ERROR_SHARE = 0.01
CACHED_SHARE = 0.05
UNKNOWN_EVENTS_SHARE = 0.05
USAGE_SHARE = 0.01
USER_TIME_BUSY_SHARE = 0.5

LATENCIES = frozenset(tag for tag, metric in METRICS.items() if metric.spread is not None)
RATES = frozenset(tag for tag, metric in METRICS.items() if metric.stream is not None)
GOOD = frozenset({"goodput", "slo_attainment"})
EVERYTHING = LATENCIES | RATES | GOOD
TO_THE_END = frozenset({"e2e_latency", "e2e_from_schedule"})
BETWEEN_TOKENS = frozenset({"itl", "tpot", "inter_chunk_gap", "ttst", "tokens_per_s_user"})
TO_THE_FIRST = frozenset({"ttft", "ttft_from_schedule", "ttfo"})
MUCH_CACHED_SHARE = 0.25
"""From here on prompts that were not computed show in everything but the time between tokens."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A reason, and the metrics it spoils."""

    reason: Reason
    tags: frozenset[str]


def describe_own_error(
    sample: Sample, scenario: ScenarioConfig, own: list[dict[str, Any]], delays_ns: Ints, *, time_source: str
) -> dict[str, Any]:
    """The `own_error` section of a summary, from the workers' figures and user minus kernel time of reads."""
    table = sample.table
    tokens = int(table.output_tokens[table.output_tokens != MISSING].sum())
    cpu_s = sum(float(figures["loop_cpu_s"]) for figures in own)
    digest_s = sum(float(figures["digest_cpu_s"]) for figures in own)
    reads = sum(int(figures["reads"]) for figures in own)
    token_reads = sum(int(figures["token_reads"]) for figures in own)
    rows = sample.ordered(table.sent_ns != MISSING)
    left = table.sent_kernel_ns != MISSING
    return {
        "time_source": time_source,
        "read_delay_us": _spread_us(delays_ns),
        "schedule_slip_us": _spread_us(table.taken_ns[rows] - table.scheduled_ns[rows]),
        "send_delay_us": _spread_us(table.sent_kernel_ns[left] - table.sent_ns[left]),
        "delivered_share": delivered_share(sample, scenario),
        "coalesced_reads_share": _ratio(sum(int(figures["coalesced_reads"]) for figures in own), token_reads),
        "unstamped_reads_share": _ratio(sum(int(figures["unstamped_reads"]) for figures in own), reads),
        "stale_connections": sum(int(figures["stale_connections"]) for figures in own),
        "clock_stepped": any(figures["clock_stepped"] for figures in own),
        "clock_uncertainty_us": max((figures["clock_uncertainty_ns"] / 1000 for figures in own), default=None),
        "busy_share": max(
            (_ratio(figures["loop_cpu_s"], figures["loop_wall_s"]) or 0.0 for figures in own), default=None
        ),
        "cpu_us_per_token": _ratio(cpu_s * 1e6, tokens),
        "parse_cpu_us_per_token": _ratio(digest_s * 1e6, tokens),
        "peak_rss_bytes": max((int(figures["peak_rss_bytes"]) for figures in own), default=None),
        "workers": len(own),
    }


def delivered_share(sample: Sample, scenario: ScenarioConfig) -> float | None:
    """Delivered / asked load: open loop, planned over actual time of sending all; closed, users busy over users."""
    table, window = sample.table, sample.window
    sent = table.main & (table.sent_ns != MISSING)
    if isinstance(scenario, OpenConfig):
        if sent.sum() < 2:
            return None
        planned = int(np.ptp(table.scheduled_ns[sent]))
        actual = int(np.ptp(table.sent_ns[sent]))
        return min(1.0, planned / actual) if actual else None
    if not isinstance(scenario, ClosedConfig) or scenario.think_time_s or window.kind != "steady":
        return None
    sent = table.sent_ns != MISSING  # what is not measured keeps users busy all the same
    begin = np.maximum(table.sent_ns[sent], window.start_ns)
    end = np.minimum(table.done_ns[sent], window.end_ns)
    busy = int(np.maximum(end - begin, 0).sum())
    return busy / ((window.end_ns - window.start_ns) * scenario.concurrency)


def find_reasons(
    sample: Sample, scenario: ScenarioConfig, workload: WorkloadConfig, own_error: Mapping[str, Any]
) -> list[Finding]:
    """Everything that speaks against the metrics of this run."""
    return [
        *_of_the_client(own_error, scenario),
        *_of_the_load(sample, scenario, own_error),
        *_of_the_answers(sample, scenario, workload),
    ]


def _of_the_client(own_error: Mapping[str, Any], scenario: ScenarioConfig) -> Iterable[Finding]:
    user_time = own_error["time_source"] == "user"
    delay = own_error["read_delay_us"]["p99"]
    late = (delay is not None and delay * 1000 > DELAY_NS) or (
        user_time and (own_error["busy_share"] or 0.0) > USER_TIME_BUSY_SHARE
    )
    if late:
        yield Finding(reason=Reason.CLIENT_DELAY, tags=EVERYTHING if user_time else RATES)
    if own_error["clock_stepped"]:
        yield Finding(reason=Reason.CLOCK_STEP, tags=LATENCIES)
    if (own_error["coalesced_reads_share"] or 0.0) > COALESCED_SHARE:
        yield Finding(reason=Reason.COALESCED_READS, tags=frozenset({"itl", "inter_chunk_gap", "ttst"}))
    slip = own_error["schedule_slip_us"]["p99"]
    if slip is not None and slip * 1000 > SLIP_NS:
        tags = RATES | {"ttft_from_schedule", "e2e_from_schedule"}
        yield Finding(reason=Reason.CLIENT_SLIP, tags=EVERYTHING if isinstance(scenario, OpenConfig) else tags)


def _of_the_load(sample: Sample, scenario: ScenarioConfig, own_error: Mapping[str, Any]) -> Iterable[Finding]:
    delivered = own_error["delivered_share"]
    if delivered is not None and delivered < DELIVERED_SHARE:
        yield Finding(reason=Reason.UNDER_DELIVERED, tags=RATES)
    if has_one_rate(scenario) and backlog_growing(sample.table, sample.table.main):
        yield Finding(reason=Reason.BACKLOG_GROWING, tags=EVERYTHING)


def _of_the_answers(sample: Sample, scenario: ScenarioConfig, workload: WorkloadConfig) -> Iterable[Finding]:
    table, window = sample.table, sample.window
    ok = table.main & table.with_status(Status.ok)
    failed = int((table.main & table.with_status(Status.error)).sum())
    if failed > ERROR_SHARE * (failed + int(ok.sum())):
        yield Finding(reason=Reason.ERRORS, tags=EVERYTHING)
    if not ok.any():
        return
    if (table.output_tokens[ok] == MISSING).any() or (table.prompt_tokens[ok] == MISSING).any():
        by_tokens = sample.slo.itl_ms is not None or sample.slo.tpot_ms is not None
        yield Finding(reason=Reason.NO_USAGE, tags=_needing(Need.usage) | (GOOD if by_tokens else frozenset()))
    known = ok & (table.output_tokens != MISSING)
    if usage_disagrees(sample, known).sum() > USAGE_SHARE * known.sum():
        yield Finding(reason=Reason.USAGE_MISMATCH, tags=_needing(Need.usage))
    asked = np.where(table.asked_output_tokens == MISSING, workload.output_tokens, table.asked_output_tokens)
    if workload.ignore_eos and (table.output_tokens < asked)[known].any():
        yield Finding(reason=Reason.SHORT_OUTPUT, tags=TO_THE_END | RATES)
    cached = window.measured & (table.cached_tokens != MISSING) & (table.prompt_tokens != MISSING)
    flattered = flattered_by_cache(
        _ratio(int(table.cached_tokens[cached].sum()), int(table.prompt_tokens[cached].sum())) or 0.0
    )
    if flattered and not prefixes_are_shared(scenario, workload):
        yield Finding(reason=Reason.PREFIX_CACHED, tags=flattered)
    several = window.measured & (table.events >= 2) & (table.output_tokens != MISSING)
    unknown = several & ~sample.single_tokens_known
    if unknown.sum() > UNKNOWN_EVENTS_SHARE * several.sum():
        yield Finding(reason=Reason.MULTI_TOKEN_EVENTS, tags=_needing(Need.tokens_per_event))


def asked_output_tokens(table: Table, workload: WorkloadConfig) -> Ints:
    """How many tokens each request asked for; MISSING where that is not known."""
    if (table.asked_output_tokens != MISSING).any():
        return table.asked_output_tokens
    return np.full(len(table), workload.output_tokens, dtype=np.int64)


def usage_disagrees(sample: Sample, rows: Mask) -> Mask:
    """Which of `rows` report fewer tokens than they carried: a token-bearing event is one at least, or the tokens that
    the events themselves tell.
    """
    table, events = sample.table, sample.events
    carried = np.bincount(sample.row_of_event, np.maximum(events.tokens, 1), minlength=len(table))
    return rows & (carried > table.output_tokens)


def prefixes_are_shared(scenario: ScenarioConfig, workload: WorkloadConfig) -> bool:
    """Whether what a prefix cache answers is part of what is measured: the workload or the trace shares prefixes."""
    replayed = isinstance(scenario, TraceConfig) and scenario.lengths and isinstance(workload, SyntheticConfig)
    return replayed or workload.shares_prefixes()


def flattered_by_cache(share: float) -> frozenset[str]:
    """The metrics that look better because the server took this `share` of prompt tokens from its cache."""
    if share > MUCH_CACHED_SHARE:
        return EVERYTHING - BETWEEN_TOKENS
    if share > CACHED_SHARE:
        return TO_THE_FIRST | {"input_throughput", "total_throughput"}
    return frozenset()


def validity_of(metric: Metric, entry: Mapping[str, Any], findings: Iterable[Finding]) -> list[str]:
    """Reason values for one metric: the findings that name it, and `too_few` when it has no interval."""
    values = [finding.reason.value for finding in findings if metric.tag in finding.tags]
    if metric.tag in EVERYTHING and entry["lo"] is None:
        values.append(Reason.TOO_FEW.value)
    return list(dict.fromkeys(values))


def _needing(need: Need) -> frozenset[str]:
    return frozenset(tag for tag, metric in METRICS.items() if need in metric.needs)


def _spread_us(values_ns: Ints) -> dict[str, float | None]:
    if not len(values_ns):
        return {"p50": None, "p99": None, "max": None}
    values: Floats = values_ns / 1000
    return {"p50": float(np.median(values)), "p99": float(np.quantile(values, 0.99)), "max": float(values.max())}


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None
