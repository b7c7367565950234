"""Where a run is, read from its folder while it runs, after it ended, or after it was killed. Writes nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from bench.base.errors import UsageError
from bench.base.files import read_json
from bench.base.schema import registered
from bench.load.segments import END, read_records
from bench.pipeline.load import is_measured
from bench.store.run import CellStore, ChildKind, ChildSlot, RunStore, Status

#: Recordings above this size are not counted: the answer must come at once.
_COUNTED_BYTES = 256 << 20


class RunState(StrEnum):
    """How a run stands."""

    RUNNING = "running"
    COMPLETE = "complete"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    DEAD = "dead"
    """It says that it runs, and nobody holds its lock: it was killed, or the machine went down."""


@dataclass(frozen=True, kw_only=True)
class ChildStatus:
    """A scenario or task: `reused` when the next run of the same command takes it as it is."""

    stage: str
    name: str
    state: str
    note: str
    reused: bool


@dataclass(frozen=True, kw_only=True)
class CellStatus:
    """A planned cell with what is recorded of it; `children` is empty where it has not begun."""

    label: str
    key: str | None
    state: str
    note: str
    children: tuple[ChildStatus, ...]


@dataclass(frozen=True, kw_only=True)
class RunStatus:
    """A run as it is on disk now."""

    directory: Path
    name: str
    state: RunState
    started: str
    finished: str | None
    command: tuple[str, ...]
    cells: tuple[CellStatus, ...]

    @property
    def reused(self) -> int:
        """Scenarios and tasks that the next run takes as they are, of the cells that have begun."""
        return sum(child.reused for cell in self.cells for child in cell.children)

    @property
    def to_measure(self) -> int:
        """Scenarios and tasks that the next run measures, of the cells that have begun."""
        return sum(not child.reused for cell in self.cells for child in cell.children)

    @property
    def not_begun(self) -> int:
        """Planned cells of which nothing is recorded yet."""
        return sum(cell.state == "planned" for cell in self.cells)


def read_status(directory: Path) -> RunStatus:
    """How the run in `directory` stands. Raises UsageError when there is none, or it may not be read."""
    store = RunStore(directory)
    try:
        held = store.is_held()  # before run.json: a run that ends in between is then seen as ended, not as dead
        run = store.read()
        if run is None:
            raise UsageError(f"{directory}: is not a quantbench run (no run.json); name a folder such as results/NAME")
        cells = tuple(_cell(planned, store, alive=held) for planned in store.read_plan())
    except PermissionError as error:
        raise UsageError(f"{error.filename}: may not be read ({error.strerror})") from error
    state = RunState(str(run.get("status")))
    return RunStatus(
        directory=directory,
        name=str(run.get("name")),
        state=RunState.DEAD if state is RunState.RUNNING and not held else state,
        started=str(run.get("started")),
        finished=run.get("finished"),
        command=tuple(str(word) for word in run.get("command") or ()),
        cells=cells,
    )


def _cell(planned: Mapping[str, Any], store: RunStore, *, alive: bool) -> CellStatus:
    found = _recorded(planned, store)
    label, state = str(planned.get("label")), str(planned.get("status"))
    if found is None:
        reason = str(planned.get("reason") or "")
        return CellStatus(label=label, key=None, state=state, note=reason, children=())
    cell, record = found
    state = _state(record, alive=alive)
    failure = record.get("failure") or {}
    note = (
        f"{failure.get('stage')}: {failure.get('message')}" if failure else str(record.get("unsupported_reason") or "")
    )
    children: tuple[ChildStatus, ...] = ()
    if state != Status.UNSUPPORTED:
        config = record.get("config") or {}
        scenarios = (_scenario(name, cell, record, alive=alive) for name in config.get("scenarios") or {})
        tasks = (_task(name, cell, record, alive=alive) for name in config.get("tasks") or {})
        children = (*scenarios, *tasks)
    return CellStatus(label=label, key=record.get("key"), state=state, note=note, children=children)


def _recorded(planned: Mapping[str, Any], store: RunStore) -> tuple[CellStore, dict[str, Any]] | None:
    """The cell's record: by its key, or, while it runs, the latest one with the same overrides."""
    key = planned.get("key")
    if isinstance(key, str):
        cell = store.cell(key)
        record = cell.read()
        return None if record is None else (cell, record)
    same = [
        (cell, record) for cell, record in store.read_cells() if record.get("overrides") == planned.get("overrides")
    ]
    return max(same, key=lambda found: (found[0].directory / "cell.json").stat().st_mtime_ns, default=None)


