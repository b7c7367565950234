"""From the workers' recordings to the files of a result; also for a run that was killed before it could do so."""

from __future__ import annotations

import dataclasses
import platform
import shutil
import socket
import struct
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson

import bench.load.arrivals.config
import bench.load.workloads.config  # noqa: F401 - both register the kinds that a record may name
from bench._version import __version__
from bench.base.clock import utc_now
from bench.base.errors import FailureKind
from bench.base.files import read_json, write_json
from bench.base.hashing import sha256_file
from bench.base.schema import restored
from bench.load.calibration import bound_for, peak_in_flight
from bench.load.config import ScenarioConfig, WorkloadConfig
from bench.load.digest import digest
from bench.load.outcome import End, Status
from bench.load.parquet import write_parquet
from bench.load.phases import join_plan, without_cooldown
from bench.load.prompts import Prompts
from bench.load.schedule import workers_used
from bench.load.segments import END, Record, read_records
from bench.load.slo import SloConfig
from bench.load.spec import WorkerSpec, read_spec
from bench.load.summary import summarise
from bench.load.table import Events, Ints, Table, make_events, make_table

FILES = ("requests.parquet", "events.parquet", "summary.json")
_ASKED = "asked.json"


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a scenario asked, as far as its result tells it."""

    name: str
    repeat: int
    scenario: ScenarioConfig
    workload: WorkloadConfig
    url: str
    model: str
    kernel_stamps: bool
    prompts: Prompts
    started: str
    context: Mapping[str, Any]
    slo: SloConfig = field(default_factory=SloConfig)


def write_asked(asked: Asked, raw: Path) -> None:
    """Leave beside the recordings what a later process needs to make a result of them."""
    write_json(raw / _ASKED, dataclasses.asdict(asked))


def read_asked(raw: Path) -> Asked:
    """What `write_asked` wrote. Raises OSError, ValueError, KeyError or TypeError where it is damaged or missing."""
    value = read_json(raw / _ASKED)
    return Asked(
        **{
            **value,
            "scenario": restored("scenario", value["scenario"]),
            "workload": restored("workload", value["workload"]),
            "prompts": Prompts(**value["prompts"]),
            "slo": SloConfig(**value.get("slo", {})),
        }
    )


def write_result(asked: Asked, out: Path, specs: Sequence[WorkerSpec], *, interrupted: bool) -> dict[str, Any]:
    """Tables, summary and, last, the manifest of digested recordings; returns the summary."""
    own = [read_json(Path(spec.directory) / f"{spec.stem}.own.json") for spec in specs]
    table, events, delays_ns = _load(asked, specs, own)
    write_parquet(table, events, out, scenario=asked.name, repeat=asked.repeat)
    failure = _failure(table, own)
    status = "partial" if interrupted else "complete" if failure is None else "failed"
    summary = summarise(
        table,
        events,
        scenario=asked.scenario,
        workload=asked.workload,
        own=own,
        delays_ns=delays_ns,
        time_source="kernel" if asked.kernel_stamps else "user",
        prompts=asked.prompts,
        run={"scenario": asked.name, "repeat": asked.repeat, "status": status, "failure": failure},
        slo=asked.slo,
    )
    streams = -(-peak_in_flight(table.sent_ns, table.done_ns) // len(specs))
    summary["own_error"]["calibrated"] = bound_for(streams, summary["own_error"]["time_source"])
    write_json(out / "summary.json", summary)
    _write_manifest(asked, out, summary)
    return summary


def worker_specs(asked: Asked, raw: Path) -> list[WorkerSpec]:
    """The specs of a scenario's workers, wherever its folder is now."""
    specs = [read_spec(raw / f"worker{worker}.json") for worker in range(workers_used(asked.scenario))]
    return [dataclasses.replace(spec, directory=str(raw.resolve())) for spec in specs]


def digest_for(spec: WorkerSpec, *, died: Mapping[str, str] | None, unfinished: str) -> None:
    """Digest what a worker that is gone had recorded, and leave the figures it could not leave.

    Requests without an end get `unfinished` (a value of End or ErrorKind).
    """
    directory = Path(spec.directory)
    unknown = {"loop_cpu_s": 0.0, "loop_wall_s": 0.0, "digest_cpu_s": 0.0, "stale_connections": 0, "peak_rss_bytes": 0}
    counts = digest(directory, spec.stem, unfinished=unfinished)
    write_json(
        directory / f"{spec.stem}.own.json", counts | unknown | {"worker": spec.worker, "broken": False, "died": died}
    )


