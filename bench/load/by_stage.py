"""The stages of a scenario that changes its load, each with figures of its own: how latency follows the load."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from bench.base.clock import NS_PER_S
from bench.load.arrivals.config import ClosedStagesConfig, StagesConfig
from bench.load.arrivals.stages import presence
from bench.load.config import ScenarioConfig
from bench.load.metrics import METRICS
from bench.load.outcome import Status
from bench.load.sample import Sample
from bench.load.schedule import draw_offsets
from bench.load.table import MISSING

TAGS = ("ttft", "itl", "tpot", "e2e_latency", "request_throughput", "output_throughput")


def by_stage(sample: Sample, scenario: ScenarioConfig, *, repeat: int) -> list[dict[str, Any]] | None:
    """For each stage what was asked, how many requests were due in it, and TAGS: latencies of those requests,
    throughputs of what ended while it lasted. None for scenarios without stages.

    Stages are short and follow on each other: what one leaves in the queue, the next one has. No interval is given.
    """
    if not isinstance(scenario, StagesConfig | ClosedStagesConfig):
        return None
    table = sample.table
    main = table.main & (table.scheduled_ns != MISSING)
    if not main.any():
        return []
    begin_ns = int(table.scheduled_ns[main].min()) - _first_offset_ns(scenario, repeat)
    ok, failed = (main & table.with_status(status) for status in (Status.ok, Status.error))
    found = []
    for stage in scenario.read():
        end_ns = begin_ns + round(stage.duration_s * NS_PER_S)
        due = main & (table.scheduled_ns >= begin_ns) & (table.scheduled_ns < end_ns)
        window = dataclasses.replace(sample.window, measured=ok & due, start_ns=begin_ns, end_ns=end_ns)
        part = dataclasses.replace(sample, window=window)
        entries = {tag: METRICS[tag].compute(part) for tag in TAGS}
        found.append(
            {
                "level": stage.level,
                "to_level": stage.to_level,
                "seconds": stage.duration_s,
                "requests": int(due.sum()),
                "failed": int((failed & due).sum()),
                "in_flight_mean": _mean_in_flight(sample, begin_ns, end_ns),
                **{
                    tag: entry["value"] if "value" in entry else {name: entry[name] for name in ("p50", "p99", "n")}
                    for tag, entry in entries.items()
                },
            }
        )
        begin_ns = end_ns
    return found


def _first_offset_ns(scenario: StagesConfig | ClosedStagesConfig, repeat: int) -> int:
    """When the first request was due, counted from the start."""
    if isinstance(scenario, StagesConfig):
        return int(draw_offsets(scenario, repeat)[0])
    return min(begin for begin, _ in presence(scenario.read(), 0))


def _mean_in_flight(sample: Sample, begin_ns: int, end_ns: int) -> float:
    """Requests in flight, averaged over a time."""
    table = sample.table
    sent = (table.sent_ns != MISSING) & (table.done_ns != MISSING)
    overlap = np.minimum(table.done_ns[sent], end_ns) - np.maximum(table.sent_ns[sent], begin_ns)
    return float(np.maximum(overlap, 0).sum() / (end_ns - begin_ns))
