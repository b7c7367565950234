"""Tasks that ask a running server: all of the variant while it runs, all of the baseline on a server of its own, then
the figures, when no server runs any more."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from bench.base.clock import utc_now
from bench.base.errors import CellFailure, FailureKind, UsageError
from bench.base.files import write_json
from bench.base.progress import Progress
from bench.engines.base import Engine, ServedModel, SupportAnswer
from bench.engines.launch import inherited, launched
from bench.engines.running import Endpoint
from bench.engines.scoring import ScoredOn
from bench.pipeline.build import engine_build, engine_lock
from bench.pipeline.context import Workshop
from bench.pipeline.endpoint import LazyEndpoint
from bench.pipeline.keys import cell_key, task_key
from bench.plan.config import RunConfig
from bench.quality.generation.cache import AnswerStore
from bench.quality.generation.config import ServedTaskConfig
from bench.quality.generation.evaluate import evaluate_served
from bench.quality.generation.session import Session
from bench.store.run import CellStore, ChildSlot, Status
from bench.telemetry.machine import fingerprint
from bench.toolchains.worker import WorkerError
from quantize.artefact import Artefact
from quantize.sketch import calibration_text


@dataclass(kw_only=True)
class Generated:
    """What the models answered to one task so far."""

    task: ServedTaskConfig
    slot: ChildSlot
    own: tuple[Session, Any]
    base: tuple[Session, Any] | None = None


class ServedTasks:
    """The tasks on a served model of one cell. `key` and `store` are the cell's."""

    def __init__(
        self,
        config: RunConfig,
        variant: Artefact,
        engine: Engine,
        context: Workshop,
        progress: Progress,
        *,
        key: str,
        store: CellStore,
        baseline: Callable[[], Artefact],
        served_model: Callable[[Artefact], ServedModel],
    ) -> None:
        self._config = config
        self._variant = variant
        self._engine = engine
        self._context = context
        self._progress = progress
        self._key = key
        self._store = store
        self._baseline_made = baseline
        self._served_model = served_model

    @cached_property
    def _baseline(self) -> Artefact | None:
        """What the variant is compared with; None where it cannot be served the same way."""
        if self._config.engine.base_url:
            return None
        baseline = self._baseline_made()
        packing = str(baseline.manifest.get("packing") or "")
        support = self._engine.serves(self._config.engine, baseline.format, baseline.load_method, packing)
        return None if support.answer is SupportAnswer.NO else baseline

    def key(self, task: ServedTaskConfig) -> str:
        """The key under which the task's result is recorded; the engine's build is in the cell's."""
        baseline = self._baseline if task.needs_baseline else None
        lock = "" if task.toolchain is None else self._context.toolchains.lock(task.toolchain)
        return task_key(
            task,
            text_digest=task.data_digest(),
            baseline=None if baseline is None else baseline.key,
            scorer_lock=f"served {lock}".strip(),
        )

    def ask(self, name: str, task: ServedTaskConfig, slot: ChildSlot, endpoint: LazyEndpoint) -> Generated:
        """Ask the variant, on its own server, which is started if it has to be."""
        session = self._session(name, self._variant, self._key, endpoint.get)
        return Generated(task=task, slot=slot, own=(session, self._typed(lambda: task.generate(session))))

    def compare(self, name: str, generated: Generated, endpoint: LazyEndpoint) -> None:
        """Ask the baseline the same; its answers are the variant's own where it is the variant."""
        baseline, task = self._baseline, generated.task
        if baseline is None or not task.needs_baseline:
            return
        if baseline.key == self._variant.key:
            generated.base = generated.own
            return
        session = self._session(name, baseline, self._baseline_key, endpoint.get)
        generated.base = (session, self._typed(lambda: task.generate(session)))

    @contextlib.contextmanager
    def baseline_endpoint(self) -> Iterator[LazyEndpoint]:
        """The baseline's server, not started until a task needs it."""
        with LazyEndpoint(self._launch_baseline) as endpoint:
            yield endpoint

    def evaluate(self, name: str, generated: Generated) -> None:
        """Grade into the task's slot, the manifest last."""
        slot = generated.slot
        folder = slot.prepare()
        started = utc_now()
        self._typed(
            lambda: evaluate_served(
                generated.task,
                own=generated.own,
                base=generated.base,
                scored_by={
                    "engine": self._engine.kind,
                    "build": engine_build(self._config.engine, self._context, self._progress)["build"],
                    "path": ScoredOn.WHAT_SERVES.value,
                },
                out=folder,
                progress=self._progress.within(stage=f"evaluate {name}"),
                calibration=calibration_text(self._variant),
            )
        )
        manifest = {
            "schema_version": 1,
            "status": Status.COMPLETE.value,
            "name": name,
            "key": slot.key,
            "started": started,
            "finished": utc_now(),
        }
        write_json(folder / "manifest.json", manifest)
        shutil.rmtree(self._work / name, ignore_errors=True)
        with contextlib.suppress(OSError):  # what another task left there when it failed
            self._work.rmdir()

    @property
    def _work(self) -> Path:
        """Where evaluators run; what one leaves when it fails stays there to be looked at."""
        return self._store.directory / "work"

    @cached_property
    def _baseline_key(self) -> str:
        """The key of the cell in which the baseline is the variant: what it answered there is not asked again."""
        assert self._baseline is not None
        engine = self._config.engine
        return cell_key(
            artefact=self._baseline.key,
            engine=engine,
            engine_lock=engine_lock(engine, self._context, self._progress),
            machine=fingerprint(),
            repeat=0,
            inherited=inherited(engine),
        )

    def _launch_baseline(self) -> contextlib.AbstractContextManager[Endpoint]:
        assert self._baseline is not None
        config = self._config.engine
        progress = self._progress.within(stage="evaluate")
        progress.say(f"starting {self._baseline.label}, the baseline")
        return launched(
            self._engine,
            config,
            self._served_model(self._baseline),
            toolchain=self._context.toolchains.ensure(config.toolchain, progress) if config.uses_toolchain else None,
            log=self._store.new_log("engine-baseline"),
            progress=progress,
        )

    def _session(self, name: str, artefact: Artefact, key: str, server: Callable[[], Endpoint]) -> Session:
        engine, progress = self._config.engine, self._progress.within(stage=f"evaluate {name}")
        attached = bool(engine.base_url)
        folder = self._store.directory / "generations" if attached else self._context.cache / "generations"
        work_dir = self._work / name / artefact.key
        return Session(
            key=artefact.key,
            label=artefact.label,
            server=server,
            store=AnswerStore(folder / f"{key}.jsonl"),
            progress=progress,
            work_dir=work_dir,
            concurrency=None if attached else engine.max_sequences,
            context=engine.max_model_len,
            model_path=artefact.model_path if self._config.scheme.holds_weights else None,
            model_format=artefact.format,
            toolchain=lambda wanted: self._context.toolchains.ensure(wanted, progress),
        )

    @staticmethod
    def _typed(measure: Callable[[], Any]) -> Any:
        try:
            return measure()
        except WorkerError as error:
            kind = FailureKind.OUT_OF_MEMORY if error.kind == "out_of_memory" else FailureKind.EVALUATOR
            if error.kind == "usage":
                raise UsageError(str(error)) from error
            raise CellFailure(kind, f"the evaluation failed: {error}", log_tail=error.log_tail) from error
