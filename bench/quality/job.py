"""What a task gets and gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.base.progress import Progress
from bench.base.validity import Reason
from bench.engines.scoring import ScorableModel, Scorer


@dataclass(frozen=True, kw_only=True)
class TaskJob:
    """One measurement. Worker files go below `work_dir`; `reasons` qualify every figure (how it was scored).

    What the baseline answered, and how likely a text was under a model, is remembered below `cache`, where there is
    one: it is the same in every cell.
    """

    variant: ScorableModel
    baseline: ScorableModel | None
    scorer: Scorer
    work_dir: Path
    progress: Progress
    reasons: Sequence[Reason] = ()
    cache: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Figures of a task: `items` are columns of equal length, one entry a scored item; NaN means missing.

    `texts` are what the model read, for telling whether it was calibrated on them; a task may give none.
    """

    metrics: dict[str, dict[str, Any]]
    items: dict[str, NDArray[Any]]
    details: dict[str, Any]
    errors: dict[str, int]
    texts: Sequence[str] = ()


def value_metric(
    unit: str,
    value: float | None,
    interval: tuple[float, float] | None,
    validity: Sequence[str],
    **extra: float | None,
) -> dict[str, Any]:
    """A metric in the shared form: missing and non-finite figures are null."""
    lo, hi = (None, None) if interval is None else interval
    return {
        "unit": unit,
        "value": finite(value),
        "lo": finite(lo),
        "hi": finite(hi),
        "validity": list(validity),
        **{name: finite(figure) for name, figure in extra.items()},
    }


def finite(value: float | None) -> float | None:
    """A plain float, or None for missing, NaN and infinities."""
    return float(value) if value is not None and np.isfinite(value) else None
