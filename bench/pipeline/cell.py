"""The story of one cell: quantize → accept → serve → load → evaluate → record."""

from __future__ import annotations

import contextlib
import errno
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from bench.base.clock import utc_now
from bench.base.errors import CellFailure, FailureKind, QuantbenchError, ToolchainError, UsageError
from bench.base.files import read_json
from bench.base.hashing import key_of
from bench.base.progress import Progress
from bench.base.schema import identity
from bench.engines.attach import target_of
from bench.engines.base import ServedModel, SupportAnswer, engine_of
from bench.engines.launch import inherited, launched
from bench.pipeline.build import engine_lock
from bench.pipeline.context import Context
from bench.pipeline.endpoint import LazyEndpoint
from bench.pipeline.keys import cell_key
from bench.pipeline.load import is_measured, load_scenario, read_observed, scenario_slot
from bench.pipeline.quality import Judge
from bench.pipeline.record import engine_record, plain
from bench.pipeline.served import Generated, ServedTasks
from bench.plan.config import RunConfig
from bench.plan.plan import CellSpec
from bench.quality.budget import family, hopeless, is_evidence
from bench.quality.config import TaskConfig
from bench.quality.generation.config import ServedTaskConfig, TaskSkipped
from bench.store.run import CellStore, ChildKind, ChildSlot, Status
from bench.telemetry.machine import fingerprint
from bench.telemetry.provenance import provenance
from quantize.run import Artefact, quantize


