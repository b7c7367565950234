"""Multiple choice: which of four letters a model finds likeliest after each question, and how often that is right.

One prompt a question; its answer is the letter with the highest log-probability at the first generated position (the
first letter among equals), as lm-eval picks it. Against the baseline, answers are compared question by question.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.base.errors import UsageError
from bench.base.files import read_json, write_json
from bench.base.hashing import key_of
from bench.base.validity import Reason
from bench.engines.scoring import ContinuationScores, PromptGroup, ScorableModel
from bench.quality.config import DEFAULT_QUESTIONS, MultipleChoiceConfig
from bench.quality.intervals import macro_interval, mcnemar, paired_change_interval, share_interval, wilson
from bench.quality.job import Outcome, TaskJob, value_metric
from bench.quality.mmlu import CONTINUATIONS, LETTERS, Subject, data_digest, load_subjects, prompt_group
from bench.toolchains.worker import WorkerError

#: Raised when prompts or scoring change; what was remembered of a baseline is then scored again.
_VERSION = 1
_ADVICE = {
    "not_one_token": "multiple choice needs letters that are one token each: this model cannot be asked this way",
    "prompt_too_long": "ask with fewer task.shots or leave the subject out (task.subjects)",
}
_PAIRED = {
    "base_accuracy_micro": "ratio",
    "accuracy_change": "ratio",
    "wrong_to_right": "questions",
    "right_to_wrong": "questions",
    "mcnemar_p": "1",
}


@dataclass(frozen=True, kw_only=True)
class Answers:
    """Picked letters as indices (-1 where logits were not finite) and whether they are right, shape (questions,)."""

    logprobs: NDArray[np.float64]
    picked: NDArray[np.int64]
    correct: NDArray[np.bool_]

    @property
    def complete(self) -> bool:
        """Whether every question was answered."""
        return bool((self.picked >= 0).all())


def measure(config: MultipleChoiceConfig, job: TaskJob) -> Outcome:
    """Ask every question of the variant, and of the baseline when there is one."""
    subjects = load_subjects(config)
    groups = [prompt_group(subject) for subject in subjects]
    right = np.array([LETTERS.index(q.answer) for subject in subjects for q in subject.questions])
    scores = _ask(job.variant, groups, job)
    own = graded(scores.logprobs, right)
    base = None
    if job.baseline is not None:
        base = graded(_baseline_logprobs(job, job.baseline, groups, scores), right)
    names = np.repeat([subject.name for subject in subjects], [len(subject.questions) for subject in subjects])
    found = _validity(job, own)
    metrics = accuracy_metrics(own.correct, names, found)
    if config.compare:
        metrics |= _paired_metrics(own, base, job)
    return Outcome(
        metrics=metrics,
        items=_items(subjects, names, own, base),
        details={
            "scored_by": job.scorer.scored_by.as_dict(),
            "notes": notes(config, len(right)),
            "protocol": _protocol(config, subjects, scores),
            "subjects": subject_rows(names, own, base),
            "picked": {letter: int((own.picked == index).sum()) for index, letter in enumerate(LETTERS)},
            "baseline": None if job.baseline is None else {"key": job.baseline.key, "label": job.baseline.label},
            "non_finite": scores.non_finite,
            "usage": scores.usage,
        },
        errors={"non_finite": scores.non_finite} if scores.non_finite else {},
        texts=[question for group in groups for question in group.endings],
    )


def graded(logprobs: NDArray[np.float64], right: NDArray[np.int64]) -> Answers:
    """The likeliest letter of each row of `logprobs`, shape (questions, letters), and whether it is the right one."""
    answered = np.asarray(np.isfinite(logprobs).all(axis=1))
    picked = np.where(answered, np.where(answered[:, np.newaxis], logprobs, 0.0).argmax(axis=1), -1)
    return Answers(logprobs=logprobs, picked=picked, correct=picked == right)


def accuracy_metrics(
    correct: NDArray[np.bool_], names: NDArray[np.str_], found: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """accuracy_micro: share of all questions; accuracy_macro: mean of the subjects' shares. Null when not finite."""
    shares, totals = [], []
    for name in dict.fromkeys(names.tolist()):
        own = correct[np.asarray(names == name)]
        shares.append(float(own.mean()))
        totals.append(len(own))
    hits, total = int(correct.sum()), len(correct)
    broken = Reason.NON_FINITE.value in found
    macro = None if broken else float(np.mean(shares))
    return {
        "accuracy_micro": value_metric(
            "ratio", None if broken else hits / total, None if broken else share_interval(hits, total), found, n=total
        ),
        "accuracy_macro": value_metric(
            "ratio", macro, None if broken else macro_interval(shares, totals), found, n=total
        ),
    }


def paired_figures(
    own: NDArray[np.bool_], base: NDArray[np.bool_]
) -> dict[str, tuple[float, tuple[float, float] | None]]:
    """Figures of the same questions answered by variant and baseline: {tag: (value, interval)}."""
    total = len(own)
    gained, lost = int((own & ~base).sum()), int((~own & base).sum())
    base_hits = int(base.sum())
    return {
        "base_accuracy_micro": (base_hits / total, share_interval(base_hits, total)),
        "accuracy_change": ((gained - lost) / total, paired_change_interval(gained, lost, total)),
        "wrong_to_right": (gained, None),
        "right_to_wrong": (lost, None),
        "mcnemar_p": (mcnemar(gained, lost), None),
    }


def notes(config: MultipleChoiceConfig, questions: int) -> list[str]:
    """What a reader must know before believing the figures."""
    if config.data != DEFAULT_QUESTIONS:
        return []
    low, high = wilson(0.5, questions)
    half = 100 * (high - low) / 2
    told = f"plumbing only: {questions} shipped questions tell an accuracy to about ±{half:.0f} points"
    return [f"{told}; guessing gets 0.25. Ask MMLU's own files (task.data=FOLDER) before believing a difference."]


