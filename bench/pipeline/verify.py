"""An engine held against its row in the table of support: each format is made, accepted, served and loaded for real.

It is a run like any other, of cells that are written here as overrides; what is its own is what it reads from them.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.base.clock import utc_now
from bench.base.errors import FailureKind, UsageError
from bench.base.progress import Progress
from bench.engines.base import Engine, SupportAnswer, engine_of
from bench.engines.formats import FORMATS, Format, format_of_scheme
from bench.engines.support_matrix import Entry, entry, kinds
from bench.pipeline.run import CellOutcome, run_plan
from bench.plan.config import RunConfig
from bench.plan.plan import CellSpec, Plan, plan
from bench.store.run import Status
from bench.toolchains.config import Accelerator

#: A few requests, streamed one after the other, and nothing to score.
_SCENARIO = "scenarios.c1"
_SMALL = (
    *("~scenarios.c4", "~tasks.perplexity", "~tasks.divergence", f"{_SCENARIO}.requests=3"),
    *("workloads.default.input_tokens=16", "workloads.default.output_tokens=16"),
    "engine.max_model_len=512",
)
#: Failures of acceptance that say nothing of what was to be accepted.
_OURS = (FailureKind.EVALUATOR, FailureKind.TOOLCHAIN, FailureKind.CLIENT_FAULT, FailureKind.DISK_FULL)
_UNSUPPORTED = "unsupported"
_CANNOT_BE = (FailureKind.USAGE, _UNSUPPORTED)


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """A cell that shall tell about one format."""

    format: Format
    told: Entry
    spec: CellSpec


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What one format did; None where it was not seen, or the engine does not tell.

    `counted`: the server's own count of generated tokens is ours. `tried` is False where no variant could be made, or
    the table says no.
    """

    engine: str
    accelerator: str
    format: str
    variant: str
    told: SupportAnswer
    tried: bool
    loads: bool | None = None
    generates: bool | None = None
    counted: bool | None = None
    metrics: bool | None = None
    kind: str = ""
    message: str = ""
    log_tail: str = ""

    @property
    def works(self) -> bool:
        """Whether it was served as it should be: what the engine does not tell is no fault."""
        return bool(self.loads and self.generates) and self.counted is not False and self.metrics is not False

    @property
    def holds(self) -> bool:
        """Whether the table stands: what it says yes to works, unless it cannot be made of this model at all."""
        if self.tried:
            return self.works
        return self.told is not SupportAnswer.YES or self.kind in _CANNOT_BE

    @property
    def correction(self) -> str:
        """The line of the table that would have to change; empty where it says what was seen."""
        seen = SupportAnswer.YES if self.works else SupportAnswer.NO
        if not self.tried or seen is self.told:
            return ""
        why = "" if self.works else f" ({self.kind or 'not as it should be'}: {self.message or self.faults})"
        return f"{self.engine} on {self.accelerator}, {self.format}: {self.told} → {seen}{why}"

    @property
    def faults(self) -> str:
        """What was not as it should be, in words."""
        named = {"loads": self.loads, "generates": self.generates, "tokens counted": self.counted}
        return ", ".join(f"{name}: no" for name, value in {**named, "metrics read": self.metrics}.items() if not value)


@dataclass(frozen=True, kw_only=True)
class Verification:
    """Rows in the order they were tried, and where the run is."""

    rows: tuple[Seen, ...]
    directory: Path

    @property
    def holds(self) -> bool:
        """Whether everything the table says holds."""
        return all(row.holds for row in self.rows)


def attempts(engine: str, overrides: Sequence[str]) -> list[Attempt]:
    """The cells that verify `engine`, a choice of conf/engine; `scheme=A,B` in the overrides names those to try.

    Raises UsageError for an engine that the table does not know, and where nothing is left to try.
    """
    schemes = [override.split("=", 1)[1] for override in overrides if override.startswith("scheme=")]
    own = [override for override in overrides if not override.startswith("scheme=")]
    wanted = schemes[-1].strip("[]").split(",") if schemes else []
    base = [f"engine={engine}", *_SMALL]
    config = composed([*base, f"scheme={wanted[0]}" if wanted else "scheme=gguf_q8_0", *own])
    kind = config.engine.kind
    if kind not in kinds():
        raise UsageError(f"engine={engine} is not in the table of support; verified can be {', '.join(kinds())}")
    accelerator = engine_of(config.engine).accelerator(config.engine)
    found = []
    for known, words in _tried(kind, accelerator, wanted):
        told = entry(kind, accelerator, known)
        assert told is not None, "the engine is in the table"
        (spec,) = plan([*base, *shlex.split(f"scheme={words}"), *own]).cells
        found.append(Attempt(format=known, told=told, spec=spec))
    if not found:
        raise UsageError(
            f"engine={engine}: the table says yes to nothing on {accelerator}; see quantbench engines {kind}"
        )
    return found


