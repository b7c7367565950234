"""Accepting a candidate and measuring its quality, with the scorer the engine has."""

from __future__ import annotations

import tempfile
from functools import cached_property
from pathlib import Path
from typing import Any

from bench.base.clock import utc_now
from bench.base.errors import CellFailure, FailureKind
from bench.base.files import write_json
from bench.base.progress import Progress
from bench.engines.base import Engine
from bench.engines.scoring import ScorableModel, Scorer
from bench.pipeline.context import Workshop
from bench.pipeline.keys import task_key
from bench.plan.config import RunConfig
from bench.quality.accept import ACCEPTED, accept, check_key
from bench.quality.config import TaskConfig
from bench.quality.evaluate import evaluate
from bench.store.artefacts import ArtefactStore
from bench.store.run import ChildSlot, Status
from bench.toolchains.worker import WorkerError
from quantize.artefact import Artefact
from quantize.run import quantize
from quantize.sketch import calibration_text


class Judge:
    """Quality of one variant: the scorer of its engine, and the baseline it is held against."""

    def __init__(
        self, config: RunConfig, variant: Artefact, engine: Engine, context: Workshop, progress: Progress
    ) -> None:
        self._config = config
        self._variant = variant
        self._engine = engine
        self._context = context
        self._progress = progress

    @cached_property
    def _baseline(self) -> Artefact:
        """The baseline's artefact, made when it is not there; it may be the variant itself."""
        return quantize(
            self._config.base or self._config.model,
            self._config.baseline,
            cache=self._context.cache,
            progress=self._progress.within(stage="quantize"),
            toolchains=self._context.toolchains,
        )

    @property
    def baseline(self) -> Artefact:
        """What the variant is held against."""
        return self._baseline

    @property
    def _scoring_toolchain(self) -> str:
        """The engine's, unless what the scheme writes can be loaded in another one only."""
        packing = str(self._variant.manifest.get("packing") or self._config.scheme.packing)
        of_packing = self._engine.packing_toolchains.get(packing)
        own = self._engine.scoring_toolchain(self._config.engine)
        return of_packing or own

    @cached_property
    def _scorer(self) -> Scorer:
        toolchain = self._context.toolchains.ensure(self._scoring_toolchain, self._progress.within(stage="evaluate"))
        return self._engine.scorer(self._config.engine, toolchain)

    def accept(self) -> dict[str, Any]:
        """The verdict on the candidate, remembered beside the artefact; raises CellFailure(corrupt) with figures."""
        store = ArtefactStore(self._context.cache / "artefacts")
        baseline = None if self._baseline.key == self._variant.key else scorable(self._baseline)
        bound = self._config.scheme.max_divergence
        check = check_key(baseline=baseline, scorer=self._scorer, max_divergence=bound)
        result = store.acceptance(self._variant.key, check)
        if result is None:
            with tempfile.TemporaryDirectory(prefix="quantbench-accept-") as folder:
                result = self._typed(
                    lambda: accept(
                        variant=scorable(self._variant),
                        baseline=baseline,
                        scorer=self._scorer,
                        max_divergence=bound,
                        work_dir=Path(folder),
                        progress=self._progress.within(stage="accept"),
                    )
                )
            store.record_acceptance(self._variant.key, check, result)
        if result["verdict"] != ACCEPTED:
            raise CellFailure(FailureKind.CORRUPT, f"{self._variant.label} is not accepted: {result['reason']}")
        return result

    def key(self, task: TaskConfig) -> str:
        """The key under which the task's result is recorded."""
        return task_key(
            task,
            text_digest=task.data_digest(),
            baseline=self._baseline.key if task.needs_baseline else None,
            scorer_lock=self._context.toolchains.lock(self._scoring_toolchain),
        )

    def evaluate(self, name: str, task: TaskConfig, slot: ChildSlot) -> None:
        """Measure a task into its slot, the manifest last."""
        folder = slot.prepare()
        started = utc_now()
        self._typed(
            lambda: evaluate(
                task,
                variant=scorable(self._variant),
                baseline=scorable(self._baseline) if task.needs_baseline else None,
                scorer=self._scorer,
                out=folder,
                progress=self._progress.within(stage=f"evaluate {name}"),
                reasons=self._engine.scoring_reasons(self._config.engine, self._scoring_toolchain),
                cache=self._context.cache,
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

    @staticmethod
    def _typed(measure: Any) -> Any:
        try:
            return measure()
        except WorkerError as error:
            kind = FailureKind.OUT_OF_MEMORY if error.kind == "out_of_memory" else FailureKind.EVALUATOR
            raise CellFailure(kind, f"scoring failed: {error}", log_tail=error.log_tail) from error


def scorable(artefact: Artefact) -> ScorableModel:
    """An artefact as the scorer takes it."""
    return ScorableModel(
        format=artefact.format,
        path=artefact.model_path,
        key=artefact.key,
        label=artefact.label,
        load_method=artefact.load_method,
    )
