"""Grade what a variant and its baseline answered, and leave items and summary on disk."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.base.progress import Progress
from bench.base.validity import Reason
from bench.quality.evaluate import record
from bench.quality.generation.config import ServedTaskConfig
from bench.quality.generation.job import GradingJob
from bench.quality.generation.session import Session
from quantize.sketch import CalibrationText


def evaluate_served(
    task: ServedTaskConfig,
    *,
    own: tuple[Session, Any],
    base: tuple[Session, Any] | None,
    scored_by: Mapping[str, Any],
    out: Path,
    progress: Progress,
    reasons: Sequence[Reason] = (),
    calibration: CalibrationText | None = None,
) -> dict[str, Any]:
    """Figures of `own` and `base`, each a session with what `task.generate` gave for it; returns the summary.

    `items.parquet` and then `summary.json` are written into `out`. Raises UsageError, or WorkerError where grading
    takes a process of its own that failed; then nothing is written.
    """
    out.mkdir(parents=True, exist_ok=True)
    session, answers = own
    with tempfile.TemporaryDirectory(dir=out, prefix=".work-") as name:
        job = GradingJob(
            own=session,
            base=None if base is None else base[0],
            work_dir=Path(name),
            progress=progress,
            reasons=reasons,
        )
        outcome = task.grade(answers, None if base is None else base[1], job)
    details = {
        "scored_by": dict(scored_by),
        **outcome.details,
        "baseline": None if base is None else {"key": base[0].key, "label": base[0].label},
    }
    outcome = dataclasses.replace(outcome, details=details)
    return record(task, outcome, key=session.key, label=session.label, out=out, calibration=calibration)
