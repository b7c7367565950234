"""MT-Bench: answers over two turns, judged alone from 1 to 10 and against the baseline's in both positions.

Questions, judge prompts and reference answers are FastChat's files; verdicts are read as FastChat reads them. A judge
that prefers one answer in one position and the other in the other has given no verdict: that counts as a tie, and how
often it happens is a figure of its own.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.base.errors import UsageError
from bench.base.hashing import key_of
from bench.load.target import parse_url
from bench.quality.generation.ask import Answer, Request, Sampling, assistant, chat, system, user
from bench.quality.generation.cache import AnswerStore
from bench.quality.generation.client import Limits
from bench.quality.generation.config import Grading, MtBenchConfig, TaskSkipped
from bench.quality.generation.data import chosen, files_digest, given_path, read_jsonl
from bench.quality.generation.job import Asked, GradingJob, column, failures, token_metrics, validity
from bench.quality.generation.paired import Figures
from bench.quality.generation.session import AttachedServer, Session
from bench.quality.job import Outcome

#: Categories whose answers are held against a reference, where there is one.
WITH_REFERENCE = ("math", "reasoning", "coding", "arena-hard-200")
_RATING = (re.compile(r"\[\[(\d+\.?\d*)\]\]"), re.compile(r"\[(\d+\.?\d*)\]"))
_SINGLE = ("single-v1", "single-math-v1", "single-v1-multi-turn", "single-math-v1-multi-turn")
_PAIR = ("pair-v2", "pair-math-v1", "pair-v2-multi-turn", "pair-math-v1-multi-turn")
_NO_JUDGE = "no judge is given: name an OpenAI-compatible endpoint with judge.url and judge.model of the task"
#: A change of the mean rating that counts as none.
_RATING_MARGIN = 0.1
_WON_AS_A = {"A": "win", "B": "loss", "C": "tie"}
_WON_AS_B = {"A": "loss", "B": "win", "C": "tie"}
#: What each verdict over both positions is worth to the variant.
_WORTH = {"win": 1.0, "loss": 0.0, "tie": 0.5, "inconsistent": 0.5}
#: The same of the share of wins.
_WIN_MARGIN = 0.05


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question of two turns, with reference answers where it has any."""

    id: str
    category: str
    turns: tuple[str, str]
    reference: tuple[str, ...]

    @property
    def by_reference(self) -> bool:
        """Whether the judge is shown reference answers."""
        return self.category in WITH_REFERENCE and len(self.reference) == 2


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """Both turns of every question, in the order of the questions."""

    first: Asked
    second: Asked

    def turns(self, place: int) -> tuple[str | None, str | None]:
        """What was answered to a question."""
        return self.first.texts[place], self.second.texts[place]


def check(config: MtBenchConfig) -> None:
    """Raise TaskSkipped where no judge is given, UsageError where it cannot be asked."""
    if not config.judge.url:
        raise TaskSkipped(_NO_JUDGE)
    _judge_server(config)


def _judge_server(config: MtBenchConfig) -> AttachedServer:
    judge = config.judge
    if not judge.model:
        raise UsageError("judge.model of the task is empty: name the model that judges at judge.url")
    try:
        parse_url(judge.url)
    except UsageError as error:
        raise UsageError(str(error).replace("endpoint.url", "judge.url")) from error
    if judge.api_key_env and judge.api_key_env not in os.environ:
        raise UsageError(f"judge.api_key_env: the environment variable {judge.api_key_env} is not set")
    key = os.environ[judge.api_key_env] if judge.api_key_env else ""
    return AttachedServer(url=judge.url.rstrip("/").removesuffix("/v1"), model=judge.model, api_key=key)


def _files(config: MtBenchConfig) -> tuple[Path, Path, Path | None]:
    folder = given_path(config.data, "task.data")
    references = sorted([*folder.glob("reference_answer*.jsonl"), *folder.glob("reference_answer/*.jsonl")])
    return folder / "question.jsonl", folder / "judge_prompts.jsonl", references[0] if references else None


def data_digest(config: MtBenchConfig) -> str:
    """What identifies the questions, prompts and references; raises UsageError."""
    return files_digest([("task.data", path) for path in _files(config)])


