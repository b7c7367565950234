"""Multiple choice: which of four letters a model finds likeliest after each question, and how often that is right.

One prompt a question; its answer is the letter with the highest log-probability at the first generated position (the
first letter among equals), as lm-eval picks it. Against the baseline, answers are compared question by question.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.base.errors import UsageError
from bench.base.validity import Reason
from bench.engines.scoring import ChoiceGroup, ContinuationScores, LikelihoodScores, PromptGroup, ScorableModel
from bench.quality.answers import ADVICE, paired_metrics, remembered
from bench.quality.config import DEFAULT_QUESTIONS, MMLU, Method, MultipleChoiceConfig
from bench.quality.intervals import macro_interval, share_interval, wilson
from bench.quality.job import Outcome, TaskJob, value_metric
from bench.quality.mmlu import CONTINUATIONS, LETTERS, Subject, data_digest, load_subjects, prompt_group
from bench.quality.statistics.verdict import compare_answers
from bench.quality.thinking import refuse_thinking
from bench.toolchains.worker import WorkerError


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
    for model in (job.variant, job.baseline):
        if model is not None:
            refuse_thinking(model)
    groups = [prompt_group(subject) for subject in subjects]
    right = np.array([LETTERS.index(q.answer) for subject in subjects for q in subject.questions])
    scores = _ask(job.variant, groups, job, config.method)
    own = graded(scores.logprobs, right)
    base = None
    if job.baseline is not None:
        base = own
        if job.variant.key != job.baseline.key:
            base = graded(_ask(job.baseline, groups, job, config.method).logprobs, right)
    names = np.repeat([subject.name for subject in subjects], [len(subject.questions) for subject in subjects])
    found = _validity(job, own)
    metrics = accuracy_metrics(own.correct, names, found)
    if config.compare:
        whole = base is not None and own.complete and base.complete
        same = job.baseline is not None and job.variant.key == job.baseline.key
        paired = found if base is None else _validity(job, own, base)
        answers = None if base is None else base.correct
        metrics |= paired_metrics("accuracy_micro", own.correct, answers, paired, whole=whole, same=same)
    return Outcome(
        metrics=metrics,
        items=_items(subjects, names, own, base),
        details={
            "scored_by": job.scorer.scored_by.as_dict(),
            "notes": notes(config, len(right)),
            "protocol": _protocol(config, subjects, scores),
            "subjects": subject_rows(names, own, base),
            "comparisons": comparisons(own, base, margin=config.margin),
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
    correct: NDArray[np.bool_], names: NDArray[np.str_], found: Sequence[str], *, complete: bool = True
) -> dict[str, dict[str, Any]]:
    """accuracy_micro: share of all questions; accuracy_macro: mean of the subjects' shares.

    Null when not finite, or not all questions were answered.
    """
    shares, totals = [], []
    for name in dict.fromkeys(names.tolist()):
        own = correct[np.asarray(names == name)]
        shares.append(float(own.mean()))
        totals.append(len(own))
    hits, total = int(correct.sum()), len(correct)
    broken = Reason.NON_FINITE.value in found or not complete
    macro = None if broken else float(np.mean(shares))
    return {
        "accuracy_micro": value_metric(
            "ratio", None if broken else hits / total, None if broken else share_interval(hits, total), found, n=total
        ),
        "accuracy_macro": value_metric(
            "ratio", macro, None if broken else macro_interval(shares, totals), found, n=total
        ),
    }


def comparisons(own: Answers, base: Answers | None, *, margin: float) -> dict[str, dict[str, Any]]:
    """The verdict on the accuracy, paired question by question; empty where an answer is missing, or the baseline."""
    if base is None or not (own.complete and base.complete):
        return {}
    found = compare_answers(own.correct, base.correct, margin=margin)
    return {} if found is None else {"accuracy_micro": found.as_dict()}


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


def _ask(model: ScorableModel, groups: Sequence[PromptGroup], job: TaskJob, method: Method) -> ContinuationScores:
    """The letters' log-probabilities, shape (questions, letters)."""
    questions = sum(len(group.endings) for group in groups)
    job.progress.say(f"asking {model.label} {questions} questions")
    prompts = [[group.prefix, *group.endings] for group in groups]
    try:
        if method is Method.letters:
            content = {"model": model.key, "prompts": prompts}
            return remembered(
                job,
                model,
                content,
                ContinuationScores,
                lambda kept: job.scorer.continuations(
                    groups, CONTINUATIONS, model=model, work_dir=job.work_dir, progress=job.progress, kept=kept
                ),
            )
        choices = [
            ChoiceGroup(prefix=group.prefix, endings=group.endings, choices=(CONTINUATIONS,) * len(group.endings))
            for group in groups
        ]
        found = remembered(
            job,
            model,
            {"model": model.key, "likelihoods": prompts},
            LikelihoodScores,
            lambda kept: job.scorer.likelihoods(
                choices, model=model, work_dir=job.work_dir, progress=job.progress, kept=kept
            ),
        )
    except WorkerError as error:
        if error.kind in ADVICE:
            raise UsageError(f"{model.label}: {error}; {ADVICE[error.kind]}") from error
        raise
    return ContinuationScores(
        logprobs=found.logprobs.reshape(questions, len(CONTINUATIONS)),
        token_ids=(),
        non_finite=found.non_finite,
        prompt_tokens=found.prompt_tokens,
        decoded_tokens=found.decoded_tokens,
        usage=found.usage,
    )


def _validity(job: TaskJob, *answers: Answers) -> list[str]:
    broken = [] if all(each.complete for each in answers) else [Reason.NON_FINITE]
    return [reason.value for reason in (*job.reasons, *broken)]


def _items(
    subjects: Sequence[Subject], names: NDArray[np.str_], own: Answers, base: Answers | None
) -> dict[str, NDArray[Any]]:
    """One item a question: where it is from, what was picked, and how likely each letter was."""
    questions = [question for subject in subjects for question in subject.questions]
    columns: dict[str, NDArray[Any]] = {
        "subject": names,
        "question": np.array([question.number for question in questions], dtype=np.int32),
        "answer": np.array([question.answer for question in questions]),
        **answer_columns("", own),
    }
    return columns if base is None else columns | answer_columns("base_", base)


def answer_columns(before: str, answers: Answers) -> dict[str, NDArray[Any]]:
    """Columns of items: what was picked, whether it is right, and how likely each letter was."""
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
        "method": config.method.value,
        "data": {
            "name": config.data if config.data in (DEFAULT_QUESTIONS, MMLU) else "folder",
            "digest": data_digest(config),
        },
        "subjects": len(subjects),
        "questions": sum(len(subject.questions) for subject in subjects),
        "shots": config.shots,
        "limit": config.limit,
        "seed": config.seed,
        "letter_token_ids": list(scores.token_ids),
        "prompt_tokens": scores.prompt_tokens,
        "decoded_tokens": scores.decoded_tokens,
    }
