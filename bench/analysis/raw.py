"""The recorded requests of a load as columns, read whole by pyarrow: no work a row in Python."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.analysis.results import Measurement, mapping, number

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

_NUMBERS = ("scheduled_ns", "sent_ns", "first_token_ns", "last_token_ns", "done_ns", "prompt_tokens", "output_tokens")
_WORDS = ("status", "phase")
NS_PER_MS = 1e6


@dataclass(frozen=True, kw_only=True)
class Requests:
    """One entry a request, all of shape (requests,), warm-up left out; a missing number is nan.

    Times are ns. `ok`: succeeded; `failed`: ended with an error (cancelled requests are neither); `measured`: its
    latencies count, as the summary's window has it, and it was not cancelled.
    """

    scheduled_ns: Floats
    sent_ns: Floats
    first_token_ns: Floats
    last_token_ns: Floats
    done_ns: Floats
    prompt_tokens: Floats
    output_tokens: Floats
    ok: Mask
    failed: Mask
    measured: Mask

    def __len__(self) -> int:
        return len(self.ok)

    @property
    def ttft_ms(self) -> Floats:
        """Time to first token: first token - sent."""
        return (self.first_token_ns - self.sent_ns) / NS_PER_MS

    @property
    def e2e_ms(self) -> Floats:
        """Last token - sent."""
        return (self.last_token_ns - self.sent_ns) / NS_PER_MS

    @property
    def tpot_ms(self) -> Floats:
        """(last - first token) / (output tokens - 1); nan below two tokens."""
        gaps = np.where(self.output_tokens >= 2, self.output_tokens - 1, np.nan)
        return (self.last_token_ns - self.first_token_ns) / gaps / NS_PER_MS


def read_requests(measurement: Measurement, numbers_read: Sequence[str] = _NUMBERS) -> Requests | None:
    """The requests of a load; None where the file is missing, damaged or lacks a column that is needed.

    Of the numbers only `numbers_read` are read, the others are nan.
    """
    if measurement.directory is None:
        return None
    columns = read_columns(measurement, "requests.parquet", (*numbers_read, *_WORDS))
    if columns is None or not {"sent_ns", "status"} <= columns.keys():
        return None
    size = len(columns["status"])
    main = columns["phase"] == "main" if "phase" in columns else np.ones(size, dtype=bool)

    def numbers(name: str) -> Floats:
        if name not in columns:
            return np.full(int(main.sum()), np.nan)
        return np.asarray(columns[name][main], dtype=np.float64)

    status, sent = columns["status"][main], numbers("sent_ns")
    return Requests(
        scheduled_ns=numbers("scheduled_ns"),
        sent_ns=sent,
        first_token_ns=numbers("first_token_ns"),
        last_token_ns=numbers("last_token_ns"),
        done_ns=numbers("done_ns"),
        prompt_tokens=numbers("prompt_tokens"),
        output_tokens=numbers("output_tokens"),
        ok=status == "ok",
        failed=status == "error",
        measured=_in_window(measurement, sent) & (status != "cancelled"),
    )


def _in_window(measurement: Measurement, sent: Floats) -> Mask:
    """The requests whose latencies count, as `bench.load.window` chooses them and the summary says it did.

    A closed loop leaves out its first waves in order of sending; others what was sent before the window.
    """
    window = mapping(measurement.summary.get("window"))
    inside: Mask = np.isfinite(sent)
    dropped = (number(window.get("dropped_waves")) or 0) * (number(window.get("requests_in_flight")) or 0)
    start = number(window.get("start_ns"))
    if dropped:
        order = np.argsort(np.where(inside, sent, np.inf), kind="stable")
        inside = inside.copy()
        inside[order[: int(dropped)]] = False
    elif start is not None:
        inside = inside & (sent >= start)
    return inside


def read_columns(measurement: Measurement, file: str, names: tuple[str, ...]) -> dict[str, Any] | None:
    """Columns of a measurement's Parquet file as numpy arrays, those of `names` that are there; None: unreadable.

    Only the file itself is read: never a partitioned folder, whose names would come from the path.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if measurement.directory is None:
        return None
    try:
        with pq.ParquetFile(measurement.directory / file) as opened:
            there = [name for name in names if name in opened.schema_arrow.names]
            table = opened.read(columns=there, use_threads=False)
        return {name: table[name].to_numpy(zero_copy_only=False) for name in there}
    except (OSError, ValueError, pa.ArrowException):
        return None