def questions(config: MtBenchConfig) -> list[Question]:
    """The chosen questions; raises UsageError."""
    path, _, reference_path = _files(config)
    references: dict[str, tuple[str, ...]] = {}
    if reference_path is not None:
        for row in read_jsonl(reference_path, where="task.data", fields=("question_id", "choices")):
            references[str(row["question_id"])] = tuple(row["choices"][0]["turns"])
    rows = read_jsonl(path, where="task.data", fields=("question_id", "category", "turns"))
    for row in rows:
        if len(row["turns"]) != 2:
            raise UsageError(f"task.data={config.data}: question {row['question_id']} has not two turns")
    return [
        Question(
            id=str(row["question_id"]),
            category=str(row["category"]),
            turns=(row["turns"][0], row["turns"][1]),
            reference=references.get(str(row["question_id"]), ()),
        )
        for row in chosen(rows, limit=config.limit, seed=config.seed)
    ]


def judge_prompts(config: MtBenchConfig) -> dict[str, dict[str, Any]]:
    """The judge's prompts by name; raises UsageError when one is missing."""
    _, path, _ = _files(config)
    rows = read_jsonl(path, where="task.data", fields=("name", "system_prompt", "prompt_template"))
    prompts = {str(row["name"]): row for row in rows}
    missing = [name for name in (*_SINGLE, *_PAIR) if name not in prompts]
    if missing:
        raise UsageError(f"{path}: the judge prompt '{missing[0]}' is missing")
    return prompts


def generate(config: MtBenchConfig, session: Session) -> Conversation:
    """Both turns of every question; the second after the model's own first answer."""
    asked = questions(config)
    judge_prompts(config)
    sampling, limits = config.sampling(), config.limits(session)
    first = [chat([user(question.turns[0])], sampling) for question in asked]
    answers = session.answers(first, limits, unit="first turns")
    second = [
        chat([user(question.turns[0]), assistant(answer.visible or ""), user(question.turns[1])], sampling)
        for question, answer in zip(asked, answers, strict=True)
    ]
    # Where there is no first answer, the second turn cannot be asked: it failed with the first.
    open_ = [place for place, answer in enumerate(answers) if answer.text is not None]
    found = session.answers([second[place] for place in open_], limits, unit="second turns")
    by_place = dict(zip(open_, found, strict=True))
    seconds = [by_place.get(place, Answer(text=None, error=answers[place].error)) for place in range(len(asked))]
    return Conversation(first=Asked(requests=first, answers=answers), second=Asked(requests=second, answers=seconds))


def rating_of(text: str | None) -> float | None:
    """The rating in a judge's answer, from 1 to 10; None where there is none."""
    for pattern in _RATING:
        found = pattern.search(text or "")
        if found:
            rating = float(found.group(1))
            return rating if 1 <= rating <= 10 else None
    return None


def preferred(text: str | None) -> str | None:
    """`A`, `B` or `C` (a tie) in a judge's answer, the first that is there in this order; None where there is none."""
    return next((letter for letter in "ABC" if f"[[{letter}]]" in (text or "")), None)


def single_request(
    question: Question, turns: Sequence[str | None], turn: int, prompts: Mapping[str, Any], sampling: Sampling
) -> Request | None:
    """The judge's request for a rating of turn 0 or 1; None where that turn has no answer."""
    if any(text is None for text in turns[: turn + 1]):
        return None
    values = {"question": question.turns[0], "answer": turns[0], **_numbered("answer_{}", turns), **_common(question)}
    return _judge_request(prompts[_name(_SINGLE, question, turn)], values, sampling)


def pair_request(
    question: Question,
    *,
    a: Sequence[str | None],
    b: Sequence[str | None],
    turn: int,
    prompts: Mapping[str, Any],
    sampling: Sampling,
) -> Request | None:
    """The judge's request to choose between two answers; None where one is missing."""
    if any(text is None for text in (*a[: turn + 1], *b[: turn + 1])):
        return None
    values = {
        "question": question.turns[0],
        "answer_a": a[0],
        "answer_b": b[0],
        **_numbered("answer_a_{}", a),
        **_numbered("answer_b_{}", b),
        **_common(question),
    }
    return _judge_request(prompts[_name(_PAIR, question, turn)], values, sampling)


