"""Simulated servers: requests in order of arrival, so many of them at once, service times drawn."""

from __future__ import annotations

import heapq

import numpy as np

from bench.load.columns import MISSING, REQUEST_DTYPE, STATUSES
from bench.load.table import Floats, Table, make_table

SERVICE_S = 1.0


def queue(
    generator: np.random.Generator, requests: int, load: float, *, slots: int = 16, poisson: bool = True
) -> tuple[Floats, Floats]:
    """(arrival, end) in s of each request at `load` times the capacity; services are log-normal, of median 1 s."""
    services = generator.lognormal(0.0, 0.5, requests) * SERVICE_S
    mean_gap = np.exp(0.125) * SERVICE_S / slots / load
    gaps = generator.exponential(mean_gap, requests) if poisson else np.full(requests, mean_gap)
    arrivals = np.cumsum(gaps)
    free = [0.0] * slots
    ends = np.empty(requests)
    for number, (arrival, service) in enumerate(zip(arrivals.tolist(), services.tolist(), strict=True)):
        ends[number] = max(heapq.heappop(free), arrival) + service
        heapq.heappush(free, ends[number])
    return arrivals, ends


def recorded(arrivals: Floats, ends: Floats) -> Table:
    """As a run would have recorded it: first tokens half-way."""
    part = np.zeros(len(arrivals), dtype=REQUEST_DTYPE)
    sent_ns, done_ns = ((values * 1e9).astype(np.int64) + 1_000_000_000 for values in (arrivals, ends))
    part["slot"] = np.arange(len(arrivals))
    part["status"] = STATUSES.index("ok")
    part["error"] = part["finish"] = MISSING
    part["output_tokens"] = part["events"] = 2
    for name in ("scheduled_ns", "taken_ns", "sent_ns", "sent_kernel_ns"):
        part[name] = sent_ns
    part["first_token_ns"] = part["first_answer_ns"] = (sent_ns + done_ns) // 2
    part["last_token_ns"] = part["done_ns"] = done_ns
    return make_table([part], warmup=0)
