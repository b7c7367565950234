"""MMLU on a running server: one request a question, for the letters' log-probabilities at the first generated token.

A server that can is asked for the letters by their ids. One that only tells its likeliest tokens leaves out letters
that are less likely than any of those: they are missing, never guessed, and the answer is the likeliest of those it
told. A question of which no letter was told has no answer, which no figure counts as wrong: they are missing then.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.base.errors import UsageError
from bench.base.validity import Reason
from bench.engines.scoring import ScorableModel
from bench.engines.served_logprobs import Asked
from bench.quality.answers import paired_metrics
from bench.quality.config import DEFAULT_QUESTIONS, MMLU
from bench.quality.generation.ask import Api
from bench.quality.generation.job import GradingJob
from bench.quality.generation.session import Session
from bench.quality.job import Outcome
from bench.quality.mmlu import CONTINUATIONS, LETTERS, Subject, data_digest, load_subjects, prompt_group
from bench.quality.multiple_choice import (
    Answers,
    accuracy_metrics,
    answer_columns,
    comparisons,
    notes,
    subject_rows,
)
from bench.quality.served.asking import Asking, finite, letter_ids
from bench.quality.served.config import ServedMultipleChoiceConfig
from bench.quality.thinking import refuse_thinking

#: So many of the likeliest tokens are asked for where letters cannot be named.
_TOP, _CHAT_TOP = 200, 20


@dataclass(frozen=True, kw_only=True)
class Told:
    """Letters' log-probabilities, shape (questions, letters), NaN where the server did not tell; `asked_by` how."""

    logprobs: NDArray[np.float64]
    asked_by: str


def generate(config: ServedMultipleChoiceConfig, session: Session) -> Told:
    """Ask every question. Raises UsageError where the model thinks first, or letters are no tokens of their own."""
    if config.api is Api.completions and session.model_path is not None:
        refuse_thinking(
            ScorableModel(format=session.model_format, path=session.model_path, key=session.key, label=session.label)
        )
    subjects = load_subjects(config.questions())
    prompts = [
        group.prefix + ending for group in (prompt_group(subject) for subject in subjects) for ending in group.endings
    ]
    asking = Asking(session, concurrency=config.max_concurrency)
    if config.api is Api.chat:
        return _chat(config, asking, prompts)
    route, model = asking.route, asking.endpoint.model
    keys: Sequence[int | str]
    if route.chosen:
        ids = letter_ids(asking, prompts[0], CONTINUATIONS)
        asked = [Asked(model=model, prompt=prompt, chosen=ids, reuse=True) for prompt in prompts]
        how, keys = "token ids", ids
    elif route.most and route.token_ids:
        ids = letter_ids(asking, prompts[0], CONTINUATIONS)
        top = min(route.most, _TOP)
        asked = [Asked(model=model, prompt=prompt, top=top, reuse=True) for prompt in prompts]
        how, keys = f"the {top} likeliest tokens, by id", ids
    elif route.most:
        asked = [Asked(model=model, prompt=prompt, top=route.most) for prompt in prompts]
        how, keys = f"the {route.most} likeliest tokens, by text", CONTINUATIONS
    else:
        raise UsageError(f"{asking.endpoint.engine.kind} tells nothing of the next token")

    def read(answer: Any) -> list[float | None]:
        told = route.next_logprobs(answer)
        return [told.get(key) for key in keys]

    return _told(asking.all_asked(asked, read, unit="questions"), how)


def _chat(config: ServedMultipleChoiceConfig, asking: Asking, prompts: Sequence[str]) -> Told:
    model = asking.endpoint.model
    bodies = [
        {
            "model": model,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": 1,
            "temperature": 0,
            "logprobs": True,
            "top_logprobs": _CHAT_TOP,
            "chat_template_kwargs": dict(config.chat_template_kwargs),
        }
        for prompt in prompts
    ]
    found = asking.ask([(Api.chat.path, body, read_chat) for body in bodies], unit="questions")
    return _told(found, f"the {_CHAT_TOP} likeliest tokens, by text")


