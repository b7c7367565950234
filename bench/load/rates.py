"""The formulas of rates and counts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from bench.base.clock import NS_PER_MS
from bench.load.columns import MISSING
from bench.load.outcome import Status
from bench.load.sample import Sample, Stream
from bench.load.slo import SloConfig
from bench.load.statistics import Interval, share_interval
from bench.load.table import Ints, Mask, Table

Count = tuple[float | None, Interval | None]
"""(value, 95 % interval)"""


def request_throughput(sample: Sample) -> Stream:
    """Successful requests, counted when they ended."""
    done = sample.table.done_ns[sample.succeeded()]
    return done, np.ones(len(done))


def output_throughput(sample: Sample) -> Stream:
    """Output tokens of successful requests; each event carries its request's mean tokens."""
    table, position = sample.table, sample.row_of_event
    usable = (sample.succeeded() & (table.output_tokens != MISSING))[position]
    share = table.output_tokens / np.maximum(table.events, 1)
    return sample.events.ns[usable], share[position[usable]]


def input_throughput(sample: Sample) -> Stream:
    """Prompt tokens of successful requests, counted at their first token."""
    table = sample.table
    usable = sample.succeeded() & (table.prompt_tokens != MISSING) & (table.first_token_ns != MISSING)
    return table.first_token_ns[usable], table.prompt_tokens[usable].astype(np.float64)


def total_throughput(sample: Sample) -> Stream:
    """Input and output tokens together."""
    parts = (input_throughput(sample), output_throughput(sample))
    return np.concatenate([times for times, _ in parts]), np.concatenate([weights for _, weights in parts])


def met(table: Table, slo: SloConfig) -> Mask:
    """Requests that succeeded within every bound. A bound on a time that is not known is not met.

    Goodput counts these (Zhong et al., DistServe, OSDI 2024): TTFT, mean time per output token and end-to-end each
    within its bound. A request of one token has no time per output token: that bound does not concern it.
    """
    good: Mask = table.with_status(Status.ok) & (table.first_token_ns != MISSING)
    if slo.ttft_ms is not None:
        good &= table.first_token_ns - table.sent_ns <= slo.ttft_ms * NS_PER_MS
    if slo.e2e_ms is not None:
        good &= table.last_token_ns - table.sent_ns <= slo.e2e_ms * NS_PER_MS
    per_token = [limit for limit in (slo.itl_ms, slo.tpot_ms) if limit is not None]
    if per_token:
        span = table.last_token_ns - table.first_token_ns
        allowed = min(per_token) * NS_PER_MS * np.maximum(table.output_tokens - 1, 0)
        good &= (table.output_tokens != MISSING) & ((table.output_tokens == 1) | (span <= allowed))
    return good


def goodput(sample: Sample) -> Stream:
    """Requests that met every bound of the SLO, counted when they ended."""
    done = sample.table.done_ns[sample.table.main & met(sample.table, sample.slo)]
    return done, np.ones(len(done))


def slo_attainment(sample: Sample) -> Count:
    """Measured requests and failed ones: which share met every bound."""
    table, window = sample.table, sample.window
    failed = table.main & table.with_status(Status.error) & (table.done_ns > window.start_ns)
    counted = window.measured | failed
    if not counted.any():
        return None, None
    share = float((counted & met(table, sample.slo)).sum()) / float(counted.sum())
    return share, share_interval(share, int(counted.sum()) // window.wave)


def error_rate(sample: Sample) -> Count:
    """Over the whole run without warm-up; cancelled requests are neither failed nor successful."""
    failed = sample.table.main & sample.table.with_status(Status.error)
    return share_of(sample, int(failed.sum()))


def share_of(sample: Sample, failed: int) -> Count:
    """`failed` requests as a share of those that ended, over the whole run without warm-up."""
    ended = int((sample.table.main & sample.table.with_status(Status.error)).sum()) + int(sample.succeeded().sum())
    if not ended:
        return None, None
    return failed / ended, share_interval(failed / ended, ended // sample.window.wave)


def total(column: str) -> Callable[[Sample], Count]:
    """The sum of a column over the whole run without warm-up."""

    def count(sample: Sample) -> Count:
        values: Ints = getattr(sample.table, column)
        known = values[sample.table.main & (values != MISSING)]
        return (int(known.sum()) if len(known) else None), None

    return count
