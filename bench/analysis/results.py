"""Recorded runs as typed values. What is read from disk may be missing or of the wrong type: accessors give None."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

STATISTICS = ("value", "p50", "p90", "p95", "p99", "mean")
TAILS = ("p90", "p95", "p99")
"""Statistics beside the headline that have intervals of their own."""


def text(value: object) -> str | None:
    """A non-empty string (numbers become their text), else None."""
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, int | float):
        return str(value)
    return value if isinstance(value, str) and value else None


def number(value: object) -> float | None:
    """A finite number, else None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        plain = float(value)
    except OverflowError:
        return None
    return plain if math.isfinite(plain) else None


def mapping(value: object) -> Mapping[str, Any]:
    """A mapping, else an empty one."""
    return value if isinstance(value, Mapping) else {}


def sequence(value: object) -> Sequence[Any]:
    """A list, else an empty one (a string is not a list)."""
    return value if isinstance(value, list | tuple) else ()


def texts(value: object) -> tuple[str, ...]:
    """The strings of a list, each once, in order."""
    return tuple(dict.fromkeys(item for item in sequence(value) if isinstance(item, str) and item))


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One figure as recorded: statistics by name, the 95 % interval of the headline, and why it may not be believed.

    The headline is `value`, or the median where the metric is a distribution; `intervals` are those of `TAILS`.
    """

    tag: str
    unit: str
    statistics: Mapping[str, float | None]
    n: float | None
    lo: float | None
    hi: float | None
    validity: tuple[str, ...]
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def headline(self) -> str:
        """The statistic that `lo` and `hi` belong to."""
        return "value" if self.statistics.get("value") is not None else "p50"

    def interval(self, statistic: str) -> tuple[float | None, float | None]:
        """The ends of a statistic's 95 % interval; both None where there is none."""
        return (self.lo, self.hi) if statistic == self.headline else self.intervals.get(statistic, (None, None))


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why a cell or a measurement failed."""

    stage: str
    kind: str
    message: str
    log_tail: str = ""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """A scenario or a task of a cell; `config` is what was asked, `summary` the recorded file.

    `server` is what the server and the machine said meanwhile (`bench.analysis.server`), `untold` why not more,
    by tag. `directory` holds the raw files; None where there are none that may be read.
    """

    kind: str
    name: str
    key: str
    status: str
    failure: Failure | None
    metrics: Mapping[str, Metric]
    errors: Mapping[str, float]
    validity: tuple[str, ...]
    config: Mapping[str, Any]
    summary: Mapping[str, Any]
    server: Mapping[str, Metric] = field(default_factory=dict)
    untold: Mapping[str, str] = field(default_factory=dict)
    directory: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One variant on one engine and machine, with what was measured on it. The mappings are those of `cell.json`."""

    id: str
    run: str
    key: str
    label: str
    status: str
    failure: Failure | None = None
    unsupported_reason: str | None = None
    overrides: tuple[str, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    variant: Mapping[str, Any] = field(default_factory=dict)
    acceptance: Mapping[str, Any] = field(default_factory=dict)
    engine: Mapping[str, Any] = field(default_factory=dict)
    machine: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    scenarios: Mapping[str, Measurement] = field(default_factory=dict)
    tasks: Mapping[str, Measurement] = field(default_factory=dict)
    validity: tuple[str, ...] = ()

    @property
    def variant_label(self) -> str:
        """The variant's own name, else the first part of the cell's label."""
        return text(self.variant.get("label")) or self.label.split(" · ")[0]

    @property
    def engine_kind(self) -> str | None:
        """The engine's name."""
        return text(self.engine.get("kind")) or text(mapping(self.config.get("engine")).get("kind"))

    @property
    def model(self) -> Mapping[str, Any]:
        """The model's entry of the variant manifest."""
        return mapping(self.variant.get("model"))

    @property
    def size_bytes(self) -> float | None:
        """Size of the variant's files, bytes."""
        return number(self.variant.get("size_bytes"))

    @property
    def bits_per_weight(self) -> float | None:
        """Effective bits per weight over all tensors."""
        return number(self.variant.get("effective_bits_per_weight"))

    @property
    def has_gpu(self) -> bool:
        """Whether the machine is recorded with a GPU."""
        return bool(sequence(self.machine.get("gpus")))

    @property
    def machine_id(self) -> tuple[str, ...]:
        """What makes two machines the same for a comparison: processor, cores, GPUs."""
        gpus = tuple(str(gpu.get("name", gpu)) if isinstance(gpu, Mapping) else str(gpu) for gpu in self.gpus)
        return (str(self.machine.get("cpu")), str(self.machine.get("cores")), *gpus)

    @property
    def gpus(self) -> Sequence[Any]:
        """The machine's GPUs as recorded."""
        return sequence(self.machine.get("gpus"))


@dataclass(frozen=True, kw_only=True)
class Run:
    """One invocation; `cells` includes planned ones that have no folder."""

    path: Path
    name: str
    status: str
    command: tuple[str, ...]
    overrides: tuple[str, ...]
    started: str | None
    finished: str | None
    version: str | None
    cells: tuple[Cell, ...]


@dataclass(frozen=True, kw_only=True)
class Results:
    """Everything a report reads."""

    runs: tuple[Run, ...]

    @property
    def cells(self) -> tuple[Cell, ...]:
        """The cells of all runs, in order; their `id` is unique."""
        return tuple(cell for run in self.runs for cell in run.cells)
