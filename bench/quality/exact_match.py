"""Generation tasks whose answer is compared with the right one, after it was found in the text by a pattern."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from bench.base.errors import UsageError
from bench.quality.generation.ask import Api, Request, chat, completion, system, user
from bench.quality.generation.config import ExactMatchConfig
from bench.quality.generation.data import chosen, read_jsonl
from bench.quality.generation.job import Asked, GradingJob, column, failures, token_metrics, validity
from bench.quality.generation.paired import Figures
from bench.quality.generation.session import Session
from bench.quality.job import Outcome

#: What an extraction that found nothing gives, as in lm-eval.
INVALID = "[invalid]"


def extracted(text: str, pattern: str, *, last: bool) -> str:
    """The first group that took part in the first or last match of `pattern`; the whole text where there is no pattern.

    `INVALID` when nothing matches. What lm-eval's filter `regex` does with `group_select` 0 or -1.
    """
    if not pattern:
        return text.strip()
    matches = re.findall(pattern, text)
    if not matches:
        return INVALID
    match = matches[-1 if last else 0]
    if isinstance(match, tuple):
        match = next((group for group in match if group), INVALID)
    return str(match).strip()


def matches(answer: str, right: str, *, ignore: Sequence[str], case_sensitive: bool) -> bool:
    """Whether two answers are the same once all that matches `ignore` is deleted: lm-eval's metric `exact_match`."""
    for pattern in ignore:
        answer, right = re.sub(pattern, "", answer), re.sub(pattern, "", right)
    return answer == right if case_sensitive else answer.lower() == right.lower()


def _rows(config: ExactMatchConfig) -> list[dict[str, Any]]:
    rows = read_jsonl(config.data_path(), where="task.data", fields=("prompt", "answer"))
    for number, row in enumerate(rows, start=1):
        answers = row["answer"] if isinstance(row["answer"], list) else [row["answer"]]
        if not isinstance(row["prompt"], str) or not answers or not all(isinstance(each, str) for each in answers):
            raise UsageError(
                f"task.data={config.data}, item {number}: 'prompt' must be a string, 'answer' one or a list of strings"
            )
    return chosen(rows, limit=config.limit, seed=config.seed)


def _request(config: ExactMatchConfig, prompt: str) -> Request:
    sampling = config.sampling(*config.stop)
    if config.api is Api.completions:
        return completion(prompt, sampling)
    return chat([*([system(config.system)] if config.system else []), user(prompt)], sampling)


def generate(config: ExactMatchConfig, session: Session) -> Asked:
    """Ask every question."""
    requests = [_request(config, row["prompt"]) for row in _rows(config)]
    return Asked(requests=requests, answers=session.answers(requests, config.limits(session)))


def grade(config: ExactMatchConfig, own: Asked, base: Asked | None, job: GradingJob) -> Outcome:
    """Share of answers that match."""
    rows = _rows(config)

    def verdicts(asked: Asked) -> tuple[list[str | None], list[bool | None]]:
        found = [None if text is None else extracted(text, config.pattern, last=config.last) for text in asked.texts]
        right = [
            None
            if answer is None
            else any(
                matches(answer, each, ignore=config.ignore, case_sensitive=config.case_sensitive)
                for each in (row["answer"] if isinstance(row["answer"], list) else [row["answer"]])
            )
            for answer, row in zip(found, rows, strict=True)
        ]
        return found, right

    found = validity(job, own, base)
    picked, right = verdicts(own)
    base_picked, base_right = (None, None) if base is None else verdicts(base)
    items = {
        "id": column([str(row.get("id", number)) for number, row in enumerate(rows)]),
        "answer": column([str(row["answer"]) for row in rows]),
        **own.columns(),
        "picked": column(picked),
        "correct": column(right),
    }
    if base is not None and base_picked is not None and base_right is not None:
        items |= base.columns("base_")
        items |= {"base_picked": column(base_picked), "base_correct": column(base_right)}
    figures = Figures(margin=config.margin, same=job.same_model, found=found)
    figures.share("exact_match", right, base_right)
    return Outcome(
        metrics=figures.metrics | token_metrics(own, found),
        items=items,
        details={
            "protocol": {"questions": len(rows), "pattern": config.pattern, "limit": config.limit},
            "comparisons": figures.comparisons,
        },
        errors=failures(own),
        texts=[row["prompt"] for row in rows],
    )
