"""GSM8K with the prompts, stop words and two answer extractions of lm-eval 0.4.13 (version 3.0 of both its tasks)."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

from bench.quality.exact_match import extracted, matches
from bench.quality.generation.ask import prompted
from bench.quality.generation.config import Gsm8kConfig, Gsm8kPrompt
from bench.quality.generation.data import chosen, read_jsonl
from bench.quality.generation.job import Asked, GradingJob, column, failures, token_metrics, validity
from bench.quality.generation.paired import Figures
from bench.quality.generation.session import Session
from bench.quality.job import Outcome

_STRICT = {
    Gsm8kPrompt.gsm8k: r"#### (\-?[0-9\.\,]+)",
    Gsm8kPrompt.gsm8k_cot: r"The answer is (\-?[0-9\.\,]+).",
}
_FLEXIBLE = r"(-?[$0-9.,]{2,})|(-?[0-9]+)"
_IGNORE = (",", r"\$", r"(?s).*#### ", r"\.$")
_STOP = {
    Gsm8kPrompt.gsm8k: ("Question:", "</s>", "<|im_end|>"),
    Gsm8kPrompt.gsm8k_cot: ("Q:", "</s>", "<|im_end|>"),
}


def strict(text: str, prompt: Gsm8kPrompt) -> str:
    """The number in the form that the examples show; first of them."""
    return extracted(text, _STRICT[prompt], last=False)


def flexible(text: str) -> str:
    """The last number."""
    return extracted(text, _FLEXIBLE, last=True)


def is_right(answer: str, solution: str) -> bool:
    """Whether an extracted answer is that of the solution, after `#### `."""
    right = solution.rpartition("####")[2].strip()
    return matches(answer, right, ignore=_IGNORE, case_sensitive=False)


def prefix(config: Gsm8kConfig) -> str:
    """The worked examples before every question; raises UsageError."""
    if config.prompt is Gsm8kPrompt.gsm8k_cot:
        text = resources.files("bench.quality").joinpath("texts/gsm8k_cot.jsonl").read_text(encoding="utf-8")
        shots = [json.loads(line) for line in text.splitlines()][: config.shots]
        return "".join(f"Q: {shot['question']}\nA: {shot['target']}\n\n" for shot in shots)
    path = config.shots_path()
    if path is None or not config.shots:
        return ""
    shots = read_jsonl(path, where="task.shots_data", fields=("question", "answer"))[: config.shots]
    return "".join(f"Question: {shot['question']}\nAnswer: {shot['answer']}\n\n" for shot in shots)


def ending(question: str, prompt: Gsm8kPrompt) -> str:
    """The question as it is asked."""
    return f"Q: {question}\nA:" if prompt is Gsm8kPrompt.gsm8k_cot else f"Question: {question}\nAnswer:"


def _rows(config: Gsm8kConfig) -> list[dict[str, Any]]:
    rows = read_jsonl(config.data_path(), where="task.data", fields=("question", "answer"))
    return chosen(rows, limit=config.limit, seed=config.seed)


def generate(config: Gsm8kConfig, session: Session) -> Asked:
    """Ask every question after the same examples."""
    before = prefix(config)
    sampling = config.sampling(*_STOP[config.prompt])
    requests = [
        prompted(config.api, before + ending(row["question"], config.prompt), sampling) for row in _rows(config)
    ]
    return Asked(requests=requests, answers=session.answers(requests, config.limits(session)))


def grade(config: Gsm8kConfig, own: Asked, base: Asked | None, job: GradingJob) -> Outcome:
    """Share of right answers: by the strict extraction (`exact_match`, paired) and by the flexible one."""
    rows = _rows(config)
    found = validity(job, own, base)

    def columns(asked: Asked, before: str) -> dict[str, list[Any]]:
        picked = {
            "strict": [None if text is None else strict(text, config.prompt) for text in asked.texts],
            "flexible": [None if text is None else flexible(text) for text in asked.texts],
        }
        made: dict[str, list[Any]] = {}
        for name, answers in picked.items():
            made[f"{before}{name}"] = answers
            made[f"{before}{name}_correct"] = [
                None if answer is None else is_right(answer, row["answer"])
                for answer, row in zip(answers, rows, strict=True)
            ]
        return made

    mine = columns(own, "")
    theirs = {} if base is None else columns(base, "base_")
    figures = Figures(margin=config.margin, same=job.same_model, found=found)
    figures.share("exact_match", mine["strict_correct"], theirs.get("base_strict_correct"))
    figures.share("exact_match_flexible", mine["flexible_correct"], theirs.get("base_flexible_correct"), flips=False)
    items = {
        "answer": column([row["answer"].rpartition("####")[2].strip() for row in rows]),
        **own.columns(),
        **{name: column(values) for name, values in mine.items()},
    }
    if base is not None:
        items |= base.columns("base_") | {name: column(values) for name, values in theirs.items()}
    return Outcome(
        metrics=figures.metrics | token_metrics(own, found),
        items=items,
        details={
            "protocol": {
                "prompt": f"lm-evaluation-harness {config.prompt.value}",
                "questions": len(rows),
                "shots": config.shots,
                "api": config.api.value,
                "limit": config.limit,
                "seed": config.seed,
            },
            "comparisons": figures.comparisons,
        },
        errors=failures(own),
        texts=[row["question"] for row in rows],
    )
