"""Timelines made by hand, as the columns that a recording is digested into."""

from __future__ import annotations

from typing import Any

import numpy as np

from bench.load.columns import ERROR_KINDS, EVENT_DTYPE, MISSING, REQUEST_DTYPE, STATUSES
from bench.load.table import Events, Table, make_events, make_table

MS = 1_000_000
FINISH = ("length", "stop")


def request(
    slot: int,
    sent_ms: float,
    gaps_ms: list[float],
    *,
    tokens: int | None = None,
    token_counts: list[int] | None = None,
    **more: Any,
) -> tuple[dict[str, Any], list[tuple[int, int, int, int]]]:
    """A request and its events: `gaps_ms` from sending to the first event, then between events."""
    times = (np.cumsum([sent_ms, *gaps_ms])[1:] * MS).astype(int).tolist()
    row: dict[str, Any] = {
        "slot": slot,
        "scheduled_ns": int(sent_ms * MS) - 2 * MS,
        "taken_ns": int(sent_ms * MS) - MS,
        "sent_ns": int(sent_ms * MS),
        "sent_kernel_ns": None,
        "first_token_ns": times[0] if times else None,
        "first_answer_ns": times[0] if times else None,
        "last_token_ns": times[-1] if times else None,
        "done_ns": (times[-1] if times else int(sent_ms * MS)) + MS,
        "prompt_tokens": 10,
        "cached_tokens": 0,
        "output_tokens": len(times) if tokens is None else tokens,
        "events": len(times),
        "http_status": 200,
        "status": "ok",
        "error_kind": None,
        "finish": "length",
        **more,
    }
    counts = token_counts or [-1] * len(times)
    return row, [(slot, at, 50, count) for at, count in zip(times, counts, strict=True)]


Requests = list[tuple[dict[str, Any], list[tuple[int, int, int, int]]]]


def tables(requests: Requests, warmup: int = 0) -> tuple[Table, Events]:
    """What one worker would have recorded."""
    events = [event for _, events in requests for event in events]
    part = np.array([_coded(row) for row, _ in requests], dtype=REQUEST_DTYPE)
    table = make_table([part], warmup=warmup, finish_reasons=[FINISH])
    return table, make_events([np.array(events, dtype=EVENT_DTYPE)])


def _coded(row: dict[str, Any]) -> tuple[int, ...]:
    codes = {
        "status": STATUSES.index(row["status"]),
        "error": None if row["error_kind"] is None else ERROR_KINDS.index(row["error_kind"]),
        "finish": FINISH.index(row["finish"]),
    }
    values = {**row, **codes}
    assert REQUEST_DTYPE.names is not None
    return tuple(MISSING if values[name] is None else values[name] for name in REQUEST_DTYPE.names)
