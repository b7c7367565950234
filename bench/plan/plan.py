"""From an experiment to cells. Pure: nothing is run, made or looked up on disk but the shipped configuration."""

from __future__ import annotations

import dataclasses
import itertools
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.base.compose import compose, parse_overrides
from bench.base.errors import UsageError
from bench.base.hashing import canonical_json
from bench.base.schema import identity
from bench.base.sweep import SharedComposes
from bench.plan.config import ExperimentConfig, PlanConfig, RunConfig
from quantize.schemes.own_baseline import OwnBaselineConfig

DEFAULT_EXPERIMENT = "default"
#: The engine where none is chosen, for formats that the default of `conf/run.yaml` cannot serve.
_ENGINE_OF_FORMAT = {"hf": "transformers"}


@dataclass(frozen=True, kw_only=True)
class CellSpec:
    """One planned cell: its overrides, and the config they compose to or why they do not."""

    overrides: tuple[str, ...]
    config: RunConfig | None
    error: str | None = None

    @property
    def label(self) -> str:
        """How people tell cells apart: scheme, engine, and the repeat where there is more than one."""
        if self.config is None:
            return " ".join(self.overrides)
        label = f"{self.config.scheme.label} · {self.config.engine.kind}"
        return f"{label} · repeat {self.config.repeat}" if self.config.repeat else label


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All cells of a run, each once, in the order of the experiment, and what its report is told."""

    name: str
    report: tuple[str, ...] = ()
    cells: tuple[CellSpec, ...]


def plan(overrides: Sequence[str], *, multirun: bool = False, config_dir: Path | None = None) -> Plan:
    """Expand `experiment=NAME` and the user's overrides into cells.

    User overrides apply to every cell, after the experiment's own. With `multirun`, comma lists become axes.
    Raises UsageError when a cell that was written explicitly does not compose, or when none does; a product's cell
    that does not compose becomes a CellSpec with an error.
    """
    chosen, own = _split_experiment(overrides)
    experiment = compose("plan", chosen, PlanConfig, config_dir=config_dir).experiment
    fixed, axes = _split_axes(own, multirun=multirun)
    specs: list[CellSpec] = []
    errors: list[UsageError] = []
    shared = SharedComposes()
    for explicit, written in _expand(experiment, axes):
        cell = _last_wins([*written, *fixed])
        try:
            specs.append(CellSpec(overrides=cell, config=_compose_cell(cell, config_dir, shared)))
        except UsageError as error:
            if explicit:
                raise
            errors.append(error)
            specs.append(CellSpec(overrides=cell, config=None, error=str(error)))
    if errors and all(spec.config is None for spec in specs):
        raise errors[0]
    if not specs:
        raise UsageError(f"experiment '{experiment.name}' has no cells left: its exclude entries drop all of them")
    specs = list(_distinct(specs))
    _refuse_same_measurements(specs)
    return Plan(name=experiment.name, report=tuple(experiment.report), cells=tuple(specs))


def _compose_cell(overrides: Sequence[str], config_dir: Path | None, shared: SharedComposes) -> RunConfig:
    config = _with_baseline(_with_engine(overrides, config_dir, shared))
    for name in config.scenarios:
        config.scenario(name)
    for name in config.tasks:
        config.task(name)
    return config


def _with_engine(overrides: Sequence[str], config_dir: Path | None, shared: SharedComposes) -> RunConfig:
    """The config with the engine of the scheme's format where none is chosen."""
    chosen = any(_key(override) == "engine" for override in overrides)
    # Settings of an engine that is not known yet may be none of the default's.
    first = [override for override in overrides if chosen or not _key(override).startswith("engine.")]
    config = compose("run", first, RunConfig, config_dir=config_dir, shared=shared)
    other = None if chosen else _ENGINE_OF_FORMAT.get(config.scheme.format_of(config.model))
    if other is None and len(first) == len(overrides):
        return config
    choice = [] if other is None else [f"engine={other}"]
    return compose("run", [*choice, *overrides], RunConfig, config_dir=config_dir, shared=shared)


def _key(override: str) -> str:
    return override.split("=", 1)[0].lstrip("+~")


