"""Reading run directories: strict about what is not a run, tolerant of missing parts inside one."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.analysis.results import (
    STATISTICS,
    TAILS,
    Cell,
    Failure,
    Measurement,
    Metric,
    Results,
    Run,
    mapping,
    number,
    sequence,
    text,
    texts,
)
from bench.analysis.server import server_metrics, untold
from bench.base.errors import UsageError

SCHEMA_VERSION = 1
SEPARATOR = " · "
"""Stands between variant and engine in a cell's label."""


def load_results(run_dirs: Sequence[Path]) -> Results:
    """Read run directories (the same one twice is read once).

    Raises UsageError when there is none, or one does not exist, cannot be read or is not a run.
    """
    if not run_dirs:
        raise UsageError("no run directory given; name one or more folders that 'quantbench run' wrote")
    distinct = list(dict.fromkeys(Path(directory).resolve() for directory in run_dirs))
    return Results(runs=_unique([_load_run(directory) for directory in distinct]))


def _load_run(directory: Path) -> Run:
    if not directory.exists():
        raise UsageError(f"{directory} does not exist; name a folder that 'quantbench run' wrote")
    if not directory.is_dir():
        raise UsageError(f"{directory} is a file; name the run's folder")
    try:
        is_run = (directory / "run.json").is_file()
    except OSError as error:
        raise UsageError(f"{directory} cannot be read ({error.strerror}); check its permissions") from error
    if not is_run:
        raise UsageError(f"{directory} is not a run: it has no run.json; name a folder that 'quantbench run' wrote")
    run = _read_strict(directory / "run.json")
    version = run.get("schema_version")
    if not isinstance(version, int) or version < 1:
        raise UsageError(f"{directory / 'run.json'} is not a quantbench run: schema_version is {version!r}")
    if version > SCHEMA_VERSION:
        raise UsageError(
            f"{directory} was written by a newer quantbench (schema {version}, this one reads {SCHEMA_VERSION}); update"
        )
    name = text(run.get("name")) or directory.name
    return Run(
        path=directory,
        name=name,
        status=text(run.get("status")) or "unknown",
        command=tuple(str(part) for part in sequence(run.get("command"))),
        overrides=texts(run.get("overrides")),
        started=text(run.get("started")),
        finished=text(run.get("finished")),
        version=text(run.get("quantbench")),
        cells=_load_cells(directory, name),
    )


def _read_strict(path: Path) -> dict[str, Any]:
    try:
        value = _parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}); check its permissions") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(
            f"{path} is not readable JSON ({str(error)[:80]}); the folder is damaged or foreign"
        ) from error
    if not isinstance(value, dict):
        raise UsageError(f"{path} holds no object; the folder is damaged or foreign")
    return value


def _parse(text: str) -> Any:
    """JSON whose strings can all be written again: an escaped lone surrogate becomes the replacement character."""
    value = json.loads(text)
    return _encodable(value) if "\\ud" in text or "\\uD" in text else value


def _encodable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode() if not value.isascii() else value
    if isinstance(value, list):
        return [_encodable(entry) for entry in value]
    if isinstance(value, dict):
        return {_encodable(name): _encodable(entry) for name, entry in value.items()}
    return value


def _read_lenient(path: Path) -> Mapping[str, Any] | None:
    """A JSON object; None when there is none or it cannot be read."""
    try:
        value = _parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _load_cells(directory: Path, run: str) -> tuple[Cell, ...]:
    """Planned cells in the plan's order, then what earlier plans completed in the same folder.

    What failed or was cut short under an earlier plan was superseded by this one; it stays on disk and is not shown.
    """
    planned = [mapping(entry) for entry in sequence((_read_lenient(directory / "plan.json") or {}).get("cells"))]
    root = directory / "cells"
    try:
        folders = {entry.name: entry for entry in sorted(root.iterdir()) if entry.is_dir()} if root.is_dir() else {}
    except OSError as error:
        raise UsageError(f"{root} cannot be read ({error.strerror}); check its permissions") from error
    cells = []
    for index, entry in enumerate(planned):
        folder = folders.pop(text(entry.get("key")) or "", None)
        cells.append(_load_cell(folder, entry, run) if folder else _planned_cell(entry, run, index))
    earlier = [_load_cell(folder, {}, run) for folder in folders.values()]
    cells += [cell for cell in earlier if cell.status == "complete" or not planned]
    return tuple(cells)