def subject_rows(names: NDArray[np.str_], own: Answers, base: Answers | None) -> list[dict[str, Any]]:
    """Each subject's own accuracy, null where a question of it could not be answered."""
    rows = []
    for name in dict.fromkeys(names.tolist()):
        mine = np.asarray(names == name)
        total, hits = int(mine.sum()), int(own.correct[mine].sum())
        answered = bool((own.picked[mine] >= 0).all())
        low, high = share_interval(hits, total) or (None, None)
        rows.append(
            {
                "subject": name,
                "questions": total,
                "correct": hits if answered else None,
                "accuracy": hits / total if answered else None,
                "lo": low if answered else None,
                "hi": high if answered else None,
                "base_correct": None if base is None or not base.complete else int(base.correct[mine].sum()),
            }
        )
    return rows


def _ask(model: ScorableModel, groups: Sequence[PromptGroup], job: TaskJob) -> ContinuationScores:
    questions = sum(len(group.endings) for group in groups)
    job.progress.say(f"asking {model.label} {questions} questions")
    try:
        return job.scorer.continuations(
            groups, CONTINUATIONS, model=model, work_dir=job.work_dir, progress=job.progress
        )
    except WorkerError as error:
        if error.kind in _ADVICE:
            raise UsageError(f"{model.label}: {error}; {_ADVICE[error.kind]}") from error
        raise


def _baseline_logprobs(
    job: TaskJob, baseline: ScorableModel, groups: Sequence[PromptGroup], own: ContinuationScores
) -> NDArray[np.float64]:
    """The baseline's log-probabilities: the variant's own when it is the baseline, else remembered or scored now."""
    asked = {
        "version": _VERSION,
        "model": baseline.key,
        "scored_by": job.scorer.scored_by.as_dict(),
        "arithmetic": job.scorer.arithmetic,
        "prompts": [[group.prefix, *group.endings] for group in groups],
    }
    place = None if job.cache is None else job.cache / "answers" / f"{key_of(asked)}.json"
    shape = own.logprobs.shape
    if job.variant.key == baseline.key:
        logprobs = own.logprobs
    else:
        remembered = None
        if place is not None:
            try:
                remembered = np.array(read_json(place)["logprobs"], dtype=np.float64)
            except (OSError, json.JSONDecodeError, KeyError, TypeError, ValueError):
                remembered = None
        if remembered is not None and remembered.shape == shape:
            job.progress.say(f"{baseline.label} has answered these questions before, reused")
            return remembered
        logprobs = _ask(baseline, groups, job).logprobs
    if place is not None and np.isfinite(logprobs).all():
        place.parent.mkdir(parents=True, exist_ok=True)
        write_json(place, {"model": baseline.label, "logprobs": logprobs.tolist()})
    return logprobs


def _validity(job: TaskJob, *answers: Answers) -> list[str]:
    broken = [] if all(each.complete for each in answers) else [Reason.NON_FINITE]
    return [reason.value for reason in (*job.reasons, *broken)]


def _paired_metrics(own: Answers, base: Answers | None, job: TaskJob) -> dict[str, dict[str, Any]]:
    """All of `_PAIRED`; null, with the reason, where there is no baseline or an answer is missing."""
    if base is None:
        missing = [*(reason.value for reason in job.reasons), Reason.NO_BASELINE.value]
        return {tag: value_metric(unit, None, None, missing) for tag, unit in _PAIRED.items()}
    found = _validity(job, own, base)
    if not (own.complete and base.complete):
        return {tag: value_metric(unit, None, None, found) for tag, unit in _PAIRED.items()}
    figures = paired_figures(own.correct, base.correct)
    if job.baseline is not None and job.variant.key == job.baseline.key:
        figures["accuracy_change"] = (0.0, None)  # the same answers: by definition, not by measurement
    return {tag: value_metric(unit, *figures[tag], found, n=len(own.correct)) for tag, unit in _PAIRED.items()}


def _items(
    subjects: Sequence[Subject], names: NDArray[np.str_], own: Answers, base: Answers | None
) -> dict[str, NDArray[Any]]:
    """One item a question: where it is from, what was picked, and how likely each letter was."""
    questions = [question for subject in subjects for question in subject.questions]
    columns: dict[str, NDArray[Any]] = {
        "subject": names,
        "question": np.array([question.number for question in questions], dtype=np.int32),
        "answer": np.array([question.answer for question in questions]),
        **_answer_columns("", own),
    }
    return columns if base is None else columns | _answer_columns("base_", base)


def _answer_columns(before: str, answers: Answers) -> dict[str, NDArray[Any]]:
    letters = np.array([*LETTERS, None], dtype=object)
    correct = answers.correct.astype(object)
    correct[answers.picked < 0] = None
    return {
        f"{before}picked": letters[answers.picked],
        f"{before}correct": correct,
        **{f"{before}logprob_{letter}": answers.logprobs[:, index] for index, letter in enumerate(LETTERS)},
    }


def _protocol(config: MultipleChoiceConfig, subjects: Sequence[Subject], scores: ContinuationScores) -> dict[str, Any]:
    return {
        "prompt": "lm-evaluation-harness mmlu",
        "data": {"name": config.data if config.data == DEFAULT_QUESTIONS else "folder", "digest": data_digest(config)},
        "subjects": len(subjects),
        "questions": sum(len(subject.questions) for subject in subjects),
        "shots": config.shots,
        "limit": config.limit,
        "seed": config.seed,
        "letter_token_ids": list(scores.token_ids),
        "prompt_tokens": scores.prompt_tokens,
        "decoded_tokens": scores.decoded_tokens,
    }