def _name(names: Sequence[str], question: Question, turn: int) -> str:
    return names[2 * turn + int(question.by_reference)]


def _numbered(pattern: str, turns: Sequence[str | None]) -> dict[str, str]:
    return {pattern.format(number): text or "" for number, text in enumerate(turns, start=1)}


def _common(question: Question) -> dict[str, str]:
    return {**_numbered("question_{}", question.turns), **_numbered("ref_answer_{}", question.reference)}


def _judge_request(prompt: Mapping[str, Any], values: Mapping[str, Any], sampling: Sampling) -> Request:
    return chat([system(prompt["system_prompt"]), user(prompt["prompt_template"].format(**values))], sampling)


class _Judge:
    """The model that grades, with what it said before."""

    def __init__(self, config: MtBenchConfig, job: GradingJob) -> None:
        server = _judge_server(config)
        own = job.own.store.path
        store = AnswerStore(own.with_name(f"{own.stem}.judge-{key_of([server.url, server.model])[:8]}.jsonl"))
        self._session = dataclasses.replace(
            job.own, label=f"judge {server.model}", server=lambda: server, store=store, progress=job.progress
        )
        self._limits = Limits(
            start=config.judge.concurrency,
            concurrency=config.judge.concurrency,
            timeout_s=config.request_timeout_s,
        )
        self.sampling = Sampling(max_tokens=config.judge.max_tokens)
        self.failures: Counter[str] = Counter()
        self.unreadable = 0

    def texts(self, requests: Sequence[Request | None]) -> list[str | None]:
        """What the judge says to each request; None where there is none, or no answer."""
        places = [place for place, request in enumerate(requests) if request is not None]
        asked = [request for request in requests if request is not None]
        answers = self._session.answers(asked, self._limits, unit="verdicts") if asked else []
        self.failures.update(f"judge_{answer.error}" for answer in answers if answer.error)
        by_place = dict(zip(places, (answer.visible for answer in answers), strict=True))
        return [by_place.get(place) for place in range(len(requests))]


def grade(config: MtBenchConfig, own: Conversation, base: Conversation | None, job: GradingJob) -> Outcome:
    """Ask the judge about every turn."""
    asked = questions(config)
    judge = _Judge(config, job)
    prompts = judge_prompts(config)
    found = validity(job, own.first, own.second, *(() if base is None else (base.first, base.second)))
    figures = Figures(margin=_WIN_MARGIN, same=job.same_model, found=found)
    items: dict[str, Any] = {
        "question": column([question.id for question in asked for _ in range(2)]),
        "category": column([question.category for question in asked for _ in range(2)]),
        "turn": np.tile(np.array([1, 2], dtype=np.int8), len(asked)),
        "reference": column([question.by_reference for question in asked for _ in range(2)]),
        **_merged(own, ""),
        **({} if base is None else _merged(base, "base_")),
    }
    grader = _Grader(asked=asked, own=own, base=base, judge=judge, prompts=prompts, figures=figures, items=items)
    details: dict[str, Any] = {}
    if config.grading is not Grading.pairwise:
        details |= grader.single(same=job.same_model)
    if config.grading is not Grading.single and base is not None and not job.same_model:
        details |= grader.pairwise(base)
    return Outcome(
        metrics=figures.metrics | token_metrics(Asked(requests=[], answers=_flat(own)), found),
        items=items,
        details={
            "protocol": {
                "prompt": "FastChat MT-Bench",
                "questions": len(asked),
                "with_reference": sum(question.by_reference for question in asked),
                "grading": config.grading.value,
                "temperature": config.temperature,
            },
            "judge": {"model": config.judge.model, "unreadable": judge.unreadable},
            **details,
            "comparisons": figures.comparisons,
        },
        errors={**failures(own.first, own.second), **judge.failures},
        texts=[turn for question in asked for turn in question.turns],
    )


