"""What crosses from the harness to a worker: one JSON file, and two binary ones beside it for what is long.

The plan file holds one record a request (`PLAN`): slot, phase (0 warm-up, 1 main), offset from the start in ns (open
loop; 0 in a closed one), and where its body lies in the bodies file. The API key is not here: it travels in the
environment.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.base.files import read_json, write_json

API_KEY_VARIABLE = "QUANTBENCH_LOAD_API_KEY"
PLAN = struct.Struct("<IBqQI")


@dataclass(frozen=True, kw_only=True)
class PlannedRequest:
    """A request of a worker's share."""

    slot: int
    main: bool
    offset_ns: int
    body_start: int
    body_length: int


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
    think_ns: int
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

    @property
    def plan_file(self) -> Path:
        return Path(self.directory) / f"{self.stem}.plan"

    @property
    def bodies_file(self) -> Path:
        return Path(self.directory) / f"{self.stem}.bodies"

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


def write_plan(spec: WorkerSpec, requests: Iterable[tuple[int, bool, int, bytes]]) -> None:
    """Write plan and bodies of a worker from (slot, main, offset_ns, body)."""
    start = 0
    with spec.plan_file.open("wb") as plan, spec.bodies_file.open("wb") as bodies:
        for slot, main, offset_ns, body in requests:
            plan.write(PLAN.pack(slot, main, offset_ns, start, len(body)))
            bodies.write(body)
            start += len(body)


def read_plan(spec: WorkerSpec) -> Iterator[PlannedRequest]:
    """The requests of a worker, in the order they were written."""
    for slot, main, offset_ns, start, length in PLAN.iter_unpack(spec.plan_file.read_bytes()):
        yield PlannedRequest(slot=slot, main=bool(main), offset_ns=offset_ns, body_start=start, body_length=length)
