"""A run: every cell of a plan, its record on disk, and how it ended."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench._version import __version__
from bench.base.errors import UsageError
from bench.base.paths import cache_dir
from bench.base.progress import Progress
from bench.pipeline.cell import Cell
from bench.pipeline.context import Context, Stages
from bench.plan.plan import CellSpec, Plan
from bench.store.run import RunStore, Status


@dataclass(frozen=True, kw_only=True)
class CellOutcome:
    """How one cell ended; `record` is its manifest (empty where it did not compose)."""

    label: str
    status: Status
    record: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class RunOutcome:
    """How a run ended."""

    directory: Path
    cells: tuple[CellOutcome, ...]

    @property
    def failed(self) -> bool:
        """Whether any cell failed; unsupported cells are answers, not failures."""
        return any(cell.status is Status.FAILED for cell in self.cells)


def run_plan(
    plan: Plan,
    *,
    progress: Progress,
    command: Sequence[str],
    overrides: Sequence[str],
    stages: Stages = Stages(),  # noqa: B008 - frozen
    default_out: Path | None = None,
) -> RunOutcome:
    """Run every cell in order into the run's folder, reusing what is there.

    Raises UsageError before any work when the folder cannot be used, and afterwards when bad input is all there was.
    KeyboardInterrupt passes after the run is marked interrupted.
    """
    directory = out_directory(plan) or default_out or Path("results") / plan.name
    store = RunStore(directory)
    with store.lock():
        store.begin(name=plan.name, command=command, overrides=overrides, report=plan.report, version=__version__)
        context = Context(cache=cache_dir(), run=store, progress=progress, stages=stages)
        planned = [_planned(spec) for spec in plan.cells]
        store.write_plan(planned)
        outcomes: list[CellOutcome] = []
        bad_input: list[UsageError] = []
        try:
            for number, spec in enumerate(plan.cells):
                progress.within(stage="run").advance(number, len(plan.cells), "cells", spec.label)

                def stands(key: str | None, status: Status, number: int = number) -> None:
                    planned[number] |= {"key": key, "status": status.value}
                    store.write_plan(planned)

                outcome, failure = _run_cell(spec, context, lambda key: stands(key, Status.RUNNING))
                outcomes.append(outcome)
                stands(outcome.record.get("key"), outcome.status)
                if isinstance(failure, UsageError):
                    bad_input.append(failure)
        except KeyboardInterrupt:
            for entry in planned:
                entry["status"] = entry["status"].replace(Status.RUNNING.value, Status.INTERRUPTED.value)
            store.write_plan(planned)
            store.finish(Status.INTERRUPTED)
            raise
        except BaseException:
            store.finish(Status.FAILED)
            raise
        result = RunOutcome(directory=directory, cells=tuple(outcomes))
        store.finish(Status.FAILED if result.failed else Status.COMPLETE)
    if bad_input and not any(cell.status is Status.COMPLETE for cell in outcomes):
        raise bad_input[0]
    return result


def out_directory(plan: Plan) -> Path | None:
    """The folder the user asked for; raises UsageError when cells disagree."""
    named = {spec.config.out for spec in plan.cells if spec.config is not None}
    if len(named) > 1:
        raise UsageError("out must be one folder for all cells of a run")
    out = named.pop() if named else None
    return None if out is None else Path(out).expanduser()


def _planned(spec: CellSpec) -> dict[str, Any]:
    status = "planned" if spec.config is not None else Status.UNSUPPORTED.value
    return {
        "label": spec.label,
        "key": None,
        "overrides": list(spec.overrides),
        "status": status,
        "reason": spec.error,
    }


def _run_cell(spec: CellSpec, context: Context, opened: Callable[[str], None]) -> tuple[CellOutcome, Exception | None]:
    if spec.config is None:
        record = {"unsupported_reason": spec.error}
        return CellOutcome(label=spec.label, status=Status.UNSUPPORTED, record=record), None
    cell = Cell(spec, context, opened)
    status = cell.run()
    return CellOutcome(label=spec.label, status=status, record=cell.record), cell.failure