def _planned_cell(entry: Mapping[str, Any], run: str, index: int) -> Cell:
    """A cell that was planned and has no folder: unsupported, in error, or not reached."""
    status = text(entry.get("status"))
    reason = text(entry.get("reason"))
    failure = None
    if status == "error":
        failure = Failure(stage="plan", kind="error", message=reason or "the cell does not compose")
    return Cell(
        id="",
        run=run,
        key=text(entry.get("key")) or f"planned-{index}",
        label=text(entry.get("label")) or "unnamed cell",
        status={"unsupported": "unsupported", "error": "failed"}.get(status or "", "missing"),
        failure=failure,
        unsupported_reason=reason if status == "unsupported" else None,
        overrides=texts(entry.get("overrides")),
    )


def _load_cell(folder: Path, planned: Mapping[str, Any], run: str) -> Cell:
    recorded = _read_lenient(folder / "cell.json")
    if recorded is None:
        failure = Failure(stage="record", kind="unreadable", message=f"{folder.name}/cell.json is missing or damaged")
        label = text(planned.get("label")) or folder.name
        return Cell(id="", run=run, key=folder.name, label=label, status="failed", failure=failure)
    config = mapping(recorded.get("config"))
    engine = mapping(recorded.get("engine"))
    return Cell(
        id="",
        run=run,
        key=text(recorded.get("key")) or folder.name,
        label=text(recorded.get("label")) or text(planned.get("label")) or folder.name,
        status=text(recorded.get("status")) or "unknown",
        failure=_failure(recorded.get("failure")),
        unsupported_reason=text(recorded.get("unsupported_reason")),
        overrides=texts(recorded.get("overrides")),
        config=config,
        variant=mapping(recorded.get("variant")),
        acceptance=mapping(recorded.get("acceptance")),
        engine=engine,
        machine=mapping(recorded.get("machine")),
        provenance=mapping(recorded.get("provenance")),
        scenarios=_children(folder, "scenarios", recorded, config),
        tasks=_children(folder, "tasks", recorded, config),
        validity=tuple(dict.fromkeys([*texts(recorded.get("validity")), *texts(engine.get("validity"))])),
    )


def _children(
    folder: Path, kind: str, recorded: Mapping[str, Any], config: Mapping[str, Any]
) -> dict[str, Measurement]:
    """The scenarios or tasks of a cell by name."""
    children = {}
    for name, entry in mapping(recorded.get(kind)).items():
        known = mapping(entry)
        directory = _inside(folder, text(known.get("path")))
        summary = None if directory is None else _read_lenient(directory / "summary.json")
        observed = texts(known.get("validity"))
        children[str(name)] = Measurement(
            kind=kind,
            name=str(name),
            key=text(known.get("key")) or "",
            status=(text(known.get("status")) or "unknown") if summary is not None else _without_summary(known),
            failure=_failure(known.get("failure")),
            metrics=_metrics((summary or {}).get("metrics"), observed, _spoiled(known)),
            errors={str(kind): count for kind, count in _numbers((summary or {}).get("errors")).items()},
            validity=tuple(dict.fromkeys([*texts((summary or {}).get("validity")), *observed])),
            config=mapping(mapping(config.get(kind)).get(name)),
            summary=summary or {},
            server=server_metrics(known, observed),
            untold=untold(known),
            directory=directory if summary is not None else None,
        )
    return children


