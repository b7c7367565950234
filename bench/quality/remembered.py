"""Scores that were computed before: the same token ids under the same artefact and build give the same figures."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bench.base.files import read_json, write_json
from bench.base.hashing import key_of
from bench.engines.scoring import ScorableModel, TokenScores, TokenWindows
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


@contextlib.contextmanager
def unfinished(job: TaskJob, asked: Mapping[str, Any]) -> Iterator[Path | None]:
    """Where a scorer keeps what it has found of `asked`, so that an interrupted evaluation goes on within a task.

    The folder's name is the content of what is asked. It is left when the scoring is interrupted or fails, and removed
    when it is done.
    """
    if job.cache is None:
        yield None
        return
    folder = job.cache / "unfinished" / key_of({"version": _VERSION, **scored_with(job), **asked})
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def scored_with(job: TaskJob) -> dict[str, Any]:
    """What decides the figures besides the models and what they are asked."""
    return {"scored_by": job.scorer.scored_by.as_dict(), "arithmetic": job.scorer.arithmetic}


def window_content(windows: TokenWindows, job: TaskJob, baseline: ScorableModel | None) -> dict[str, Any]:
    """What is asked of the models over `windows`."""
    return {
        "model": job.variant.key,
        **({} if baseline is None else {"baseline": baseline.key}),
        "ids": hashlib.sha256(np.ascontiguousarray(windows.ids, dtype="<i4").tobytes()).hexdigest(),
        "shape": list(windows.ids.shape),
        "first": windows.first,
    }


def _place(windows: TokenWindows, job: TaskJob) -> Path | None:
    if job.cache is None:
        return None
    asked = {"version": _VERSION, **scored_with(job), **window_content(windows, job, None)}
    return job.cache / "nll" / f"{key_of(asked)}.json"
