"""What the tasks with questions share: answers that were given before, and figures paired with the baseline's."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from bench.base.files import read_json, write_json
from bench.base.hashing import key_of
from bench.base.validity import Reason
from bench.engines.scoring import ContinuationScores, LikelihoodScores, ScorableModel
from bench.quality.intervals import mcnemar, paired_change_interval, share_interval
from bench.quality.job import TaskJob, value_metric
from bench.quality.remembered import scored_with, unfinished

#: Raised when prompts or scoring change; what was remembered is then scored again.
_VERSION = 2
#: Kinds of errors of scorers → what the user can do.
ADVICE = {
    "not_one_token": "ask with task.method=likelihood, which scores letters of several tokens too",
    "no_token": "give choices that are not empty",
    "prompt_too_long": "ask with fewer task.shots or leave the subject out (task.subjects)",
}
Scores = TypeVar("Scores", ContinuationScores, LikelihoodScores)


def remembered(
    job: TaskJob,
    model: ScorableModel,
    content: Mapping[str, Any],
    made: type[Scores],
    ask: Callable[[Path | None], Scores],
) -> Scores:
    """What `model` answered to the same content before, or what `ask` gets, which is kept: 17 digits a number.

    `ask` is given where a scorer keeps what it found so far, so that an interrupted task goes on there.
    """
    if job.cache is None:
        return ask(None)
    place = job.cache / "answers" / f"{key_of({'version': _VERSION, **scored_with(job), **content})}.json"
    known = _read(place, made)
    if known is not None:
        job.progress.say(f"{model.label} has answered these questions before, reused")
        return known
    with unfinished(job, content) as kept:
        scores = ask(kept)
    if not scores.non_finite:
        place.parent.mkdir(parents=True, exist_ok=True)
        values = dataclasses.asdict(scores)
        arrays = {name: value.tolist() for name, value in values.items() if isinstance(value, np.ndarray)}
        write_json(place, {**values, **arrays, "model": model.label})
    return scores


def _read(place: Path, made: type[Scores]) -> Scores | None:
    try:
        kept = read_json(place)
        values = {field.name: kept[field.name] for field in dataclasses.fields(made)}
        values["logprobs"] = np.array(values["logprobs"], dtype=np.float64)
        if made is LikelihoodScores:
            values["greedy"] = np.array(values["greedy"], dtype=bool)
            values["tokens"] = np.array(values["tokens"], dtype=np.int64)
        else:
            values["token_ids"] = tuple(values["token_ids"])
        return made(**{**values, "usage": {"reused": True}})
    except (OSError, json.JSONDecodeError, KeyError, TypeError, ValueError):
        return None


def paired_metrics(
    tag: str,
    own: NDArray[np.bool_],
    base: NDArray[np.bool_] | None,
    found: Sequence[str],
    *,
    whole: bool,
    same: bool,
    change: str = "accuracy_change",
) -> dict[str, dict[str, Any]]:
    """Right answers to the same questions under variant and baseline: flips both ways, change, McNemar's p.

    Null, with the reason, without a baseline or where an answer is missing (not `whole`). `same`: the variant is the
    baseline, whose change is 0 by definition, not by measurement.
    """
    units = {
        f"base_{tag}": "ratio",
        change: "ratio",
        "wrong_to_right": "questions",
        "right_to_wrong": "questions",
        "mcnemar_p": "1",
    }
    if base is None:
        missing = [*found, Reason.NO_BASELINE.value]
        return {name: value_metric(unit, None, None, missing) for name, unit in units.items()}
    if not whole:
        return {name: value_metric(unit, None, None, found) for name, unit in units.items()}
    total, gained, lost = len(own), int((own & ~base).sum()), int((~own & base).sum())
    hits = int(base.sum())
    moved = None if same else paired_change_interval(gained, lost, total)
    figures: dict[str, tuple[float, tuple[float, float] | None]] = {
        f"base_{tag}": (hits / total, share_interval(hits, total)),
        change: ((gained - lost) / total, moved),
        "wrong_to_right": (gained, None),
        "right_to_wrong": (lost, None),
        "mcnemar_p": (mcnemar(gained, lost), None),
    }
    return {name: value_metric(unit, *figures[name], found, n=total) for name, unit in units.items()}
