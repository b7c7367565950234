"""What makes two measurements the same one. A change here makes old results unreachable: golden tests pin it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.base.errors import UsageError
from bench.base.hashing import DigestCache, key_of
from bench.base.paths import cache_dir
from bench.base.schema import identity
from bench.engines.base import EngineConfig
from bench.load.config import ScenarioConfig, WorkloadConfig
from bench.quality.config import TaskConfig

#: Raised when what is recorded for the same config changes its meaning.
CELL_VERSION = 1
SCENARIO_VERSION = 1
TASK_VERSION = 1


def cell_key(
    *,
    artefact: str,
    engine: EngineConfig,
    engine_lock: str,
    machine: Mapping[str, Any],
    repeat: int,
    inherited: Mapping[str, str] | None = None,
) -> str:
    """Variant x engine config and build x machine x repeat, and variables that the engine inherits, where there are."""
    return key_of(
        {
            **({"inherited": dict(inherited)} if inherited else {}),
            "version": CELL_VERSION,
            "artefact": artefact,
            "engine": identity(engine),
            "engine_lock": engine_lock,
            "machine": machine,
            "repeat": repeat,
        }
    )


def scenario_key(scenario: ScenarioConfig, workload: WorkloadConfig) -> str:
    """What is asked and how, files by their content; the cell it runs in is the folder around it.

    Raises UsageError when such a file cannot be read.
    """
    digests = DigestCache(cache_dir() / "workloads" / "digests.json")
    files = {}
    for config, where in ((scenario, "scenario"), (workload, "workload")):
        for name, path in config.files().items():
            try:
                files[f"{where}.{name}"] = digests.digest(Path(path).expanduser())
            except OSError as error:
                raise UsageError(f"{where}.{name}: {path} cannot be read ({error.strerror})") from error
    return key_of(
        {
            **({"files": files} if files else {}),
            "version": SCENARIO_VERSION,
            "scenario": identity(scenario),
            "workload": identity(workload),
        }
    )


def task_key(task: TaskConfig, *, text_digest: str | None, baseline: str | None, scorer_lock: str) -> str:
    """The task, its data, what it is compared with and the build that scores."""
    return key_of(
        {
            "version": TASK_VERSION,
            "task": identity(task),
            "text": text_digest,
            "baseline": baseline,
            "scorer_lock": scorer_lock,
        }
    )
