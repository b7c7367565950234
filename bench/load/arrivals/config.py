"""Arrival processes beyond those of `bench.load.config`: gamma, stages, sweep, trace."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from bench.base.schema import not_identity, schema
from bench.load.config import MISSING, OpenConfig, RatedConfig, ScenarioConfig, ThinkTime


@schema("scenario", "gamma")
@dataclass(frozen=True, kw_only=True)
class GammaConfig(RatedConfig):
    """Open loop with independent gamma-distributed gaps of mean 1 / `rate_per_s` seconds.

    `burstiness` is their shape, as in vLLM: 1 is a Poisson process, less comes in bursts, more is more even. The gaps'
    coefficient of variation is 1 / sqrt(burstiness).
    """

    kind: str = "gamma"
    burstiness: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.burstiness > 0:
            raise ValueError(f"burstiness is {self.burstiness}; it must be greater than 0")


@dataclass(frozen=True, kw_only=True)
class Stage:
    """`level` (requests/s, or users) for `duration_s` seconds; with another `to_level` it changes linearly to that."""

    level: float
    to_level: float
    duration_s: float

    @property
    def area(self) -> float:
        """Level times seconds: the expected number of requests of a stage of rates."""
        return (self.level + self.to_level) / 2 * self.duration_s


def read_stages(entries: list[Any], name: str) -> list[Stage]:
    """Stages from a config's entries `{NAME: 2, to_NAME: 8, duration_s: 30}`; raises ValueError naming the bad one."""
    if not entries:
        raise ValueError(f"stages is empty; give one like {{{name}: 2, duration_s: 30}}")
    stages = []
    for number, entry in enumerate(entries):
        where = f"stages[{number}]"
        if not isinstance(entry, Mapping) or not {name, "duration_s"} <= set(entry) <= {
            name,
            f"to_{name}",
            "duration_s",
        }:
            raise ValueError(f"{where} is {entry}; give {name}, duration_s and, for a ramp, to_{name}")
        values = {key: entry[key] for key in entry}
        for key, value in values.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
                raise ValueError(f"{where}.{key} is {value}; it must be a number of at least 0")
        if not values["duration_s"] > 0:
            raise ValueError(f"{where}.duration_s is {values['duration_s']}; it must be greater than 0")
        level = float(values[name])
        stages.append(
            Stage(
                level=level,
                to_level=float(values.get(f"to_{name}", level)),
                duration_s=float(values["duration_s"]),
            )
        )
    return stages


@schema("scenario", "stages")
@dataclass(frozen=True, kw_only=True)
class StagesConfig(OpenConfig):
    """Open loop whose rate changes by stages: `{rate_per_s: 2, to_rate_per_s: 8, duration_s: 30}`.

    An inhomogeneous Poisson process of that rate; with `burstiness` other than 1 its gaps, in units of expected
    requests, are gamma-distributed instead. `requests` bounds their number; 0: as many as the stages hold.
    """

    kind: str = "stages"
    requests: int = 0
    stages: list[Any] = field(default_factory=list)
    burstiness: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.burstiness > 0:
            raise ValueError(f"burstiness is {self.burstiness}; it must be greater than 0")
        if sum(stage.area for stage in self.read()) <= 0:
            raise ValueError("stages hold no request: one of the rates must be greater than 0")

    def fewest_requests(self) -> int:
        return 0

    def read(self) -> list[Stage]:
        """The stages as values."""
        return read_stages(self.stages, "rate_per_s")


@schema("scenario", "closed_stages")
@dataclass(frozen=True, kw_only=True)
class ClosedStagesConfig(ScenarioConfig):
    """Closed loop whose number of users changes by stages: `{concurrency: 1, to_concurrency: 16, duration_s: 60}`.

    User u (from 0) asks while the number is at least u + 1; what is in flight when it falls is finished. `requests` is
    an upper bound, and must be ample: so many are drawn.
    """

    kind: str = "closed_stages"
    requests: int = 1000
    stages: list[Any] = field(default_factory=list)
    think_time_s: float = 0.0
    think: ThinkTime = ThinkTime.constant

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.think_time_s < 0:
            raise ValueError(f"think_time_s is {self.think_time_s}; it must be at least 0")
        if self.most_users() < 1:
            raise ValueError("stages hold no user: one concurrency must be at least 1")

    def read(self) -> list[Stage]:
        """The stages as values."""
        return read_stages(self.stages, "concurrency")

    def most_users(self) -> int:
        """The largest number of users at once."""
        return int(max(max(stage.level, stage.to_level) for stage in self.read()))


class TraceFormat(StrEnum):
    """Whose trace it is; `auto` takes the first line's word for it. See `bench.load.arrivals.trace`."""

    auto = "auto"
    azure = "azure"
    burstgpt = "burstgpt"
    mooncake = "mooncake"
    own = "own"


@schema("scenario", "trace")
@dataclass(frozen=True, kw_only=True)
class TraceConfig(OpenConfig):
    """Replay of a recorded trace: requests leave when they did then, times `time_scale` (0.1: ten times as fast).

    With `lengths`, a synthetic workload asks with the trace's input and output tokens, and where it names prefix blocks
    (Mooncake's `hash_ids`), prompts share them as recorded. `start_s` seconds are skipped, and requests longer than
    `max_tokens` (in and out) left out. `requests` bounds the number; 0: all.
    """

    kind: str = "trace"
    requests: int = 0
    path: str = not_identity(MISSING)
    format: TraceFormat = TraceFormat.auto
    time_scale: float = 1.0
    start_s: float = 0.0
    max_tokens: int | None = None
    lengths: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.time_scale > 0:
            raise ValueError(f"time_scale is {self.time_scale}; it must be greater than 0")
        if self.start_s < 0:
            raise ValueError(f"start_s is {self.start_s}; it must be at least 0")

    def files(self) -> dict[str, str]:
        return {"path": self.path}

    def fewest_requests(self) -> int:
        return 0


@schema("scenario", "sweep")
@dataclass(frozen=True, kw_only=True)
class SweepConfig(ScenarioConfig):
    """Open loop at one rate after another, each `factor` times the last, until the endpoint no longer keeps up.

    Each step is a run of its own with its own window, files and summary: `requests` of them, or as many as fill
    `step_s` seconds where that is more, with gamma-distributed gaps of `burstiness`. A step keeps up when at least
    `kept_share` as many requests end in its window as are due (but for chance), no backlog grows, and at most
    `error_share` of them fail. The result's figures are those of the fastest step that kept up, or of the first where
    none did.
    """

    kind: str = "sweep"
    start_per_s: float = 1.0
    factor: float = 1.5
    steps: int = 12
    step_s: float = 30.0
    burstiness: float = 1.0
    kept_share: float = 0.9
    error_share: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("start_per_s", "burstiness"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be greater than 0")
        if not self.factor > 1:
            raise ValueError(f"factor is {self.factor}; it must be greater than 1")
        if self.steps < 1:
            raise ValueError(f"steps is {self.steps}; it must be at least 1")
        for name in ("kept_share", "error_share", "step_s"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 0")