@dataclass(frozen=True, kw_only=True)
class _Grader:
    """What is judged, by whom, and where the figures and items go."""

    asked: Sequence[Question]
    own: Conversation
    base: Conversation | None
    judge: _Judge
    prompts: Mapping[str, Any]
    figures: Figures
    items: dict[str, Any]

    @property
    def _turns(self) -> list[tuple[int, Question, int]]:
        return [(place, question, turn) for place, question in enumerate(self.asked) for turn in range(2)]

    def single(self, *, same: bool) -> dict[str, Any]:
        """Ratings of every turn, means over questions and turns, and by category."""
        mine = self._rated(self.own, "")
        theirs = None if self.base is None else (mine if same else self._rated(self.base, "base_"))
        both = by_question(mine), None if theirs is None else by_question(theirs)
        self.figures.mean("mt_bench_score", "points", *both, margin=_RATING_MARGIN)
        for turn in range(2):
            own, base = mine[turn::2], None if theirs is None else theirs[turn::2]
            self.figures.mean(f"mt_bench_score_turn_{turn + 1}", "points", own, base, margin=_RATING_MARGIN)
        rows = []
        for category in dict.fromkeys(question.category for question in self.asked):
            places = [at for at, (_, question, _) in enumerate(self._turns) if question.category == category]
            rows.append(
                {
                    "category": category,
                    "score": _mean([mine[place] for place in places]),
                    "base_score": None if theirs is None else _mean([theirs[place] for place in places]),
                }
            )
        return {"categories": rows}

    def _rated(self, conversation: Conversation, before: str) -> list[float | None]:
        sampling = self.judge.sampling
        requests = [
            single_request(question, conversation.turns(place), turn, self.prompts, sampling)
            for place, question, turn in self._turns
        ]
        texts = self.judge.texts(requests)
        ratings = [rating_of(text) for text in texts]
        self.judge.unreadable += _unread(texts, ratings)
        self.items[f"{before}judgement"], self.items[f"{before}rating"] = column(texts), column(ratings)
        return ratings

    def pairwise(self, base: Conversation) -> dict[str, Any]:
        """Who is preferred, the variant being A and then B; only the same preference in both positions is one."""
        as_a, as_b = self._pairs(self.own, base), self._pairs(base, self.own)
        said = self.judge.texts([*as_a, *as_b])
        letters = [preferred(text) for text in said]
        self.judge.unreadable += _unread(said, letters)
        count = len(as_a)
        won_as_a = [None if letter is None else _WON_AS_A[letter] for letter in letters[:count]]
        won_as_b = [None if letter is None else _WON_AS_B[letter] for letter in letters[count:]]
        verdicts = [
            None if a is None or b is None else (a if a == b else "inconsistent")
            for a, b in zip(won_as_a, won_as_b, strict=True)
        ]
        self.items.update(
            as_a=column(won_as_a),
            as_b=column(won_as_b),
            pairwise=column(verdicts),
            judgement_as_a=column(said[:count]),
            judgement_as_b=column(said[count:]),
        )
        points = by_question([None if verdict is None else _WORTH[verdict] for verdict in verdicts])
        others = [None if point is None else 1 - point for point in points]
        self.figures.mean("pairwise_win_rate", "ratio", points, others, margin=_WIN_MARGIN)
        known = [verdict for verdict in verdicts if verdict is not None]
        self.figures.alone("judge_inconsistency", [verdict == "inconsistent" for verdict in known])
        return {"pairwise": {name: known.count(name) for name in _WORTH}}

    def _pairs(self, a: Conversation, b: Conversation) -> list[Request | None]:
        return [
            pair_request(
                question, a=a.turns(place), b=b.turns(place), turn=turn, prompts=self.prompts,
                sampling=self.judge.sampling,
            )
            for place, question, turn in self._turns
        ]  # fmt: skip


def _unread(texts: Sequence[str | None], found: Sequence[Any]) -> int:
    """How often the judge said something without a verdict in it."""
    return sum(text is not None and verdict is None for text, verdict in zip(texts, found, strict=True))


def _merged(conversation: Conversation, before: str) -> dict[str, Any]:
    first, second = conversation.first.columns(before), conversation.second.columns(before)
    return {
        name: column([value for pair in zip(first[name], second[name], strict=True) for value in pair])
        for name in first
    }


def _flat(conversation: Conversation) -> list[Answer]:
    return [*conversation.first.answers, *conversation.second.answers]


def by_question(values: Sequence[float | None]) -> list[float | None]:
    """The mean of both turns, which are about one text and not independent; None where either has none."""
    pairs = [values[place : place + 2] for place in range(0, len(values), 2)]
    return [None if None in pair else _mean(pair) for pair in pairs]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