def _inside(folder: Path, relative: str | None) -> Path | None:
    """A measurement's folder; a path that leaves the cell's folder, or whose summary does, is not followed."""
    if relative is None:
        return None
    try:
        directory = folder / relative
        inside = (directory / "summary.json").resolve().is_relative_to(folder.resolve())
    except (OSError, ValueError):
        return None
    return directory if inside else None


def _without_summary(known: Mapping[str, Any]) -> str:
    status = text(known.get("status")) or "missing"
    return "missing" if status == "complete" else status


def _failure(value: object) -> Failure | None:
    if not isinstance(value, Mapping):
        return None
    return Failure(
        stage=text(value.get("stage")) or "unknown stage",
        kind=text(value.get("kind")) or "unknown",
        message=text(value.get("message")) or "no message",
        log_tail=text(value.get("log_tail")) or "",
    )


def _numbers(value: object) -> dict[str, float]:
    found = {str(name): number(entry) for name, entry in mapping(value).items()}
    return {name: entry for name, entry in found.items() if entry is not None}


def _spoiled(entry: Mapping[str, Any]) -> dict[str, list[str]]:
    """What was observed around a measurement against some of its metrics: reasons by metric."""
    found: dict[str, list[str]] = {}
    for reason, tags in mapping(entry.get("spoiled")).items():
        for tag in texts(tags):
            found.setdefault(tag, []).append(str(reason))
    return found


def _metrics(value: object, observed: Sequence[str], spoiled: Mapping[str, Sequence[str]]) -> dict[str, Metric]:
    """The metrics of a summary; what was `observed` around the measurement speaks against all of them."""
    metrics = {}
    for tag, entry in mapping(value).items():
        known = mapping(entry)
        if not known:
            continue
        metrics[str(tag)] = Metric(
            tag=str(tag),
            unit=text(known.get("unit")) or "",
            statistics={name: number(known.get(name)) for name in STATISTICS},
            n=number(known.get("n")),
            lo=number(known.get("lo")),
            hi=number(known.get("hi")),
            validity=tuple(dict.fromkeys([*texts(known.get("validity")), *observed, *spoiled.get(str(tag), ())])),
            intervals=_intervals(known.get("intervals")),
        )
    return metrics


def _intervals(value: object) -> dict[str, tuple[float, float]]:
    found = {}
    for name, ends in mapping(value).items():
        lo, hi = (number(end) for end in ends) if isinstance(ends, list) and len(ends) == 2 else (None, None)
        if name in TAILS and lo is not None and hi is not None:
            found[name] = (lo, hi)
    return found


def _unique(runs: list[Run]) -> tuple[Run, ...]:
    """Give every cell an id, and the shortest label that no other cell has.

    An engine that all cells share is left out («Q8_0 · llama_cpp» becomes «Q8_0»); where labels still collide, the
    run's name and then a number is added.
    """
    shared = _shared_suffix([cell.label for run in runs for cell in run.cells])
    counts = Counter(cell.label for run in runs for cell in run.cells)
    taken: set[str] = set()
    ids = itertools.count(1)
    renamed = []
    for run in runs:
        cells = []
        for cell in run.cells:
            plain = cell.label.removesuffix(shared)
            label = f"{plain} ({cell.run})" if counts[cell.label] > 1 and len(runs) > 1 else plain
            candidate = label
            for copy in itertools.count(2):
                if candidate not in taken:
                    break
                candidate = f"{label} #{copy}"
            taken.add(candidate)
            cells.append(dataclasses.replace(cell, id=f"cell-{next(ids)}", label=candidate))
        renamed.append(dataclasses.replace(run, cells=tuple(cells)))
    return tuple(renamed)


def _shared_suffix(labels: list[str]) -> str:
    """The « · engine» that every label ends with, else nothing."""
    ends = {label.rpartition(SEPARATOR)[2] if SEPARATOR in label else None for label in labels}
    end = ends.pop() if len(ends) == 1 else None
    return "" if end is None else f"{SEPARATOR}{end}"