def _state(entry: Mapping[str, Any], *, alive: bool) -> str:
    state = str(entry.get("status"))
    return "died" if state == Status.RUNNING and not alive else state


def _scenario(name: str, cell: CellStore, record: Mapping[str, Any], *, alive: bool) -> ChildStatus:
    entry = (record.get("scenarios") or {}).get(name)
    if entry is None:
        return ChildStatus(stage="load", name=name, state="planned", note="", reused=False)
    slot = _slot(ChildKind.SCENARIO, name, cell, entry)
    config = record["config"]
    reused = is_measured(slot) and _is_of(slot, config["scenarios"][name], config["workloads"]) and _is_ours(record)
    state = _state(entry, alive=alive)
    note = _note(entry, state, slot, config["scenarios"][name], reused=reused)
    return ChildStatus(stage="load", name=name, state=state, note=note, reused=reused)


def _task(name: str, cell: CellStore, record: Mapping[str, Any], *, alive: bool) -> ChildStatus:
    entry = (record.get("tasks") or {}).get(name)
    if entry is None:
        return ChildStatus(stage="evaluate", name=name, state="planned", note="", reused=False)
    reused = _slot(ChildKind.TASK, name, cell, entry).is_complete() and _is_ours(record)
    note = str((entry.get("failure") or {}).get("message") or "")
    return ChildStatus(stage="evaluate", name=name, state=_state(entry, alive=alive), note=note, reused=reused)


def _slot(kind: ChildKind, name: str, cell: CellStore, entry: Mapping[str, Any]) -> ChildSlot:
    return ChildSlot(kind=kind, name=name, key=str(entry.get("key")), directory=cell.directory / str(entry.get("path")))


def _note(entry: Mapping[str, Any], state: str, slot: ChildSlot, scenario: Mapping[str, Any], *, reused: bool) -> str:
    """Why a scenario failed, or how many of its requests are recorded."""
    if entry.get("failure"):
        return str(entry["failure"].get("message"))
    if state == Status.COMPLETE and not reused:
        return "measured with other settings; it is measured again"
    if state not in ("died", Status.RUNNING):
        return ""
    ended = recorded_requests(slot.directory)
    asked = scenario.get("requests", 0) + scenario.get("warmup", 0)
    if ended is None:
        return ""
    again = "; it is measured again whole" if state == "died" else ""
    return f"{ended} of {asked} requests recorded{again}"


def recorded_requests(scenario: Path) -> int | None:
    """Requests that have ended in a scenario that is being recorded; None where it is too much to count at once."""
    segments = sorted((scenario / "raw").glob("*.seg"))
    if sum(path.stat().st_size for path in segments) > _COUNTED_BYTES:
        return None
    stems = {path.stem.rpartition("-")[0] for path in segments}
    return sum(record[0] == END for stem in stems for record in read_records(scenario / "raw", stem))


def _is_ours(record: Mapping[str, Any]) -> bool:
    """Whether the cell's server was started here: one that ran already is measured anew each time."""
    return not ((record.get("config") or {}).get("engine") or {}).get("base_url")


def _is_of(slot: ChildSlot, scenario: Mapping[str, Any], workloads: Mapping[str, Any]) -> bool:
    """Whether what was measured is what the cell now asks; deadlines and the like do not count."""
    manifest = read_json(slot.directory / "manifest.json")
    workload = workloads.get(str(scenario.get("workload"))) or {}
    return all(
        _identity(group, asked) == _identity(group, manifest.get(group) or {})
        for group, asked in (("scenario", scenario), ("workload", workload))
    )


def _identity(group: str, recorded: Mapping[str, Any]) -> dict[str, Any]:
    cls = registered(group).get(str(recorded.get("kind")))
    fields = dataclasses.fields(cls) if cls is not None and dataclasses.is_dataclass(cls) else ()
    ignored = {field.name for field in fields if not field.metadata.get("identity", True)}
    return {name: value for name, value in recorded.items() if name not in ignored}