def salvage(out: Path) -> int | None:
    """Make a partial result of what a killed run had recorded in `out`; returns how many requests had got their answer.

    Everything is taken from the recordings: of other files a power cut may have left only the names. None, and no
    recording is touched, where there is a result already, no request was answered, or they cannot be read.
    """
    raw = out / "raw"
    if (out / "manifest.json").exists():
        return None
    try:
        if (out / "steps").is_dir():
            from bench.load.sweep import salvage_sweep

            return salvage_sweep(out)
        if not any(raw.glob("*.seg")):
            return None
        asked = read_asked(raw)
        specs = worker_specs(asked, raw)
        answered = sum(_is_answer(record) for spec in specs for record in read_records(raw, spec.stem))
        if not answered:
            return None
        for spec in specs:
            digest_for(spec, died=None, unfinished=End.cancelled.value)
        write_result(asked, out, specs, interrupted=True)
    except (OSError, ValueError, KeyError, TypeError, EOFError, struct.error):
        return None
    if not asked.scenario.keep_raw:
        shutil.rmtree(raw)
    return answered


def _is_answer(record: Record) -> bool:
    """Whether it is the end of a request that was not cancelled."""
    return record[0] == END and record[4] != End.cancelled.value.encode()


def _load(asked: Asked, specs: Sequence[WorkerSpec], own: Sequence[Mapping[str, Any]]) -> tuple[Table, Events, Ints]:
    requests, events, delays = [], [], []
    messages: dict[int, str] = {}
    for spec in specs:
        folder = Path(spec.directory)
        requests.append(np.load(folder / f"{spec.stem}.requests.npy", mmap_mode="r"))
        events.append(np.load(folder / f"{spec.stem}.events.npy", mmap_mode="r"))
        delays.append(np.load(folder / f"{spec.stem}.delays.npy", mmap_mode="r"))
        with (folder / f"{spec.stem}.messages.jsonl").open("rb") as stream:
            messages.update((slot, sys.intern(message)) for slot, message in map(orjson.loads, stream))
    table = make_table(
        requests,
        warmup=asked.scenario.warmup,
        finish_reasons=[figures["finish_reasons"] for figures in own],
        messages=messages,
    )
    table = join_plan(table, [(Path(spec.directory), spec.stem) for spec in specs])
    return without_cooldown(table, asked.scenario), make_events(events), np.concatenate(delays)


def _failure(table: Table, own: list[dict[str, Any]]) -> dict[str, str] | None:
    """Why a scenario that was not interrupted is not complete."""
    died: list[dict[str, str]] = [figures["died"] for figures in own if figures.get("died")]
    if died:
        return died[0]
    kinds = sorted(table.errors(np.ones(len(table), dtype=bool)))
    if any(figures["broken"] for figures in own):
        return {
            "kind": FailureKind.UNHEALTHY.value,
            "message": f"the endpoint is gone, the scenario was ended ({', '.join(kinds)})",
        }
    if not (table.main & table.with_status(Status.ok)).any():
        return {
            "kind": FailureKind.UNHEALTHY.value,
            "message": f"no request succeeded ({', '.join(kinds) or 'none sent'})",
        }
    return None


def _write_manifest(asked: Asked, out: Path, summary: Mapping[str, Any]) -> None:
    """The manifest, last: with it the result exists."""
    write_json(
        out / "manifest.json",
        {
            "schema_version": 1,
            "kind": "load",
            "status": summary["status"],
            "failure": summary["failure"],
            "name": asked.name,
            "repeat": asked.repeat,
            "scenario": dataclasses.asdict(asked.scenario),
            "workload": dataclasses.asdict(asked.workload),
            "endpoint": {"url": asked.url, "model": asked.model},
            "time_source": summary["own_error"]["time_source"],
            "clock": "CLOCK_MONOTONIC, ns",
            "files": [
                {"path": name, "size_bytes": (out / name).stat().st_size, "sha256": sha256_file(out / name)}
                for name in FILES
            ],
            "quantbench": __version__,
            "python": platform.python_version(),
            "host": {"kernel": platform.release(), "name": socket.gethostname()},
            "started": asked.started,
            "finished": utc_now(),
            "context": dict(asked.context),
        },
    )