def _with_baseline(config: RunConfig) -> RunConfig:
    """Put the scheme's own baseline where none is named."""
    if isinstance(config.scheme, OwnBaselineConfig):
        raise UsageError("scheme=own_baseline stands for a baseline; choose a scheme that makes a variant")
    if not isinstance(config.baseline, OwnBaselineConfig):
        return config
    alone = config.base is None and config.scheme.needs_base(config.model)
    own = config.scheme if alone else config.scheme.own_baseline(config.model)
    return dataclasses.replace(config, baseline=own)


def _split_experiment(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    keys = [(override.split("=", 1)[0], override) for override in overrides]
    chosen = [override for key, override in keys if key == "experiment" or key.startswith("experiment.")]
    return chosen, [override for _, override in keys if override not in chosen]


def _split_axes(overrides: Sequence[str], *, multirun: bool) -> tuple[list[str], list[list[str]]]:
    fixed: list[str] = []
    axes: list[list[str]] = []
    for text, parsed in zip(overrides, parse_overrides(overrides), strict=True):
        if not parsed.is_sweep_override():
            fixed.append(text)
        elif multirun:
            axes.append([f"{parsed.get_key_element()}={value}" for value in _values(text, parsed)])
        else:
            raise UsageError(f"'{text}' lists several values; add -m to run their product")
    return fixed, axes


def _expand(experiment: ExperimentConfig, user_axes: Sequence[Sequence[str]]) -> Iterator[tuple[bool, list[str]]]:
    """Pairs of (written explicitly?, overrides) before the user's fixed overrides."""
    base = _words(experiment.base)
    excludes = [set(shlex.split(entry)) for entry in experiment.exclude]
    axes = [*experiment.product, *user_axes]
    for choice in itertools.product(*axes):
        cell = [*base, *_words(choice)]
        if not any(exclude <= set(cell) for exclude in excludes):
            yield bool(user_axes) or not axes, cell
    for entry in experiment.include:
        yield True, [*base, *shlex.split(entry)]


def _words(entries: Iterable[str]) -> list[str]:
    return [word for entry in entries for word in shlex.split(entry)]


def _last_wins(overrides: Sequence[str]) -> tuple[str, ...]:
    """Each key once, at its last value; group choices first, so that values refine what was chosen."""
    by_key: dict[str, str] = {}
    for text, parsed in zip(overrides, parse_overrides(overrides), strict=True):
        key = str(parsed.get_key_element()).lstrip("+~")
        earlier = by_key.pop(key, "")
        if earlier.startswith("+") and text[0] not in "+~":
            text = f"+{text}"  # noqa: PLW2901 - what was added can be replaced
        by_key[key] = text
    return tuple(by_key.values())


def _distinct(specs: Iterable[CellSpec]) -> Iterator[CellSpec]:
    seen: set[bytes] = set()
    for spec in specs:
        config = spec.config
        mark = canonical_json([_measured(config), identity(config)] if config else list(spec.overrides))
        if mark not in seen:
            seen.add(mark)
            yield spec


def _measured(config: RunConfig) -> list[object]:
    """What tells two cells' measurements apart. Files are told apart by path here: nothing is read to plan."""
    nested = {
        field.name: dataclasses.asdict(getattr(config.scheme, field.name))
        for field in dataclasses.fields(config.scheme)
        if dataclasses.is_dataclass(getattr(config.scheme, field.name))
    }
    model = dataclasses.asdict(config.model)
    return [model, identity(config.scheme), nested, identity(config.engine), config.repeat]


def _refuse_same_measurements(specs: Sequence[CellSpec]) -> None:
    """Raise UsageError for cells that would be recorded as one: they differ in what belongs inside a cell."""
    seen: dict[bytes, CellSpec] = {}
    for spec in specs:
        if spec.config is None:
            continue
        other = seen.setdefault(canonical_json(_measured(spec.config)), spec)
        if other is not spec:
            different = [override for override in spec.overrides if override not in other.overrides]
            raise UsageError(
                f"{spec.label} is planned twice, differing only in {', '.join(different) or 'its baseline'}: "
                "scenarios, workloads and tasks go into one cell by name, such as +scenario@scenarios.NAME=closed"
            )


def _values(text: str, parsed: Any) -> list[str]:
    from hydra.errors import HydraException

    try:
        return [str(value) for value in parsed.sweep_string_iterator()]
    except HydraException as error:
        raise UsageError(f"'{text}' does not list its values ({str(error).splitlines()[0]})") from error
