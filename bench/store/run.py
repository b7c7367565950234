"""A run on disk: what was planned, and one folder a cell. Manifests are written last and atomically.

    RUN/run.json  RUN/plan.json  RUN/cells/KEY/{cell.json, logs/, scenarios/NAME-KEY8/, tasks/NAME-KEY8/}

A child (scenario or task) exists when its `manifest.json` says `complete`; anything less is kept beside the rerun as
`NAME-KEY8.partial-N`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from bench.base.clock import utc_now
from bench.base.errors import UsageError
from bench.base.files import read_json, write_json

SCHEMA_VERSION = 1


class Status(StrEnum):
    """How a run, a cell or a child stands."""

    RUNNING = "running"
    COMPLETE = "complete"
    FAILED = "failed"
    UNSUPPORTED = "unsupported"
    INTERRUPTED = "interrupted"
    PARTIAL = "partial"
    MISSING = "missing"


class ChildKind(StrEnum):
    """What a cell has below it; the value is the folder's name."""

    SCENARIO = "scenarios"
    TASK = "tasks"


@dataclass(frozen=True, kw_only=True)
class ChildSlot:
    """The place of one scenario or task of a cell."""

    kind: ChildKind
    name: str
    key: str
    directory: Path

    @property
    def relative(self) -> str:
        """Path inside the cell's folder."""
        return f"{self.kind.value}/{self.directory.name}"

    def manifest(self) -> dict[str, Any] | None:
        """The manifest, or None when there is none that can be read."""
        return _read_or_none(self.directory / "manifest.json")

    def is_complete(self) -> bool:
        """Whether a finished measurement with this key is here."""
        manifest = self.manifest()
        return manifest is not None and manifest.get("status") == Status.COMPLETE

    def prepare(self) -> Path:
        """Make the folder for a fresh measurement; an unfinished one is moved aside, never overwritten."""
        if self.directory.exists() and any(self.directory.iterdir()):
            number = 1
            while (aside := self.directory.with_name(f"{self.directory.name}.partial-{number}")).exists():
                number += 1
            self.directory.rename(aside)
        self.directory.mkdir(parents=True, exist_ok=True)
        return self.directory


class CellStore:
    """One cell's folder."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @property
    def logs(self) -> Path:
        """The folder of the cell's logs, made on first use."""
        folder = self.directory / "logs"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def new_log(self, name: str) -> Path:
        """A log file that does not exist yet (`name.log`, `name-2.log` …): a rerun never reads an older failure."""
        number = 1
        while (log := self.logs / (f"{name}.log" if number == 1 else f"{name}-{number}.log")).exists():
            number += 1
        return log

    def read(self) -> dict[str, Any] | None:
        """The cell's manifest, or None."""
        return _read_or_none(self.directory / "cell.json")

    def write(self, cell: Mapping[str, Any]) -> None:
        """Replace the cell's manifest."""
        write_json(self.directory / "cell.json", {"schema_version": SCHEMA_VERSION, **cell})

    def child(self, kind: ChildKind, name: str, key: str) -> ChildSlot:
        """The slot of a scenario or task under its own key."""
        folder = self.directory / kind.value / f"{_safe(name)}-{key[:8]}"
        return ChildSlot(kind=kind, name=name, key=key, directory=folder)


class RunStore:
    """A run directory opened for writing by one process at a time."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def begin(
        self, *, name: str, command: Sequence[str], overrides: Sequence[str], report: Sequence[str], version: str
    ) -> None:
        """Mark the run as running; raises UsageError when the folder holds something that is not a run."""
        foreign = [entry for entry in _entries(self.directory) if not entry.name.startswith(".")]
        if foreign and not (self.directory / "run.json").is_file():
            raise UsageError(f"out={self.directory} holds files that are not a quantbench run; name another folder")
        self._write(
            {
                "name": name,
                "status": Status.RUNNING.value,
                "command": list(command),
                "overrides": list(overrides),
                "report": list(report),
                "started": utc_now(),
                "finished": None,
                "quantbench": version,
            }
        )

    def finish(self, status: Status) -> None:
        """Record how the run ended."""
        run = _read_or_none(self.directory / "run.json") or {}
        run.pop("schema_version", None)
        self._write({**run, "status": status.value, "finished": utc_now()})

    def write_plan(self, cells: Sequence[Mapping[str, Any]]) -> None:
        """Record what this run is going to do."""
        write_json(self.directory / "plan.json", {"schema_version": SCHEMA_VERSION, "cells": list(cells)})

    def cell(self, key: str) -> CellStore:
        """The folder of cell `key`."""
        return CellStore(self.directory / "cells" / key)

    def report_overrides(self) -> list[str]:
        """What the run's experiment tells its report; empty where nothing is recorded."""
        recorded = (_read_or_none(self.directory / "run.json") or {}).get("report")
        return [str(override) for override in recorded] if isinstance(recorded, list) else []

    def lock(self) -> Any:
        """A lock on the run directory; raises UsageError at once when another process holds it."""
        from filelock import FileLock, Timeout

        if self.directory.exists() and not self.directory.is_dir():
            raise UsageError(f"out={self.directory} is a file; name a folder")
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            message = f"out={self.directory} cannot be made ({error.strerror}); name a folder you may write to"
            raise UsageError(message) from error
        lock = FileLock(self.directory / ".lock", timeout=0)
        try:
            return lock.acquire()
        except Timeout:
            message = f"out={self.directory} is being written by another quantbench; wait or name another folder"
            raise UsageError(message) from None

    def read(self) -> dict[str, Any] | None:
        """What `run.json` says, or None where there is none that can be read."""
        return _read_or_none(self.directory / "run.json")

    def read_plan(self) -> list[dict[str, Any]]:
        """The planned cells; empty where no plan can be read."""
        cells = (_read_or_none(self.directory / "plan.json") or {}).get("cells")
        return [cell for cell in cells if isinstance(cell, dict)] if isinstance(cells, list) else []

    def read_cells(self) -> list[tuple[CellStore, dict[str, Any]]]:
        """Every recorded cell, whichever run into this folder recorded it."""
        folders = sorted((self.directory / "cells").glob("*/cell.json"))
        read = [(store, store.read()) for store in (CellStore(path.parent) for path in folders)]
        return [(store, record) for store, record in read if record is not None]

    def is_held(self) -> bool:
        """Whether a live process holds the run's lock; nothing is written, and nobody is kept waiting."""
        import fcntl

        try:
            with (self.directory / ".lock").open("rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False

    def _write(self, run: Mapping[str, Any]) -> None:
        write_json(self.directory / "run.json", {"schema_version": SCHEMA_VERSION, **run})


def _entries(directory: Path) -> list[Path]:
    return list(directory.iterdir()) if directory.is_dir() else []


def _safe(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in name)


def _read_or_none(path: Path) -> dict[str, Any] | None:
    try:
        value = read_json(path)
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError, UnicodeDecodeError):
        return None
    return value if isinstance(value, dict) else None
