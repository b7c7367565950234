"""Choices in words: which text a model finds likeliest after a question, as it is and by its length.

`accuracy` picks the highest log-likelihood, `accuracy_norm` the highest per character of the choice (lm-eval's `acc`
and `acc_norm`). TruthfulQA's mc2 has several right ones: its figure is the share of probability that they get together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.base.errors import UsageError
from bench.base.validity import Reason
from bench.engines.scoring import LikelihoodScores, ScorableModel
from bench.quality.answers import ADVICE, paired_metrics, remembered
from bench.quality.choice_formats import Asked, Questions, data_digest, load_questions
from bench.quality.config import ChoiceFormat, ChoicesConfig
from bench.quality.intervals import share_interval
from bench.quality.job import Outcome, TaskJob, value_metric
from bench.quality.statistics.paired import bootstrap_interval
from bench.quality.statistics.verdict import compare_answers, compare_means
from bench.toolchains.worker import WorkerError


@dataclass(frozen=True, kw_only=True)
class Graded:
    """Picked choices as indices (-1 where logits were not finite), by likelihood and by likelihood per character, and
    the share of probability on right ones; shape (questions,)."""

    picked: NDArray[np.int64]
    picked_norm: NDArray[np.int64]
    correct: NDArray[np.bool_]
    correct_norm: NDArray[np.bool_]
    mass: NDArray[np.float64]
    logprobs: list[NDArray[np.float64]]

    @property
    def complete(self) -> bool:
        """Whether every question was answered."""
        return bool((self.picked >= 0).all())


def measure(config: ChoicesConfig, job: TaskJob) -> Outcome:
    """Score every choice under the variant, and under the baseline when there is one."""
    questions = load_questions(config)
    scores = _ask(job.variant, questions, job)
    own = graded(questions.asked, scores.logprobs)
    base = None
    if job.baseline is not None:
        base = own
        if job.variant.key != job.baseline.key:
            base = graded(questions.asked, _ask(job.baseline, questions, job).logprobs)
    return Outcome(
        metrics=metrics(config, own, base, job),
        items=_items(questions.asked, own, base),
        details={
            "scored_by": job.scorer.scored_by.as_dict(),
            "protocol": {
                "prompt": f"lm-evaluation-harness {config.format.value}" if config.format.value != "plain" else "plain",
                "data": {"digest": data_digest(config)},
                "questions": len(questions.asked),
                "shots": config.shots,
                "limit": config.limit,
                "seed": config.seed,
                "prompt_tokens": scores.prompt_tokens,
                "decoded_tokens": scores.decoded_tokens,
            },
            "comparisons": comparisons(config, own, base),
            "baseline": None if job.baseline is None else {"key": job.baseline.key, "label": job.baseline.label},
            "non_finite": scores.non_finite,
            "usage": scores.usage,
        },
        errors={"non_finite": scores.non_finite} if scores.non_finite else {},
        texts=[question.text for question in questions.asked],
    )


def graded(asked: Sequence[Asked], logprobs: NDArray[np.float64]) -> Graded:
    """What the log-likelihoods of all choices in one row, nat, mean for each question.

    The first of equals is picked. mass = Σ p over the right choices / Σ p over all.
    """
    ends = np.cumsum([len(question.choices) for question in asked])
    each = np.split(logprobs, ends[:-1])
    picked, picked_norm, mass = [], [], []
    for question, own in zip(asked, each, strict=True):
        if not np.isfinite(own).all():
            picked.append(-1)
            picked_norm.append(-1)
            mass.append(np.nan)
            continue
        # lm-eval divides by characters, of which an empty choice has none.
        lengths = np.array([max(1, len(text)) for text in question.choices], dtype=np.float64)
        picked.append(int(own.argmax()))
        picked_norm.append(int((own / lengths).argmax()))
        shares = np.exp(own - own.max())
        mass.append(float(shares[list(question.right)].sum() / shares.sum()))
    right = [question.right for question in asked]
    return Graded(
        picked=np.array(picked),
        picked_norm=np.array(picked_norm),
        correct=np.array([place in wanted for place, wanted in zip(picked, right, strict=True)]),
        correct_norm=np.array([place in wanted for place, wanted in zip(picked_norm, right, strict=True)]),
        mass=np.array(mass),
        logprobs=list(each),
    )


def metrics(config: ChoicesConfig, own: Graded, base: Graded | None, job: TaskJob) -> dict[str, dict[str, Any]]:
    """`accuracy` and `accuracy_norm`, or `truthful_mass`; against the baseline flips both ways, change, McNemar's p."""
    whole = own.complete and (base is None or base.complete)
    found = [reason.value for reason in (*job.reasons, *(() if whole else (Reason.NON_FINITE,)))]
    same = job.baseline is not None and job.variant.key == job.baseline.key
    total = len(own.correct)
    if config.format is ChoiceFormat.truthfulqa_mc2:
        values: dict[str, tuple[float | None, tuple[float, float] | None]] = {
            "truthful_mass": (float(own.mass.mean()), bootstrap_interval(own.mass)) if own.complete else (None, None)
        }
        if config.compare:
            difference = own.mass - base.mass if base is not None and whole else None
            values["base_truthful_mass"] = (
                None if difference is None or base is None else float(base.mass.mean()),
                None,
            )
            values["truthful_mass_change"] = (
                (None, None)
                if difference is None
                else (float(difference.mean()), None if same else bootstrap_interval(difference))
            )
        reasons = found if base is not None or not config.compare else [*found, Reason.NO_BASELINE.value]
        return {
            tag: value_metric("ratio", value, interval, found if tag == "truthful_mass" else reasons, n=total)
            for tag, (value, interval) in values.items()
        }
    made: dict[str, dict[str, Any]] = {}
    for tag, correct in (("accuracy", own.correct), ("accuracy_norm", own.correct_norm)):
        hits = int(correct.sum())
        share, interval = (hits / total, share_interval(hits, total)) if own.complete else (None, None)
        made[tag] = value_metric("ratio", share, interval, found, n=total)
    if config.compare:
        answers = None if base is None else base.correct
        made |= paired_metrics("accuracy", own.correct, answers, found, whole=whole, same=same)
    return made


