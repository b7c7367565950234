"""Loads: a scenario as asked. Cells are compared at a load only when they were asked the same thing."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.analysis.readings import read
from bench.analysis.results import Cell, mapping, number, text
from bench.base.errors import UsageError, nearest
from bench.load.config import ScenarioConfig

NOT_ASKED = {field.name for field in dataclasses.fields(ScenarioConfig) if not field.metadata.get("identity", True)}
"""Scenario fields that do not change what was asked: deadlines and the like."""


@dataclass(frozen=True, kw_only=True)
class Load:
    """A scenario by name; `cells` are the ids of those that were asked exactly `config`."""

    name: str
    config: Mapping[str, Any]
    workload: Mapping[str, Any]
    cells: frozenset[str]
    other_cells: frozenset[str]
    description: str
    concurrency: float | None


def loads_of(cells: Sequence[Cell]) -> list[Load]:
    """Every scenario name, in order of concurrency then first seen; the config most cells share is the load's."""
    names = list(dict.fromkeys(name for cell in cells for name in cell.scenarios))
    found = [_load(name, [cell for cell in cells if name in cell.scenarios]) for name in names]
    return sorted(found, key=lambda load: (load.concurrency is None, load.concurrency or 0.0))


def _load(name: str, cells: Sequence[Cell]) -> Load:
    asked: dict[str, list[Cell]] = {}
    for cell in cells:
        asked.setdefault(_fingerprint(cell, name), []).append(cell)
    chosen = max(asked.values(), key=len)
    config = chosen[0].scenarios[name].config
    inside = frozenset(cell.id for cell in chosen)
    return Load(
        name=name,
        config=config,
        workload=workload_of(chosen[0], name),
        cells=inside,
        other_cells=frozenset(cell.id for cell in cells) - inside,
        description=describe(config, workload_of(chosen[0], name)),
        concurrency=number(config.get("concurrency")),
    )


def workload_of(cell: Cell, name: str) -> Mapping[str, Any]:
    """The workload a scenario was run over: spelled out, or one of the cell's by name."""
    asked = cell.scenarios[name].config.get("workload")
    if isinstance(asked, Mapping):
        return asked
    by_name = mapping(mapping(cell.config.get("workloads")).get(text(asked) or "default"))
    return by_name or mapping(cell.config.get("workload"))


def _fingerprint(cell: Cell, name: str) -> str:
    scenario = {key: value for key, value in cell.scenarios[name].config.items() if key not in NOT_ASKED}
    asked = [scenario, workload_of(cell, name)]
    return json.dumps(asked, sort_keys=True, default=str)


def same_workload(load: Load, other: Load) -> bool:
    """Whether two loads ask the same of a server, only more or less of it: one curve of latency against load."""
    return dict(load.workload) == dict(other.workload) and load.config.get("workload") == other.config.get("workload")


_KINDS = {
    "closed": "closed loop",
    "closed_stages": "closed loop in stages",
    "stages": "arrivals in stages",
    "trace": "a trace's arrivals",
    "sweep": "the fastest rate of a sweep that was kept up with",
}
"""Scenario kinds in words; the others are arrivals of their name."""


def _spreads(workload: Mapping[str, Any], name: str) -> bool:
    """Whether lengths are drawn from a distribution."""
    return text(mapping(workload.get(name)).get("distribution")) not in (None, "fixed")


def describe(config: Mapping[str, Any], workload: Mapping[str, Any]) -> str:
    """A load in words, from what is recorded of it."""
    parts = []
    kind = text(config.get("kind"))
    concurrency, rate = number(config.get("concurrency")), number(config.get("rate_per_s"))
    if kind is not None:
        parts.append(_KINDS.get(kind, f"{kind} arrivals"))
    if concurrency is not None:
        parts.append(f"{concurrency:g} concurrent stream{'' if concurrency == 1 else 's'}")
    if rate is not None:
        parts.append(f"{rate:g} requests/s asked")
    requests = number(config.get("requests"))
    if requests:
        parts.append(f"{requests:g} requests")
    tokens_in, tokens_out = number(workload.get("input_tokens")), number(workload.get("output_tokens"))
    if kind == "trace" and config.get("lengths") is True and workload.get("kind") == "synthetic":
        parts.append("the trace's tokens in and out")
    elif tokens_in is not None and tokens_out is not None:
        spread = any(_spreads(workload, name) for name in ("input_lengths", "output_lengths"))
        parts.append(f"{'about ' if spread else ''}{tokens_in:g} tokens in, {tokens_out:g} out")
    turns = number(workload.get("turns"))
    if turns is not None and turns > 1:
        parts.append(f"sessions of {'about ' if _spreads(workload, 'turn_lengths') else ''}{turns:g} turns")
    return ", ".join(parts)


def reference_load(cells: Sequence[Cell], loads: Sequence[Load], wanted: str | None) -> Load | None:
    """The load at which variants are priced: the one asked for, else the fastest that enough cells have.

    Enough is half as many usable throughputs as the load with the most has.

    Raises UsageError when the one asked for is unknown.
    """
    if wanted is not None:
        for load in loads:
            if load.name == wanted:
                return load
        raise UsageError(f"load='{wanted}' was not recorded; {nearest(wanted, (load.name for load in loads))}")

    usable = {load.name: _usable_throughputs(cells, load) for load in loads}
    most = max(map(len, usable.values()), default=0)

    def rank(load: Load) -> tuple[bool, float]:
        values = usable[load.name]
        return len(values) * 2 >= most, values[len(values) // 2] if values else 0.0

    return max(loads, key=rank, default=None)


def _usable_throughputs(cells: Sequence[Cell], load: Load) -> list[float]:
    readings = [read(cell, "scenarios", load.name, "output_throughput") for cell in cells if cell.id in load.cells]
    return sorted(reading.estimate.value for reading in readings if reading.estimate and reading.usable)
