"""The summary of a run: metrics, errors, the window they come from, and the client's own error."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from bench.base.validity import Reason
from bench.load.config import ScenarioConfig, SyntheticConfig, WorkloadConfig
from bench.load.metrics import METRICS, Sample
from bench.load.outcome import Status
from bench.load.own_error import EVERYTHING, describe_own_error, find_reasons, validity_of
from bench.load.prompts import Prompts
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
) -> dict[str, Any]:
    """What `summary.json` holds. `run` is put first: name, repeat, status, failure."""
    sample = Sample(table=table, events=events, window=find_window(table, scenario))
    own_error = describe_own_error(sample, scenario, own, delays_ns, time_source=time_source)
    findings = find_reasons(sample, scenario, workload, own_error)
    entries = {}
    for tag, metric in METRICS.items():
        entry = metric.compute(sample)
        entry["validity"] = validity_of(metric, entry, findings)
        entries[tag] = entry
    errors = Counter(kind for kind, main in zip(table.error_kind, table.main, strict=True) if main and kind)
    return {
        "schema_version": SCHEMA_VERSION,
        **run,
        "metrics": entries,
        "errors": dict(errors.most_common()),
        "validity": list(dict.fromkeys(finding.reason.value for finding in findings)),
        "requests": _requests(table, scenario),
        "tokens": {phase: _tokens(table, phase) for phase in ("main", "warmup")},
        "window": sample.window.describe() | {"asked_drop_waves": scenario.drop_waves},
        "own_error": own_error,
        "prompts": _prompts(table, workload, prompts),
        "first_errors": _first_errors(table),
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
        "warmup": int((~main).sum()),
        "warmup_failed": int((~main & table.with_status(Status.error)).sum()),
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


def _prompts(table: Table, workload: WorkloadConfig, prompts: Prompts) -> dict[str, Any]:
    counted = table.prompt_tokens[table.prompt_tokens != MISSING]
    return {
        "asked_input_tokens": workload.input_tokens if isinstance(workload, SyntheticConfig) else None,
        "exact": prompts.exact,
        "how": prompts.how,
        "counted_min": int(counted.min()) if len(counted) else None,
        "counted_p50": float(np.median(counted)) if len(counted) else None,
        "counted_max": int(counted.max()) if len(counted) else None,
    }


def _first_errors(table: Table) -> dict[str, str]:
    """One message of each error kind, warm-up included."""
    found: dict[str, str] = {}
    for kind, message in zip(table.error_kind, table.error_message, strict=True):
        if kind and message:
            found.setdefault(kind, message)
    return found
