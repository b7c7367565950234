"""Run one task and leave its items and summary on disk."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.base.files import write_atomic, write_json
from bench.base.progress import Progress
from bench.base.validity import Reason
from bench.engines.scoring import ScorableModel, Scorer
from bench.quality.config import TaskConfig
from bench.quality.job import Outcome, TaskJob
from bench.quality.overlap import checked
from quantize.sketch import CalibrationText

SCHEMA_VERSION = 1


def evaluate(
    task: TaskConfig,
    *,
    variant: ScorableModel,
    baseline: ScorableModel | None,
    scorer: Scorer,
    out: Path,
    progress: Progress,
    reasons: Sequence[Reason] = (),
    cache: Path | None = None,
    calibration: CalibrationText | None = None,
) -> dict[str, Any]:
    """Measure `task` and write `items.parquet` and then `summary.json` into `out`; returns the summary.

    `reasons` say how the scoring relates to the serving and are put on every figure. Below `cache` is remembered what
    the baseline answered. Figures of a text that is also in `calibration`, what the variant was calibrated on, are
    flagged. Raises UsageError for data that cannot be used, WorkerError when the scoring process fails; then nothing is
    written.
    """
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".work-") as name:
        job = TaskJob(
            variant=variant,
            baseline=baseline if task.needs_baseline else None,
            scorer=scorer,
            work_dir=Path(name),
            progress=progress,
            reasons=reasons,
            cache=cache,
        )
        outcome = task.run(job)
    return record(task, outcome, key=variant.key, label=variant.label, out=out, calibration=calibration)


def record(
    task: TaskConfig,
    outcome: Outcome,
    *,
    key: str,
    label: str,
    out: Path,
    calibration: CalibrationText | None = None,
) -> dict[str, Any]:
    """Write `items.parquet` and then `summary.json` of a measured task into `out`; returns the summary.

    `key` and `label` are the variant's; figures of a text that is also in `calibration` are flagged.
    """
    outcome = checked(outcome, calibration)
    summary = {
        "schema_version": SCHEMA_VERSION,
        "kind": task.kind,
        "variant": {"key": key, "label": label},
        "metrics": outcome.metrics,
        "errors": outcome.errors,
        "validity": sorted({reason for metric in outcome.metrics.values() for reason in metric["validity"]}),
        "items": len(next(iter(outcome.items.values()), ())),
        **outcome.details,
    }
    _write_items(out / "items.parquet", outcome.items)
    write_json(out / "summary.json", summary)
    return summary


def _write_items(path: Path, columns: dict[str, NDArray[Any]]) -> None:
    """One row an item, numbered in `item`; NaN becomes null."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    count = len(next(iter(columns.values()), ()))
    arrays: dict[str, NDArray[Any]] = {"item": np.arange(count, dtype=np.int64), **columns}
    table = pa.table({name: pa.array(values, from_pandas=True) for name, values in arrays.items()})
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer, compression="zstd")
    write_atomic(path, buffer.getvalue().to_pybytes())
