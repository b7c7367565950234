"""What crosses from the harness to a worker: one JSON file, and two binary ones beside it for what is long.

The plan file holds one record a request (PLAN_DTYPE), the bodies file their bodies one after another; a worker maps
both, so that a million requests and their prompts cost no memory. The API key is not here: it travels in the
environment.
"""

from __future__ import annotations

import dataclasses
import struct
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.base.files import read_json, write_json

API_KEY_VARIABLE = "QUANTBENCH_LOAD_API_KEY"

_PACK = struct.Struct("<IBHIIiiiqqQI")
PLAN_DTYPE = np.dtype(
    [
        ("slot", "<u4"),
        ("main", "u1"),
        ("turn", "<u2"),
        ("insert_at", "<u4"),
        ("own_length", "<u4"),
        ("session", "<i4"),
        ("input_tokens", "<i4"),
        ("output_tokens", "<i4"),
        ("offset_ns", "<i8"),
        ("think_ns", "<i8"),
        ("body_start", "<u8"),
        ("body_length", "<u4"),
    ]
)
"""main: 0 in the warm-up. session: -1 where it is none; turn: from 0. insert_at: where in its body the earlier turns
go; own_length: bytes from there that are this turn's part of later ones. input_tokens, output_tokens: what was asked
for (-1: the data does not say). offset_ns: from the start, in an open loop. think_ns: thought after it. Requests are in
order of slot, the turns of a session one after another.
"""


@dataclass(frozen=True, kw_only=True)
class WorkerSpec:
    """Everything a worker needs. Its recording, results and log carry `stem` in their names, in `directory`."""

    directory: str
    stem: str
    worker: int
    name: str
    """Scenario name and repeat: the beginning of every X-Request-Id."""
    tls: bool
    ca_file: str | None
    server_name: str
    authority: str
    path: str
    family: int
    address: Any
    """As `socket.connect` takes it; a list in JSON becomes a tuple again."""
    kernel_stamps: bool
    closed: bool
    users: int
    warmup_users: int
    present: list[list[list[int]]] | None
    """For each user the intervals (ns from the start) in which it asks; None: all throughout."""
    sessions: bool
    """Whether answers become part of later requests."""
    chat: bool
    duration_ns: int | None
    connect_ns: int
    first_token_ns: int
    stall_ns: int
    total_ns: int
    breaker: int
    commands_fd: int
    """Reading end: `go NS` starts the next phase at that CLOCK_MONOTONIC time, `stop` or end of file cancels."""
    reports_fd: int
    """Writing end: one JSON object a line."""

    def write(self) -> Path:
        """Write `{stem}.json`; returns its path."""
        path = Path(self.directory) / f"{self.stem}.json"
        write_json(path, dataclasses.asdict(self))
        return path


def read_spec(path: Path) -> WorkerSpec:
    """Read what `WorkerSpec.write` wrote."""
    value = read_json(path)
    if isinstance(value["address"], list):
        value["address"] = tuple(value["address"])
    return WorkerSpec(**value)


@dataclass(frozen=True, kw_only=True)
class PlannedRequest:
    """A request as it goes into a plan; see PLAN_DTYPE."""

    slot: int
    main: bool
    offset_ns: int
    think_ns: int
    body: bytes
    input_tokens: int | None = None
    output_tokens: int | None = None
    session: int | None = None
    turn: int = 0
    insert_at: int = 0
    own_length: int = 0


class PlanWriter:
    """Writes plan and bodies of one worker, request by request. Use as a context manager."""

    def __init__(self, directory: Path, stem: str) -> None:
        self._plan = plan_path(directory, stem).open("wb")
        self._bodies = bodies_path(directory, stem).open("wb")
        self._start = 0

    def add(self, request: PlannedRequest) -> None:
        entry = (
            request.slot,
            request.main,
            request.turn,
            request.insert_at,
            request.own_length,
            -1 if request.session is None else request.session,
            -1 if request.input_tokens is None else request.input_tokens,
            -1 if request.output_tokens is None else request.output_tokens,
            request.offset_ns,
            request.think_ns,
            self._start,
            len(request.body),
        )
        self._plan.write(_PACK.pack(*entry))
        self._bodies.write(request.body)
        self._start += len(request.body)

    def __enter__(self) -> PlanWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._plan.close()
        self._bodies.close()


def plan_path(directory: Path, stem: str) -> Path:
    """Where a worker's plan is."""
    return directory / f"{stem}.plan"


def bodies_path(directory: Path, stem: str) -> Path:
    """Where a worker's request bodies are."""
    return directory / f"{stem}.bodies"


def read_plan(directory: Path, stem: str) -> npt.NDArray[np.void]:
    """The requests of a worker (PLAN_DTYPE), mapped where there are any."""
    path = plan_path(directory, stem)
    if not path.stat().st_size:
        return np.empty(0, dtype=PLAN_DTYPE)
    return np.memmap(path, dtype=PLAN_DTYPE, mode="r")