def comparisons(config: ChoicesConfig, own: Graded, base: Graded | None) -> dict[str, dict[str, Any]]:
    """Verdicts, paired question by question; empty without a baseline, or where an answer is missing."""
    if base is None or not (own.complete and base.complete):
        return {}
    if config.format is ChoiceFormat.truthfulqa_mc2:
        difference = own.mass - base.mass
        compared = {
            "truthful_mass": compare_means(difference, margin=config.margin, unit="questions", higher_is_better=True)
        }
    else:
        compared = {
            "accuracy": compare_answers(own.correct, base.correct, margin=config.margin),
            "accuracy_norm": compare_answers(own.correct_norm, base.correct_norm, margin=config.margin),
        }
    return {tag: comparison.as_dict() for tag, comparison in compared.items() if comparison is not None}


def _ask(model: ScorableModel, questions: Questions, job: TaskJob) -> LikelihoodScores:
    group = questions.group
    job.progress.say(f"asking {model.label} {len(group.endings)} questions")
    content = {"model": model.key, "likelihoods": [group.prefix, group.endings, group.choices]}
    try:
        return remembered(
            job,
            model,
            content,
            LikelihoodScores,
            lambda kept: job.scorer.likelihoods(
                [group], model=model, work_dir=job.work_dir, progress=job.progress, kept=kept
            ),
        )
    except WorkerError as error:
        if error.kind in ADVICE:
            raise UsageError(f"{model.label}: {error}; {ADVICE[error.kind]}") from error
        raise


def _items(asked: Sequence[Asked], own: Graded, base: Graded | None) -> dict[str, NDArray[Any]]:
    """One item a question: what was picked, and how likely each choice was (nat, a list)."""
    columns: dict[str, NDArray[Any]] = {
        "question": np.array([question.number for question in asked], dtype=np.int32),
        "answer": np.array([question.right[0] for question in asked], dtype=np.int32),
    }
    for before, found in (("", own), ("base_", base)):
        if found is None:
            continue
        logprobs = np.empty(len(asked), dtype=object)
        logprobs[:] = [each.tolist() for each in found.logprobs]
        columns |= {
            f"{before}picked": found.picked,
            f"{before}picked_norm": found.picked_norm,
            f"{before}correct": found.correct,
            f"{before}correct_norm": found.correct_norm,
            f"{before}right_mass": found.mass,
            f"{before}logprobs": logprobs,
        }
    return columns