def composed(overrides: Sequence[str]) -> RunConfig:
    """The config that these overrides mean."""
    config = plan(overrides).cells[0].config
    assert config is not None, "a plan of one cell composes"
    return config


def _tried(kind: str, accelerator: Accelerator, wanted: Sequence[str]) -> list[tuple[Format, str]]:
    """Formats with the words that choose their schemes."""
    if not wanted:
        told = [(known, entry(kind, accelerator, known)) for known in FORMATS]
        asked = [known for known, found in told if found is not None and found.answer is not SupportAnswer.NO]
        return [(known, words) for known in asked for words in known.tried]
    found = []
    for name in wanted:
        known = format_of_scheme(name)
        if known is None:
            raise UsageError(f"scheme={name} has no format of its own in the table; name one of conf/scheme that has")
        short = next((words for words in known.tried if words.split()[0] == name), name)
        found.append((known, short))
    return found


def verify(engine: str, overrides: Sequence[str], *, progress: Progress, command: Sequence[str]) -> Verification:
    """Run every attempt and tell what was seen. A run of its own each time: nothing is taken from an earlier one."""
    asked = attempts(engine, overrides)
    stamp = re.sub(r"\D", "", utc_now())[:14]
    outcome = run_plan(
        Plan(name=f"verify-{engine}", cells=tuple(attempt.spec for attempt in asked)),
        progress=progress,
        command=command,
        overrides=overrides,
        default_out=Path("results") / f"verify-{engine}-{stamp}",
    )
    rows = [seen(attempt, cell) for attempt, cell in zip(asked, outcome.cells, strict=True)]
    return Verification(rows=tuple(rows), directory=outcome.directory)


def seen(attempt: Attempt, cell: CellOutcome) -> Seen:
    """What a cell's record tells of the engine."""
    config = attempt.spec.config
    assert config is not None
    record = cell.record
    failure: Mapping[str, Any] = record.get("failure") or {}
    refused = cell.status is Status.UNSUPPORTED
    engine = engine_of(config.engine)
    before = refused or failure.get("stage") == "quantize"
    if failure.get("stage") == "accept":
        before = before or failure.get("kind") in _OURS or not _accepts_itself(config, engine)
    entries = [entry for entry in (record.get("scenarios") or {}).values() if entry["status"] == Status.COMPLETE]
    observed: Mapping[str, Any] = entries[0] if entries else {}
    made, server = observed.get("counted") or {}, observed.get("server") or {}
    ours, theirs = made.get("output_tokens"), server.get("generation_tokens")
    return Seen(
        engine=config.engine.kind,
        accelerator=str(engine.accelerator(config.engine)),
        format=attempt.format.name,
        variant=config.scheme.label,
        told=attempt.told.answer,
        tried=not before,
        loads=None if before else (record.get("engine") or {}).get("kind") is not None,
        generates=None if before else bool(ours),
        counted=None if before or engine.generation_counter is None else ours is not None and ours == theirs,
        metrics=None if before or engine.metrics is None else bool(observed) and _sampled(observed),
        kind=_UNSUPPORTED if refused else str(failure.get("kind") or ""),
        message=str(failure.get("message") or record.get("unsupported_reason") or ""),
        log_tail=str(failure.get("log_tail") or ""),
    )


def _accepts_itself(config: RunConfig, engine: Engine) -> bool:
    """Whether the engine's own library loads the candidate first, so that a failure there is the engine's."""
    elsewhere = config.scheme.packing in engine.packing_toolchains
    return not elsewhere and engine.scoring_toolchain(config.engine) == config.engine.toolchain


def _sampled(observed: Mapping[str, Any]) -> bool:
    """Whether the server's metrics were read while load ran."""
    return observed.get("quiescent") is not None
