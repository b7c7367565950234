"""`quantbench search`: probes one load after another until the largest that holds the objective is known.

Everything stays on disk: `probes.jsonl` gets a line a probe, `probes/NNN/` holds what it measured, `search.json` the
answer so far. The same command goes on from the probes that are there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import secrets
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from bench.base.errors import UsageError
from bench.base.files import read_json, write_json
from bench.base.progress import Progress
from bench.base.validity import Reason
from bench.load.capacity.bracket import Capacity, Outcome, Probe, capacity, next_level
from bench.load.capacity.config import EffortConfig, SearchRunConfig
from bench.load.command import make_target
from bench.load.config import ClosedConfig, RatedConfig, ScenarioConfig, WorkloadConfig
from bench.load.run import run_scenario
from bench.load.slo import SloConfig
from bench.load.target import Target

_ASKED, _PROBES, _ANSWER = "asked.json", "probes.jsonl", "search.json"
_OWN = (_ASKED, _PROBES, _ANSWER, "probes", ".lock")
_VALUES_PER_TAIL = 10
"""A percentile needs so many values beyond it (`bench.load.statistics.percentile`)."""
_FEWEST = 50
_ROOM = 1.6
"""So many times the requests that a percentile needs are sent: some are left out at the start."""
_WAVES = 5

_NOT_THE_SERVER = frozenset(
    {
        *(Reason.CLIENT_SLIP, Reason.CLIENT_DELAY, Reason.COALESCED_READS, Reason.CLOCK_STEP, Reason.UNDER_DELIVERED),
        *(Reason.PREFIX_CACHED, Reason.NO_USAGE, Reason.USAGE_MISMATCH, Reason.MULTI_TOKEN_EVENTS),
    }
)
"""With these a probe says nothing of the server at that load."""


@dataclass(frozen=True, kw_only=True)
class Level:
    """How a level is asked: the scenario at that rate or concurrency, with as many requests as the objective needs."""

    scenario: ScenarioConfig
    effort: EffortConfig
    slo: SloConfig

    @property
    def over(self) -> str:
        """What is searched over."""
        return "concurrency" if self.whole else "rate"

    @property
    def unit(self) -> str:
        return "users" if self.whole else "req/s"

    @property
    def whole(self) -> bool:
        """Whether levels are whole numbers."""
        return isinstance(self.scenario, ClosedConfig)

    @property
    def needed(self) -> int:
        """How many requests must be left of a probe for its percentile."""
        if self.slo.percentile <= 50:
            return _FEWEST
        return round(_VALUES_PER_TAIL / (1 - self.slo.percentile / 100))

    def at(self, level: float) -> ScenarioConfig:
        """The scenario of a probe."""
        measured = self.effort.requests or self.needed
        if isinstance(self.scenario, ClosedConfig):
            users = round(level)
            requests = max(measured, _WAVES * users) + (self.scenario.drop_waves + 1) * users
            return dataclasses.replace(self.scenario, concurrency=users, requests=requests)
        requests = max(math.ceil(measured * _ROOM), math.ceil(level * self.effort.probe_s))
        changed: Any = {"rate_per_s": level, "requests": requests}
        return dataclasses.replace(self.scenario, **changed)


def verdict(summary: Mapping[str, Any]) -> tuple[Outcome, tuple[str, ...]]:
    """(outcome, why not) of a probe's summary.

    A growing backlog and a load whose endpoint gave up are failures, whatever was measured until then. A figure that
    is missing or that the client spoiled makes the probe void, unless too few requests succeeded.
    """
    if summary["status"] == "failed":
        return Outcome.failed, (str(summary["failure"]["kind"]),)
    found, reasons = summary["slo"], set(summary["validity"])
    if Reason.BACKLOG_GROWING.value in reasons:
        return Outcome.failed, (Reason.BACKLOG_GROWING.value,)
    if found["success"] is not None and found["success"] < found["asked"]["success"]:
        return Outcome.failed, (Reason.ERRORS.value,)
    spoiled = set(found["validity"]) | (reasons & {Reason.UNDER_DELIVERED.value})
    voids = [reason.value for reason in _NOT_THE_SERVER if reason.value in spoiled]
    if voids:
        return Outcome.void, tuple(sorted(voids))
    if found["held"] is None:
        return Outcome.void, (Reason.TOO_FEW.value,)
    broken = [f"{bound['tag']} {bound['statistic']}" for bound in found["bounds"] if bound["held"] is False]
    return (Outcome.held, ()) if found["held"] else (Outcome.failed, tuple(broken))


def run_search(config: SearchRunConfig, progress: Progress) -> dict[str, Any]:
    """Search as `config` says; returns what `search.json` holds. On Ctrl-C it is written too, and then raised.

    Raises UsageError when the endpoint cannot be used as configured, also when it is gone between two probes.
    """
    from bench.load.preflight import check_endpoint

    _refuse_unsearchable(config)
    target = make_target(config.endpoint)
    out = Path(config.out).expanduser()
    level = Level(scenario=config.scenario, effort=config.search, slo=config.slo)
    progress = progress.within(stage="search")
    with _own(out):
        seed = _take_up(config, out)
        workload = dataclasses.replace(config.workload, seed=seed)
        records = _read_probes(out)
        if records:
            progress.say(f"{len(records)} probes are there already")
        before_s = sum(record["seconds"] for record in records)
        began_s = time.monotonic()
        ended = "interrupted"
        try:
            while (asked := _next(records, level)) is not None:
                if before_s + time.monotonic() - began_s > config.search.budget_s:
                    ended = "budget_s"
                    break
                if len(records) >= config.search.max_probes:
                    ended = "max_probes"
                    break
                if config.endpoint.check:
                    check_endpoint(target)
                folder = out / "probes" / f"{len(records):03d}"
                record = _probe(target, level, asked, workload=workload, folder=folder, progress=progress)
                records.append(record)
                _append(out / _PROBES, record)
            else:
                ended = "settled"
        finally:
            answer = _answer(level, records, ended)
            write_json(out / _ANSWER, answer)
    return answer


def _refuse_unsearchable(config: SearchRunConfig) -> None:
    """Raise UsageError where there is nothing to search over, or for."""
    if not isinstance(config.scenario, ClosedConfig | RatedConfig):
        raise UsageError(
            f"scenario={config.scenario.kind} has no one rate or concurrency to search over; "
            "use poisson, constant, gamma or closed"
        )
    if not config.slo.given:
        raise UsageError("slo: say what the load must hold, such as slo.ttft_ms=500 slo.tpot_ms=50")
    needed = Level(scenario=config.scenario, effort=config.search, slo=config.slo).needed
    if 0 < config.search.requests < needed:
        raise UsageError(
            f"search.requests={config.search.requests}: p{config.slo.percentile:g} needs {needed} at least; "
            "leave it 0 for as many as are needed"
        )


def _probe(
    target: Target, level: Level, asked: float, *, workload: WorkloadConfig, folder: Path, progress: Progress
) -> dict[str, Any]:
    number = int(folder.name)
    progress.say(f"probe {number + 1}: {asked:g} {level.unit}")
    folder.mkdir(parents=True, exist_ok=True)
    began_s = time.monotonic()
    summary = run_scenario(
        target, level.at(asked), workload, folder, name="probe", repeat=number, progress=progress, slo=level.slo
    )
    outcome, reasons = verdict(summary)
    said = f": {', '.join(reasons)}" if reasons else ""
    progress.say(f"probe {number + 1}: {asked:g} {level.unit}: {outcome.value}{said}")
    return {
        "number": number,
        "level": asked,
        "outcome": outcome.value,
        "reasons": list(reasons),
        "bounds": summary["slo"]["bounds"],
        "success": summary["slo"]["success"],
        "request_throughput": summary["metrics"]["request_throughput"]["value"],
        "goodput": summary["metrics"]["goodput"]["value"],
        "validity": summary["validity"],
        "seconds": time.monotonic() - began_s,
        "folder": f"{folder.parent.name}/{folder.name}",
    }


def _probes(records: list[dict[str, Any]]) -> list[Probe]:
    return [
        Probe(level=record["level"], outcome=Outcome(record["outcome"]), reasons=tuple(record["reasons"]))
        for record in records
    ]


def _next(records: list[dict[str, Any]], level: Level) -> float | None:
    return next_level(_probes(records), level.effort, whole=level.whole)


def _answer(level: Level, records: list[dict[str, Any]], ended: str) -> dict[str, Any]:
    found: Capacity = capacity(_probes(records), level.effort, whole=level.whole)
    return {
        "schema_version": 1,
        "status": "complete" if ended == "settled" else "partial",
        "ended": ended,
        "over": level.over,
        "capacity": {
            "unit": level.unit,
            "value": found.value,
            "lo": found.lo,
            "hi": found.hi,
            "repeats": level.effort.repeats,
            "validity": list(found.reasons),
        },
        "slo": level.slo.describe(),
        "probes": records,
    }


# ---- the folder


@contextlib.contextmanager
def _own(out: Path) -> Iterator[None]:
    """Keep others out of the folder. Raises UsageError where it holds anything else."""
    from filelock import FileLock, Timeout

    if out.exists() and not out.is_dir():
        raise UsageError(f"out: {out} is not a folder")
    if out.is_dir() and any(entry.name not in _OWN for entry in out.iterdir()):
        raise UsageError(f"out: {out} holds files that are not a search; name another folder")
    out.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(out / ".lock", timeout=0):
            yield
    except Timeout:
        raise UsageError(f"out: {out} is being written by another quantbench search; name another folder") from None


def _take_up(config: SearchRunConfig, out: Path) -> int:
    """The workload's seed: a new one, or that of the search which this folder holds. Raises UsageError for another."""
    seed = secrets.randbelow(2**31) if config.fresh_prompts else config.workload.seed
    asked = json.loads(json.dumps({"config": _comparable(config), "seed": seed}))
    path = out / _ASKED
    if not path.exists():
        write_json(path, asked)
        return seed
    try:
        before = read_json(path)
        same, known = before["config"] == asked["config"], int(before["seed"])
    except (OSError, ValueError, KeyError, TypeError):
        raise UsageError(f"out: {path} is damaged; name another folder") from None
    if not same:
        raise UsageError(f"out: {out} holds a search that asked something else; name another folder")
    return known


def _comparable(config: SearchRunConfig) -> dict[str, Any]:
    """What makes two searches one: not how long they may take."""
    values = dataclasses.asdict(config, dict_factory=_plain)
    del values["out"]
    for name in ("max_probes", "budget_s"):
        del values["search"][name]
    return values


def _plain(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return {name: value.value if isinstance(value, Enum) else value for name, value in pairs}


def _read_probes(out: Path) -> list[dict[str, Any]]:
    """The probes that are recorded; a line that a kill cut off is left out."""
    path = out / _PROBES
    if not path.exists():
        return []
    records = []
    for line in path.read_bytes().splitlines(keepends=True):
        try:
            record = json.loads(line)
        except ValueError:
            break
        if not line.endswith(b"\n"):
            break
        records.append(record)
    path.write_bytes(b"".join(json.dumps(record).encode() + b"\n" for record in records))
    return records


def _append(path: Path, record: Mapping[str, Any]) -> None:
    with path.open("ab") as stream:
        stream.write(json.dumps(record).encode() + b"\n")
        stream.flush()
        os.fsync(stream.fileno())
