"""The summary of a run: metrics, errors, the window they come from, and the client's own error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bench.base.clock import NS_PER_MS
from bench.base.validity import Reason
from bench.load.by_stage import by_stage
from bench.load.config import ScenarioConfig, WorkloadConfig
from bench.load.metrics import METRICS, scalar
from bench.load.outcome import Status
from bench.load.own_error import EVERYTHING, asked_output_tokens, describe_own_error, find_reasons, validity_of
from bench.load.prompts import Prompts
from bench.load.rates import share_of
from bench.load.sample import Sample
from bench.load.slo import SloConfig, judge
from bench.load.table import MISSING, Events, Ints, Table
from bench.load.window import find_window

SCHEMA_VERSION = 1


def summarise(
    table: Table,
    events: Events,
    *,
    scenario: ScenarioConfig,
    workload: WorkloadConfig,
    own: list[dict[str, Any]],
    delays_ns: Ints,
    time_source: str,
    prompts: Prompts,
    run: Mapping[str, Any],
    slo: SloConfig = SloConfig(),  # noqa: B008 - immutable
) -> dict[str, Any]:
    """What `summary.json` holds. `run` is put first: name, repeat, status, failure."""
    sample = Sample(table=table, events=events, window=find_window(table, scenario), slo=slo)
    own_error = describe_own_error(sample, scenario, own, delays_ns, time_source=time_source)
    findings = find_reasons(sample, scenario, workload, own_error)
    entries = {}
    for tag, metric in METRICS.items():
        if not metric.applies(sample):
            continue
        entry = metric.compute(sample)
        entry["validity"] = validity_of(metric, entry, findings)
        entries[tag] = entry
    return {
        "schema_version": SCHEMA_VERSION,
        **run,
        "metrics": entries,
        "slo": judge(entries, slo) if slo.given else None,
        "errors": table.errors(table.main),
        "error_rates": {
            kind: scalar("ratio", *share_of(sample, count)) for kind, count in table.errors(table.main).items()
        },
        "validity": list(dict.fromkeys(finding.reason.value for finding in findings)),
        "requests": _requests(table, scenario),
        "tokens": {phase: _tokens(table, phase) for phase in ("main", "warmup")},
        "window": sample.window.describe() | {"asked_drop_waves": scenario.drop_waves},
        "stages": by_stage(sample, scenario, repeat=int(run.get("repeat", 0))),
        "start_up": _start_up(sample),
        "own_error": own_error,
        "output_check": _output_check(table, workload),
        "prompts": _prompts(table, prompts),
        "first_errors": table.first_messages(),
    }


def _start_up(sample: Sample) -> dict[str, Any]:
    """The requests that were left out at the start: when many come at once, the first tokens take longest."""
    table, window = sample.table, sample.window
    early = sample.succeeded() & ~window.measured & (table.first_token_ns != MISSING)
    ttft_ms = (table.first_token_ns - table.sent_ns)[early] / NS_PER_MS
    return {
        "requests": int(early.sum()),
        "ttft_p50_ms": float(np.median(ttft_ms)) if len(ttft_ms) else None,
        "ttft_max_ms": float(ttft_ms.max()) if len(ttft_ms) else None,
    }


def _output_check(table: Table, workload: WorkloadConfig) -> dict[str, int]:
    """How many successful requests gave as many tokens as were asked for; fewer is no fault where the model may end."""
    asked = asked_output_tokens(table, workload)
    ok = table.main & table.with_status(Status.ok)
    known = ok & (table.output_tokens != MISSING) & (asked != MISSING)
    return {
        "as_asked": int((known & (table.output_tokens == asked)).sum()),
        "fewer": int((known & (table.output_tokens < asked)).sum()),
        "more": int((known & (table.output_tokens > asked)).sum()),
        "unknown": int((ok & ~known).sum()),
    }


def advice(summary: Mapping[str, Any]) -> list[str]:
    """What to do about the reasons that spoil whole groups of metrics, one line each."""
    found = {reason for tag in EVERYTHING for reason in summary["metrics"].get(tag, {}).get("validity", [])}
    return [f"{reason.value}: {reason.advice}" for reason in Reason if reason.value in found]


def _requests(table: Table, scenario: ScenarioConfig) -> dict[str, int]:
    main = table.main
    return {
        "asked": scenario.requests,
        "taken": int(main.sum()),
        "ok": int((main & table.with_status(Status.ok)).sum()),
        "failed": int((main & table.with_status(Status.error)).sum()),
        "cancelled": int((main & table.with_status(Status.cancelled)).sum()),
        "warmup": int((~main & ~table.behind_main).sum()),
        "warmup_failed": int((~main & ~table.behind_main & table.with_status(Status.error)).sum()),
        "cooldown": int(table.behind_main.sum()),
    }


def _tokens(table: Table, phase: str) -> dict[str, int | None]:
    """Sums over a phase, failed requests with usage too; None when a successful request does not say."""
    rows = table.main if phase == "main" else ~table.main
    succeeded = rows & table.with_status(Status.ok)
    totals: dict[str, int | None] = {}
    for name in ("prompt_tokens", "cached_tokens", "output_tokens"):
        values: Ints = getattr(table, name)
        known = bool((values[succeeded] != MISSING).all())
        totals[name] = int(values[rows & (values != MISSING)].sum()) if known else None
    return totals


def _asked(table: Table, direction: str) -> int | dict[str, float] | None:
    """The length that was asked for: one number, how they spread, or None where the data had the say."""
    lengths: Ints = getattr(table, f"asked_{direction}_tokens")[table.main]
    known = lengths[lengths != MISSING]
    if not len(known):
        return None
    low, high = int(known.min()), int(known.max())
    return low if low == high else {"min": low, "p50": float(np.median(known)), "max": high}


def _prompts(table: Table, prompts: Prompts) -> dict[str, Any]:
    counted = table.prompt_tokens[table.prompt_tokens != MISSING]
    return {
        **{f"asked_{direction}_tokens": _asked(table, direction) for direction in ("input", "output")},
        "exact": prompts.exact,
        "how": prompts.how,
        "counted_min": int(counted.min()) if len(counted) else None,
        "counted_p50": float(np.median(counted)) if len(counted) else None,
        "counted_max": int(counted.max()) if len(counted) else None,
    }