class Cell:
    """One cell being made; `record` is its manifest, written after every stage."""

    def __init__(self, spec: CellSpec, context: Context, opened: Callable[[str], None] = lambda _: None) -> None:
        assert spec.config is not None
        self.spec = spec
        self.config: RunConfig = spec.config
        self.context = context
        self.progress: Progress = context.progress.within(cell=spec.label)
        self.engine = engine_of(self.config.engine)
        self.store: CellStore | None = None
        self.record: dict[str, Any] = {}
        self.failure: QuantbenchError | None = None
        self.opened = opened
        self.measured = False
        self.generated: dict[str, Generated] = {}
        self.weighed: list[str] = []
        self.hopeless: str | None = None
        self.earlier_provenance: dict[str, Any] | None = None

    @property
    def key(self) -> str | None:
        """The measurement key, once the artefact is known."""
        return self.record.get("key")

    @property
    def has_weights(self) -> bool:
        """Whether the variant is here to be accepted and scored."""
        return self.config.scheme.holds_weights

    def run(self) -> Status:
        """Every stage in order; returns how the cell ended. Failures are recorded; KeyboardInterrupt passes."""
        try:
            with self.stage("quantize"):
                variant = self.quantize()
                judge = Judge(self.config, variant, self.engine, self.context, self.progress)
            if not self.failure and self.record["status"] != Status.UNSUPPORTED:
                with self.stage("accept"):
                    self.accept(judge)
            if not self.failure and self.record["status"] != Status.UNSUPPORTED:
                served = self.served_tasks(variant, judge)
                with self.stage("evaluate"):
                    self.weigh(judge)
                with self.stage("serve"), self.endpoint(variant) as endpoint:
                    self.load(endpoint)
                    self.ask(served, endpoint)
                with self.stage("evaluate"):
                    self.compare(served)
                    self.evaluate(judge, [name for name in self.config.tasks if name not in self.weighed])
                    self.record["comparisons"] = family(self.summaries())
            return self.finish()
        except KeyboardInterrupt:
            self.finish(Status.INTERRUPTED)
            raise

    def quantize(self) -> Artefact:
        """Make or reuse the variant; from here on the cell has a key and a folder."""
        config = self.config
        scheme = config.scheme
        self.refuse_unsupported(scheme.packing)
        if config.engine.base_url:
            target_of(config.engine)
        else:
            self.engine.check_machine(config.engine)
        artefact = quantize(
            config.model,
            scheme,
            cache=self.context.cache,
            progress=self.progress.within(stage="quantize"),
            toolchains=self.context.toolchains,
        )
        key = cell_key(
            artefact=artefact.key,
            engine=config.engine,
            engine_lock=engine_lock(config.engine, self.context, self.progress.within(stage="serve")),
            machine=fingerprint(),
            repeat=config.repeat,
            inherited=inherited(config.engine),
        )
        self.open(key)
        self.record["variant"] = artefact.manifest
        self.save()
        self.refuse_unsupported(str(artefact.manifest.get("packing") or ""))
        return artefact

    def refuse_unsupported(self, packing: str) -> None:
        """Raise Unsupported with the engine's reason; how weights are packed matters only where they are served."""
        config, scheme = self.config, self.config.scheme
        stages = self.context.stages
        asked = any(config.task(name).needs_endpoint for name in config.tasks)
        served = (stages.load and bool(config.scenarios)) or (stages.evaluate and asked)
        support = self.engine.serves(
            config.engine, scheme.format_of(config.model), scheme.load_method, packing if served else ""
        )
        if support.answer is SupportAnswer.NO:
            raise Unsupported(support.reason)

    def accept(self, judge: Judge) -> None:
        """A fresh process loads the candidate and checks it; raises CellFailure(corrupt) with the figures."""
        self.record["acceptance"] = judge.accept() if self.has_weights else {"verdict": "skipped", "reason": _ELSEWHERE}
        self.save()

    @contextlib.contextmanager
    def endpoint(self, variant: Artefact) -> Iterator[LazyEndpoint]:
        """The variant's server, not started until a scenario needs it."""
        assert self.store is not None
        config, log = self.config.engine, self.store.new_log("engine")
        progress = self.progress.within(stage="serve")
        model = served_model(variant)
        with LazyEndpoint(
            lambda: launched(
                self.engine,
                config,
                model,
                toolchain=self.context.toolchains.ensure(config.toolchain, progress) if config.uses_toolchain else None,
                log=log,
                progress=progress,
            ),
            attached=bool(config.base_url),
        ) as endpoint:
            try:
                yield endpoint
            finally:
                if endpoint.started is not None:
                    self.record["engine"] = engine_record(endpoint, config, self.context)
                    self.save()

    def load(self, endpoint: LazyEndpoint) -> None:
        """Every scenario that is not measured yet; a failed one does not stop the others."""
        assert self.store is not None
        if not self.context.stages.load:
            return
        for name in self.config.scenarios:
            scenario, workload = self.config.scenario(name)
            slot = scenario_slot(self.store, name, scenario, workload)
            with self.child(slot, "load"):
                if is_measured(slot):
                    self.progress.within(stage="load").say(f"{name}: already measured, reused")
                    self.note(slot, Status.COMPLETE, **read_observed(slot))
                    continue
                self.note(slot, Status.RUNNING)
                self.measured = True
                repeat = self.config.repeat
                observed = load_scenario(endpoint, slot, scenario, workload, repeat=repeat, progress=self.progress)
                self.note(slot, Status.COMPLETE, **observed)

    def served_tasks(self, variant: Artefact, judge: Judge) -> ServedTasks:
        """Who asks the variant's server what its tasks want to know."""
        assert self.store is not None
        assert self.key is not None
        return ServedTasks(
            self.config,
            variant,
            self.engine,
            self.context,
            self.progress,
            key=self.key,
            store=self.store,
            baseline=lambda: judge.baseline,
            served_model=served_model,
        )

    def ask(self, served: ServedTasks, endpoint: LazyEndpoint) -> None:
        """Ask the variant's server for every task on it that is not measured yet."""
        assert self.store is not None
        if not self.context.stages.evaluate:
            return
        for name in self.config.tasks:
            task = self.config.task(name)
            if not isinstance(task, ServedTaskConfig) or self.skipped(name, task):
                continue
            try:
                task.check()
                key = served.key(task)
            except QuantbenchError as error:
                nowhere = self.store.child(ChildKind.TASK, name, key_of(["not asked", identity(task)]))
                if isinstance(error, TaskSkipped):
                    self.progress.within(stage="evaluate").say(f"{name}: {error}")
                    self.note(nowhere, Status.UNSUPPORTED, failure=described("evaluate", error))
                else:
                    self.fail_child(nowhere, "evaluate", error)
                continue
            slot = self.store.child(ChildKind.TASK, name, key)
            if slot.is_complete():
                self.progress.within(stage="evaluate").say(f"{name}: already measured, reused")
                self.note(slot, Status.COMPLETE)
                continue
            with self.child(slot, "evaluate"):
                self.note(slot, Status.RUNNING)
                self.measured = True
                self.generated[name] = served.ask(name, task, slot, endpoint)

    def compare(self, served: ServedTasks) -> None:
        """Ask the baseline what the variant was asked, on a server of its own, and grade both."""
        compared = []
        with served.baseline_endpoint() as endpoint:
            for name, generated in self.generated.items():
                with self.child(generated.slot, "evaluate"):
                    served.compare(name, generated, endpoint)
                    compared.append(name)
        for name in compared:
            slot = self.generated[name].slot
            with self.child(slot, "evaluate"):
                served.evaluate(name, self.generated[name])
                self.note(slot, Status.COMPLETE)

    def weigh(self, judge: Judge) -> None:
        """Where bounds are given, the cheap tasks first: whether the others are worth their time."""
        bounds = self.config.stop_when
        if not bounds.given or not self.has_weights or not self.context.stages.evaluate:
            return
        self.weighed = [name for name in self.config.tasks if is_evidence(self.config.task(name))]
        self.evaluate(judge, self.weighed)
        self.hopeless = hopeless(self.summaries(), bounds)
        if self.hopeless is not None:
            self.progress.within(stage="evaluate").say(self.hopeless)

    def skipped(self, name: str, task: TaskConfig) -> bool:
        """Whether a task is left out because the variant is hopeless; that is its result."""
        if self.hopeless is None:
            return False
        assert self.store is not None
        nowhere = self.store.child(ChildKind.TASK, name, key_of(["hopeless", identity(task)]))
        why = CellFailure(FailureKind.HOPELESS, f"skipped, {self.hopeless}")
        self.note(nowhere, Status.UNSUPPORTED, failure=described("evaluate", why))
        return True

    def summaries(self) -> dict[str, dict[str, Any]]:
        """What the tasks found that are measured."""
        assert self.store is not None
        done = {
            name: self.store.directory / entry["path"] / "summary.json"
            for name, entry in self.record["tasks"].items()
            if entry["status"] == Status.COMPLETE and name in self.config.tasks
        }
        return {name: read_json(path) for name, path in done.items() if path.is_file()}

    def evaluate(self, judge: Judge, names: Sequence[str]) -> None:
        """Every scored task among `names` that is not measured yet."""
        assert self.store is not None
        if not self.context.stages.evaluate:
            return
        for name in names:
            task = self.config.task(name)
            if task.needs_endpoint or self.skipped(name, task):
                continue
            if not self.has_weights:
                nowhere = self.store.child(ChildKind.TASK, name, key_of(["no weights", identity(task)]))
                self.note(nowhere, Status.UNSUPPORTED, failure=described("evaluate", UsageError(_ELSEWHERE)))
                continue
            try:
                key = judge.key(task)
            except QuantbenchError as error:  # its data is not to be had: the other tasks go on
                nowhere = self.store.child(ChildKind.TASK, name, key_of(["data unknown", identity(task)]))
                self.fail_child(nowhere, "evaluate", error)
                continue
            slot = self.store.child(ChildKind.TASK, name, key)
            with self.child(slot, "evaluate"):
                if slot.is_complete():
                    self.progress.within(stage="evaluate").say(f"{name}: already measured, reused")
                    self.note(slot, Status.COMPLETE)
                    continue
                self.note(slot, Status.RUNNING)
                self.measured = True
                judge.evaluate(name, task, slot)
                self.note(slot, Status.COMPLETE)

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Turn what goes wrong inside into the cell's recorded failure."""
        try:
            yield
        except Unsupported as answer:
            self.open(key_of(["unsupported", identity(self.config)]))
            self.record["status"] = Status.UNSUPPORTED
            self.record["unsupported_reason"] = str(answer)
        except Exception as error:  # a cell's failure is a result, whatever it is; the next cell goes on
            if self.store is None:
                self.open(key_of(["not made", identity(self.config)]))
            self.fail(name, typed(error))

    @contextlib.contextmanager
    def child(self, slot: ChildSlot, stage: str) -> Iterator[None]:
        """Turn what goes wrong inside into the failure of one scenario or task."""
        try:
            yield
        except KeyboardInterrupt:
            self.note(slot, Status.PARTIAL)
            raise
        except Exception as error:
            self.fail_child(slot, stage, error)

    def fail_child(self, slot: ChildSlot, stage: str, error: Exception) -> None:
        """Record the failure of one scenario or task."""
        failure = typed(error)
        met_in = getattr(failure, "stage", None) or stage
        self.note(slot, Status.FAILED, failure=described(met_in, failure))
        self.fail(met_in, failure)

    def note(self, slot: ChildSlot, status: Status, **fields: Any) -> None:
        """Record how a scenario or task stands."""
        entry = {"key": slot.key, "path": slot.relative, "status": status.value, "failure": None, **fields}
        self.record[slot.kind.value][slot.name] = entry
        self.save()

    def fail(self, stage: str, failure: CellFailure | UsageError | ToolchainError) -> None:
        """Record the first failure; later ones stay with their scenario or task."""
        self.progress.within(stage=stage).say(f"failed: {failure}")
        if self.failure is None:
            self.failure = failure
            self.record["failure"] = described(stage, failure)
        self.record["status"] = Status.FAILED
        self.save()

    def open(self, key: str) -> None:
        """Open the cell's folder and take up what an earlier run recorded there."""
        self.store = self.context.run.cell(key)
        earlier = self.store.read() or {}
        self.record = {
            "key": key,
            "label": self.spec.label,
            "status": Status.RUNNING,
            "failure": None,
            "unsupported_reason": None,
            "overrides": list(self.spec.overrides),
            "config": plain(self.config),
            "variant": None,
            "acceptance": None,
            "engine": earlier.get("engine"),
            "machine": fingerprint(),
            "provenance": {**provenance(), "started": utc_now(), "finished": None},
            "scenarios": resumed(earlier.get("scenarios"), wanted=self.config.scenarios),
            "tasks": resumed(earlier.get("tasks"), wanted=self.config.tasks),
            "validity": [],
        }
        self.earlier_provenance = earlier.get("provenance")
        self.save()
        self.opened(key)

    def finish(self, status: Status | None = None) -> Status:
        """Record how the cell ended."""
        if status is None:
            status = Status(self.record["status"])
            status = Status.COMPLETE if status is Status.RUNNING else status
        if self.store is not None:
            self.record["status"] = status
            self.record["provenance"] = self.final_provenance()
            self.save()
        return status

    def final_provenance(self) -> dict[str, Any]:
        """Where the figures come from: this session, or the earlier one when this one measured nothing."""
        mine = {**self.record["provenance"], "finished": utc_now()}
        before = self.earlier_provenance
        if before is None:
            return mine
        if not self.measured:
            return before
        return {**mine, "earlier": [*before.pop("earlier", []), before]}

    def save(self) -> None:
        """Write the manifest."""
        assert self.store is not None
        self.store.write(self.record)


