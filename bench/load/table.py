"""The recorded requests and events as columns; what metrics are computed from and what Parquet is written from.

Times are CLOCK_MONOTONIC ns. A missing number is MISSING (-1) in here and null in Parquet.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.base.files import sync
from bench.load.outcome import Status

MISSING = -1

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Table:
    """One row a request, in order of slot. `taken_ns`: when the client took the request up; `sent_ns`: just before its
    first byte was handed to the kernel; `sent_kernel_ns`: when the kernel handed its last byte to the network device
    (missing where it does not tell); `done_ns`: last byte of the answer.
    """

    slot: Ints
    main: Mask
    worker: Ints
    scheduled_ns: Ints
    taken_ns: Ints
    sent_ns: Ints
    sent_kernel_ns: Ints
    first_token_ns: Ints
    last_token_ns: Ints
    done_ns: Ints
    prompt_tokens: Ints
    cached_tokens: Ints
    output_tokens: Ints
    events: Ints
    http_status: Ints
    status: Sequence[str]
    error_kind: Sequence[str | None]
    error_message: Sequence[str | None]
    finish_reason: Sequence[str | None]

    def __len__(self) -> int:
        return len(self.slot)

    def with_status(self, status: Status) -> Mask:
        """Rows that ended so."""
        return np.array([value == status for value in self.status], dtype=bool)


@dataclass(frozen=True, kw_only=True)
class Events:
    """One row a token-bearing event, grouped by slot, in order of time within a slot."""

    slot: Ints
    ns: Ints
    bytes: Ints
    tokens: Ints

    def __len__(self) -> int:
        return len(self.slot)


def make_table(rows: Iterable[dict[str, Any]], *, warmup: int) -> Table:
    """Columns from request objects as the digest writes them, with `worker` added; slots below `warmup` are warm-up."""
    ordered = sorted(rows, key=lambda row: int(row["slot"]))

    def ints(name: str) -> Ints:
        return np.array([MISSING if row[name] is None else row[name] for row in ordered], dtype=np.int64)

    slots = ints("slot")
    return Table(
        slot=slots,
        main=slots >= warmup,
        worker=ints("worker"),
        scheduled_ns=ints("scheduled_ns"),
        taken_ns=ints("taken_ns"),
        sent_ns=ints("sent_ns"),
        sent_kernel_ns=ints("sent_kernel_ns"),
        first_token_ns=ints("first_token_ns"),
        last_token_ns=ints("last_token_ns"),
        done_ns=ints("done_ns"),
        prompt_tokens=ints("prompt_tokens"),
        cached_tokens=ints("cached_tokens"),
        output_tokens=ints("output_tokens"),
        events=ints("events"),
        http_status=ints("http_status"),
        status=[row["status"] for row in ordered],
        error_kind=[row["error_kind"] for row in ordered],
        error_message=[row["error_message"] for row in ordered],
        finish_reason=[row["finish_reason"] for row in ordered],
    )


def make_events(parts: Sequence[npt.NDArray[np.void]]) -> Events:
    """Merge the event arrays of the workers (EVENT_DTYPE of bench.load.digest)."""
    merged = np.concatenate(parts)
    order = np.argsort(merged["slot"], kind="stable")

    def column(name: str) -> Ints:
        return np.asarray(merged[name][order], dtype=np.int64)

    return Events(slot=column("slot"), ns=column("ns"), bytes=column("bytes"), tokens=column("tokens"))


def load_parquet() -> None:
    """Load what `write_parquet` needs; pyarrow brings pandas with it at the first array, a third of a second."""
    import pyarrow as pa
    import pyarrow.parquet

    pa.array([0])


def write_parquet(table: Table, events: Events, out: Path, *, scenario: str, repeat: int) -> None:
    """Write `requests.parquet` and `events.parquet` into `out`, each whole or not at all."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    size = len(table)

    def ints(values: Ints, kind: Any) -> Any:
        return pa.array(values, type=kind, mask=values == MISSING)

    def words(values: Sequence[str | None]) -> Any:
        return pa.array(values, type=pa.string())

    nanoseconds, count = pa.int64(), pa.int32()
    requests = pa.table(
        {
            "request_id": pa.array(table.slot, type=nanoseconds),
            "scenario": words([scenario] * size),
            "repeat": pa.array(np.full(size, repeat), type=count),
            "worker": ints(table.worker, count),
            "phase": words(["main" if main else "warmup" for main in table.main.tolist()]),
            "scheduled_ns": ints(table.scheduled_ns, nanoseconds),
            "taken_ns": ints(table.taken_ns, nanoseconds),
            "sent_ns": ints(table.sent_ns, nanoseconds),
            "sent_kernel_ns": ints(table.sent_kernel_ns, nanoseconds),
            "first_token_ns": ints(table.first_token_ns, nanoseconds),
            "last_token_ns": ints(table.last_token_ns, nanoseconds),
            "done_ns": ints(table.done_ns, nanoseconds),
            "prompt_tokens": ints(table.prompt_tokens, count),
            "cached_tokens": ints(table.cached_tokens, count),
            "output_tokens": ints(table.output_tokens, count),
            "events": ints(table.events, count),
            "status": words(table.status),
            "error_kind": words(table.error_kind),
            "error_message": words(table.error_message),
            "finish_reason": words(table.finish_reason),
            "http_status": ints(table.http_status, count),
        }
    )
    timeline = pa.table(
        {
            "request_id": pa.array(events.slot, type=nanoseconds),
            "ns": pa.array(events.ns, type=nanoseconds),
            "bytes": pa.array(events.bytes, type=count),
            "tokens": ints(events.tokens, count),
        }
    )
    for name, content in (("requests", requests), ("events", timeline)):
        temporary = out / f".{name}.parquet.tmp"
        pq.write_table(content, temporary, compression="zstd")
        sync(temporary)
        temporary.replace(out / f"{name}.parquet")
    sync(out)