def read_chat(answer: Mapping[str, Any]) -> list[float | None]:
    """The letters among the likeliest first tokens of a chat's answer, with or without a space before them."""
    entries = answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
    best: dict[str, float] = {}
    for entry in entries:
        letter = str(entry["token"]).strip(" ▁Ġ")
        best[letter] = max(best.get(letter, -np.inf), float(entry["logprob"]))
    return [best.get(letter) for letter in LETTERS]


def _told(found: Sequence[Sequence[float | None]], how: str) -> Told:
    rows = np.array([[finite(value) for value in row] for row in found], dtype=np.float64)
    return Told(logprobs=rows.reshape(len(found), len(LETTERS)), asked_by=how)


def picked(told: Told, right: NDArray[np.int64]) -> Answers:
    """The likeliest told letter of each question, the first of equals; -1 where none was told."""
    known = np.isfinite(told.logprobs)
    best = np.where(known, told.logprobs, -np.inf).argmax(axis=1)
    chosen = np.where(known.any(axis=1), best, -1)
    return Answers(logprobs=told.logprobs, picked=chosen, correct=chosen == right)


def grade(config: ServedMultipleChoiceConfig, own: Told, base: Told | None, job: GradingJob) -> Outcome:
    """The figures of `multiple_choice`, of what the servers told."""
    scored = config.questions()
    subjects = load_subjects(scored)
    right = np.array([LETTERS.index(q.answer) for subject in subjects for q in subject.questions])
    answers, base_answers = picked(own, right), None if base is None else picked(base, right)
    names = np.repeat([subject.name for subject in subjects], [len(subject.questions) for subject in subjects])
    whole = answers.complete and (base_answers is None or base_answers.complete)
    found = [reason.value for reason in (*job.reasons, *(() if answers.complete else (Reason.TOKENS_NOT_TOLD,)))]
    metrics = accuracy_metrics(answers.correct, names, found, complete=answers.complete)
    if config.compare:
        paired = [*found, *([] if whole or not answers.complete else [Reason.TOKENS_NOT_TOLD.value])]
        correct = None if base_answers is None else base_answers.correct
        metrics |= paired_metrics("accuracy_micro", answers.correct, correct, paired, whole=whole, same=job.same_model)
    unanswered, untold = int((answers.picked < 0).sum()), int(np.isnan(own.logprobs).sum())
    return Outcome(
        metrics=metrics,
        items=_items(subjects, names, answers, base_answers),
        details={
            "notes": notes(scored, len(right)),
            "protocol": {
                "prompt": "lm-evaluation-harness mmlu",
                "api": config.api.value,
                "asked_by": own.asked_by,
                "data": {
                    "name": config.data if config.data in (DEFAULT_QUESTIONS, MMLU) else "folder",
                    "digest": data_digest(scored),
                },
                "subjects": len(subjects),
                "questions": len(right),
                "shots": config.shots,
                "limit": config.limit,
                "seed": config.seed,
                "letters_not_told": untold,
            },
            "comparisons": comparisons(answers, base_answers, margin=config.margin),
            "subjects": subject_rows(names, answers, base_answers),
            "picked": {letter: int((answers.picked == index).sum()) for index, letter in enumerate(LETTERS)},
        },
        errors={"unanswered": unanswered} if unanswered else {},
        texts=[ending for subject in subjects for ending in prompt_group(subject).endings],
    )


def _items(
    subjects: Sequence[Subject], names: NDArray[np.str_], own: Answers, base: Answers | None
) -> dict[str, NDArray[Any]]:
    """One item a question, as `multiple_choice` has them."""
    questions = [question for subject in subjects for question in subject.questions]
    columns: dict[str, NDArray[Any]] = {
        "subject": names,
        "question": np.array([question.number for question in questions], dtype=np.int32),
        "answer": np.array([question.answer for question in questions]),
        **answer_columns("", own),
    }
    return columns if base is None else columns | answer_columns("base_", base)