_ELSEWHERE = "the weights are with the server that serves them: they cannot be scored; name their scheme to score them"


class Unsupported(Exception):
    """The engine cannot serve this; the text says why."""


def resumed(children: Mapping[str, Any] | None, *, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Children as an earlier session left them: what it was measuring is partial now, and what was neither finished
    nor is asked for any more is left out."""
    entries = {name: dict(entry) for name, entry in (children or {}).items()}
    for entry in entries.values():
        if entry.get("status") == Status.RUNNING:
            entry["status"] = Status.PARTIAL.value
    return {name: entry for name, entry in entries.items() if name in wanted or entry["status"] == Status.COMPLETE}


def served_model(variant: Artefact) -> ServedModel:
    """The variant as engines take it, under the base model's name and the scheme's."""
    return ServedModel(
        format=variant.format,
        path=variant.model_path,
        name=f"{variant.manifest['model']['name']}-{variant.manifest['label']}",
        load_method=variant.load_method,
    )


def typed(error: Exception) -> CellFailure | UsageError | ToolchainError:
    """Any error as one of ours; an unforeseen one is a client fault with its traceback as the log's tail."""
    if isinstance(error, CellFailure | UsageError | ToolchainError):
        return error
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return CellFailure(FailureKind.DISK_FULL, f"no space left on the disk of {error.filename or 'the results'}")
    text = "".join(traceback.format_exception(error))
    return CellFailure(FailureKind.CLIENT_FAULT, f"{type(error).__name__}: {error}", log_tail=text[-8000:])


def described(stage: str, failure: CellFailure | UsageError | ToolchainError) -> dict[str, str]:
    """A failure as it is recorded."""
    if isinstance(failure, CellFailure):
        kind = failure.kind
    else:
        kind = FailureKind.TOOLCHAIN if isinstance(failure, ToolchainError) else FailureKind.USAGE
    log_tail = getattr(failure, "log_tail", "")
    return {"stage": stage, "kind": kind.value, "message": str(failure), "log_tail": log_tail}
