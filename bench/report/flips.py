"""Items whose answer changed against the baseline, right or wrong, from what the tasks recorded of each item."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.analysis.raw import read_columns
from bench.analysis.results import Measurement
from bench.report.clean import short
from bench.report.plots import Cast

MOST_A_TASK, MOST_IN_ALL = 60, 1_500
RIGHT = ("correct", "base_correct")
WHERE = ("subject", "question", "id", "doc_id", "item")
TOLD = ("answer", "base_picked", "picked", "prompt", "base_output", "output")
"""Columns of an item that are shown where they were recorded."""
LETTERS = "ABCD"


@dataclass(frozen=True, kw_only=True)
class Flip:
    """One item that one model answered rightly and the other wrongly; `told` is what was recorded of it, by name."""

    direction: str
    where: str
    told: tuple[tuple[str, str], ...]
    margin: str


@dataclass(frozen=True, kw_only=True)
class Flips:
    """The changed items of one cell's task; `found` counts those that are not shown too."""

    label: str
    key: str
    task: str
    found: int
    asked: int
    shown: tuple[Flip, ...]


def flips(cast: Cast) -> list[Flips]:
    """Changed items by cell and task, the recommended cell first; the total is bounded."""
    tables: list[Flips] = []
    room = MOST_IN_ALL
    for candidate in cast.candidates:
        for task in candidate.cell.tasks.values():
            if room <= 0:
                return tables
            found = _flips(task, min(room, MOST_A_TASK))
            if found is not None and found[0]:
                count, asked, shown = found
                room -= len(shown)
                cell = candidate.cell
                tables.append(
                    Flips(label=cell.label, key=cell.key, task=task.name, found=count, asked=asked, shown=shown)
                )
    return tables


def _flips(task: Measurement, room: int) -> tuple[int, int, tuple[Flip, ...]] | None:
    logprobs = [f"{before}logprob_{letter}" for before in ("", "base_") for letter in LETTERS]
    columns = read_columns(task, "items.parquet", (*RIGHT, *WHERE, *TOLD, *logprobs))
    if columns is None or not set(RIGHT) <= columns.keys():
        return None
    own, base = (_truth(columns[name]) for name in RIGHT)
    changed = np.flatnonzero((own >= 0) & (base >= 0) & (own != base))
    shown = tuple(_flip(columns, int(row), bool(own[row])) for row in changed[:room])
    return len(changed), len(own), shown


def _truth(values: Any) -> Any:
    """1 right, 0 wrong, -1 not known."""
    return np.array([int(bool(value)) if value in (True, False) else -1 for value in values], dtype=np.int8)


def _flip(columns: Mapping[str, Any], row: int, right: bool) -> Flip:
    where = [str(columns[name][row]) for name in WHERE if name in columns and columns[name][row] is not None]
    told = tuple(
        (name.replace("base_", "baseline's ").replace("_", " "), short(str(columns[name][row]), 400))
        for name in TOLD
        if name in columns and columns[name][row] is not None
    )
    return Flip(
        direction="wrong to right" if right else "right to wrong",
        where=short(" ".join(where[:2])),
        told=told,
        margin=_margin(columns, row),
    )


def _margin(columns: Mapping[str, Any], row: int) -> str:
    """By how much the picked letter was likelier than the next, nat: a flip of a close call says little."""
    ours, theirs = (
        _lead([columns.get(f"{before}logprob_{letter}") for letter in LETTERS], row) for before in ("", "base_")
    )
    parts = [f"{value:.3f}" if value is not None else "—" for value in (theirs, ours)]
    return " → ".join(parts) if ours is not None or theirs is not None else ""


def _lead(columns: Sequence[Any], row: int) -> float | None:
    values = sorted(
        (float(column[row]) for column in columns if column is not None and column[row] is not None), reverse=True
    )
    return values[0] - values[1] if len(values) > 1 and np.isfinite(values[:2]).all() else None
