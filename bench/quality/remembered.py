"""Scores that were computed before: the same token ids under the same artefact and build give the same figures."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from bench.base.files import read_json, write_json
from bench.base.hashing import key_of
from bench.engines.scoring import TokenScores, TokenWindows
from bench.quality.job import TaskJob

#: Raised when scoring changes; what was remembered is then scored again.
_VERSION = 1


def remembered_nll(windows: TokenWindows, job: TaskJob) -> TokenScores | None:
    """The variant's own scores from an earlier task over the same windows, or None."""
    place = _place(windows, job)
    if place is None:
        return None
    try:
        kept = read_json(place)
        nll = np.array(kept["nll"], dtype=np.float64)
    except (OSError, json.JSONDecodeError, KeyError, TypeError, ValueError):
        return None
    if nll.shape != windows.targets.shape or not np.isfinite(nll).all():
        return None
    return TokenScores(nll=nll, baseline=None, non_finite=0, usage={"reused": True})


def remember_nll(windows: TokenWindows, job: TaskJob, scores: TokenScores) -> None:
    """Keep what a scoring of the variant gave, where it is whole."""
    place = _place(windows, job)
    if place is not None and not scores.non_finite:
        write_json(place, {"model": job.variant.label, "nll": scores.nll.tolist()})


def _place(windows: TokenWindows, job: TaskJob) -> Path | None:
    if job.cache is None:
        return None
    asked: dict[str, Any] = {
        "version": _VERSION,
        "model": job.variant.key,
        "scored_by": job.scorer.scored_by.as_dict(),
        "arithmetic": job.scorer.arithmetic,
        "ids": hashlib.sha256(np.ascontiguousarray(windows.ids, dtype="<i4").tobytes()).hexdigest(),
        "shape": list(windows.ids.shape),
        "first": windows.first,
    }
    return job.cache / "nll" / f"{key_of(asked)}.json"
