"""The root config of a cell, and what an experiment is."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from bench.base.errors import UsageError, nearest
from bench.base.schema import expect, identity_when_changed, not_identity, schema
from bench.engines.base import EngineConfig
from bench.load.config import ScenarioConfig, WorkloadConfig
from bench.quality.config import StopWhen, TaskConfig
from quantize.models import ModelConfig
from quantize.schemes.base import SchemeConfig


@schema(None, "run")
@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One cell: a model under a scheme on an engine, with its scenarios and tasks.

    `baseline` is the scheme quality is compared with, over `base` where it is given (the unquantized model of a
    checkpoint that is quantized already), else over the same model. `workloads`, `scenarios` and `tasks` are plugins
    by name; a scenario names the workload it uses. `repeat` tells repeated measurements of one cell apart. `stop_when`
    bounds what a variant may lose before its expensive tasks are skipped.
    """

    model: ModelConfig = MISSING
    scheme: SchemeConfig = MISSING
    baseline: SchemeConfig = MISSING
    base: ModelConfig | None = identity_when_changed(None)  # noqa: RUF009 - a field specifier
    engine: EngineConfig = MISSING
    workloads: dict[str, Any] = field(default_factory=dict)
    scenarios: dict[str, Any] = field(default_factory=dict)
    tasks: dict[str, Any] = field(default_factory=dict)
    repeat: int = 0
    out: str | None = not_identity(None)
    stop_when: StopWhen = not_identity(default_factory=StopWhen)  # noqa: RUF009 - a field specifier

    def __post_init__(self) -> None:
        if self.repeat < 0:
            raise ValueError(f"repeat={self.repeat} must be 0 or more")

    def scenario(self, name: str) -> tuple[ScenarioConfig, WorkloadConfig]:
        """Scenario `name` and the workload it uses; raises UsageError when that workload or a file is not there."""
        scenario = expect(self.scenarios[name], ScenarioConfig, f"scenarios.{name}")
        if scenario.workload not in self.workloads:
            hint = nearest(scenario.workload, self.workloads)
            raise UsageError(f"scenarios.{name}.workload='{scenario.workload}' is not among the workloads; {hint}")
        workload = expect(self.workloads[scenario.workload], WorkloadConfig, f"workloads.{scenario.workload}")
        for config, where in ((scenario, f"scenarios.{name}"), (workload, f"workloads.{scenario.workload}")):
            for field_name, path in config.files().items():
                if not Path(path).expanduser().is_file():
                    raise UsageError(f"{where}.{field_name}: there is no file {path}")
        return scenario, workload

    def task(self, name: str) -> TaskConfig:
        """Task `name`."""
        return expect(self.tasks[name], TaskConfig, f"tasks.{name}")


@schema("experiment", "experiment")
@dataclass(frozen=True, kw_only=True)
class ExperimentConfig:
    """Cells as override strings: `base` for all, one of each axis of `product`, `include` added, `exclude` left out.

    An entry may hold several overrides separated by spaces. An `exclude` entry drops the cells that have all of them.
    `report` are overrides of the report's config, such as the load at which variants are priced.
    """

    name: str = MISSING
    description: str = ""
    base: list[str] = field(default_factory=list)
    product: list[list[str]] = field(default_factory=list)
    include: list[str] = field(default_factory=list)
    exclude: list[str] = field(default_factory=list)
    report: list[str] = field(default_factory=list)


@schema(None, "plan")
@dataclass(frozen=True, kw_only=True)
class PlanConfig:
    """The root that picks an experiment."""

    experiment: ExperimentConfig = MISSING
