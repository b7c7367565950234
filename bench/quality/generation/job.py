"""What a task on a served model is given to grade, and how its items and paired figures are made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.base.progress import Progress
from bench.base.validity import Reason
from bench.quality.generation.ask import Answer, Request
from bench.quality.generation.session import Session
from bench.quality.intervals import share_interval
from bench.quality.job import value_metric


@dataclass(frozen=True, kw_only=True)
class GradingJob:
    """Where answers become figures; no server of the compared models runs any more.

    `own` and `base` tell who answered, `base` None without a baseline; they are one where the variant is the baseline.
    """

    own: Session
    base: Session | None
    work_dir: Path
    progress: Progress
    reasons: Sequence[Reason] = ()

    @property
    def same_model(self) -> bool:
        """Whether the variant is its own baseline."""
        return self.base is not None and self.base.key == self.own.key


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Requests with their answers, in one order."""

    requests: Sequence[Request]
    answers: Sequence[Answer]

    @property
    def texts(self) -> list[str | None]:
        """What was answered, thinking left out; None where nothing was."""
        return [answer.visible for answer in self.answers]

    def columns(self, before: str = "") -> dict[str, NDArray[Any]]:
        """Columns of items; the digest of what was asked is the same for both models and kept once."""
        named: dict[str, list[Any]] = {
            "output": [answer.text for answer in self.answers],
            "reasoning": [answer.reasoning for answer in self.answers],
            "finish_reason": [answer.finish_reason for answer in self.answers],
            "prompt_tokens": [answer.prompt_tokens for answer in self.answers],
            "output_tokens": [answer.output_tokens for answer in self.answers],
            "error": [answer.error for answer in self.answers],
        }
        columns = {f"{before}{name}": column(values) for name, values in named.items()}
        if not before:
            columns["prompt_digest"] = column([request.digest for request in self.requests])
        return columns


def column(values: Sequence[Any]) -> NDArray[Any]:
    """Any values with None for missing, shape (items,)."""
    made = np.empty(len(values), dtype=object)
    made[:] = values
    return made


def failures(*asked: Asked | None) -> dict[str, int]:
    """How many requests failed, by kind."""
    return dict(Counter(str(answer.error) for each in asked if each for answer in each.answers if answer.error))


def validity(job: GradingJob, *asked: Asked | None) -> list[str]:
    """The reasons that are on every figure of what was asked."""
    return [reason.value for reason in (*job.reasons, *((Reason.ERRORS,) if failures(*asked) else ()))]


def token_metrics(asked: Asked, found: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Mean length of answers, and the share that was cut off at `max_tokens`."""
    counts = [answer.output_tokens for answer in asked.answers if answer.output_tokens is not None]
    ends = [answer.finish_reason for answer in asked.answers if answer.error is None]
    cut = sum(reason == "length" for reason in ends)
    return {
        "output_tokens_mean": value_metric("tokens", float(np.mean(counts)) if counts else None, None, found),
        "truncated_share": value_metric(
            "ratio", cut / len(ends) if ends else None, share_interval(cut, len(ends)), found, n=len(ends)
        ),
    }
