"""What `quantbench calibrate` is asked and what it leaves: the load generator's own error on this machine, by streams.

It is kept in the user's cache folder under a key of host, processor, kernel and Python, and every later summary on the
same machine carries the row that bounds it (`own_error.calibrated`).
"""

from __future__ import annotations

import os
import platform
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.base.files import read_json, write_json
from bench.base.hashing import key_of
from bench.base.machine import cpu_model
from bench.base.paths import cache_dir
from bench.base.schema import schema
from bench.load.config import TimeSource

SCHEMA_VERSION = 1


@schema(None, "calibrate")
@dataclass(frozen=True, kw_only=True)
class CalibrateConfig:
    """Root of `quantbench calibrate`: closed loops of `streams` streams against the truth server on loopback.

    Each runs for `seconds`, the first two waves left out. The server sends `tokens` tokens an answer, the first after
    `ttft_ms`, then one every `itl_ms`.
    """

    streams: list[int] = field(default_factory=lambda: [16, 64, 256, 512])
    seconds: float = 3.0
    ttft_ms: float = 50.0
    itl_ms: float = 10.0
    tokens: int = 32
    time_source: TimeSource = TimeSource.auto

    def __post_init__(self) -> None:
        if not self.streams or min(self.streams) < 1:
            raise ValueError(f"streams is {self.streams}; name at least one number of streams, each at least 1")
        if self.tokens < 2:
            raise ValueError(f"tokens is {self.tokens}; it must be at least 2")
        wave_s = (self.ttft_ms + self.tokens * self.itl_ms) / 1000
        if self.seconds < 4 * wave_s:
            raise ValueError(f"seconds is {self.seconds:g}; four waves of {wave_s:g} s must fit, two are left out")


def machine() -> dict[str, Any]:
    """What the calibration holds for."""
    return {
        "host": socket.gethostname(),
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def calibration_file() -> Path:
    """Where this machine's calibration is kept."""
    return cache_dir() / "calibration" / f"{key_of(machine())[:12]}.json"


def write_calibration(value: dict[str, Any]) -> Path:
    """Keep rows beside those of the other time source; returns the file."""
    path = calibration_file()
    older = read_calibration()
    sources = {row["time_source"] for row in value["rows"]}
    kept = [row for row in (older or {}).get("rows", []) if row["time_source"] not in sources]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {**value, "rows": [*value["rows"], *kept]})
    return path


def read_calibration() -> dict[str, Any] | None:
    """This machine's calibration, or None where there is none that can be read."""
    try:
        value = read_json(calibration_file())
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) and value.get("schema_version") == SCHEMA_VERSION else None


def peak_in_flight(sent_ns: npt.NDArray[np.int64], done_ns: npt.NDArray[np.int64]) -> int:
    """How many requests were in flight at most; negative times are missing."""
    sent = (sent_ns >= 0) & (done_ns >= 0)
    times = np.concatenate([sent_ns[sent], done_ns[sent]])
    changes = np.repeat([1, -1], int(sent.sum()))
    # An answer that ends when the next request is sent makes room for it.
    return int(np.cumsum(changes[np.lexsort((changes, times))]).max(initial=0))


def bound_for(streams: int, time_source: str) -> dict[str, Any] | None:
    """The row with the fewest streams that is not fewer than a worker had; None where that was never calibrated."""
    rows = (read_calibration() or {}).get("rows", [])
    fitting = [row for row in rows if row["time_source"] == time_source and row["streams"] >= streams]
    return min(fitting, key=lambda row: int(row["streams"]), default=None)
