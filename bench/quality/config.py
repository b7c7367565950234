"""Config group `task`: what is measured, and over which text."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from bench.base.schema import not_identity, schema

if TYPE_CHECKING:
    from bench.quality.job import Outcome, TaskJob

#: The text that ships with this package.
DEFAULT_TEXT = "default"


class ScoreFrom(StrEnum):
    """Where in a window scoring begins."""

    second_half = "second_half"
    second_token = "second_token"  # noqa: S105 - no password


@dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """Base of the group."""

    kind: str = "?"

    @property
    def needs_baseline(self) -> bool:
        """Whether the task compares with a baseline."""
        return False

    def text_path(self) -> Path | None:
        """The text the task reads, whose digest belongs in its key; None for tasks without one. Raises UsageError."""
        return None

    def run(self, job: TaskJob) -> Outcome:
        """Measure; raises UsageError or WorkerError."""
        raise NotImplementedError(f"task kind '{self.kind}' cannot be measured")


@dataclass(frozen=True, kw_only=True)
class WindowedTextConfig(TaskConfig):
    """A text cut into windows of `context` tokens, the first `windows` of them (0: all).

    `text` is `default` (shipped) or the path of a UTF-8 file; its content, not its path, enters keys. From
    `score_from: second_half` the first half of a window is only context, as llama-perplexity does.
    """

    text: str = not_identity(DEFAULT_TEXT)
    context: int = 512
    windows: int = 8
    score_from: ScoreFrom = ScoreFrom.second_half

    def __post_init__(self) -> None:
        if self.context < 4:
            raise ValueError(f"task.context={self.context} must be at least 4 tokens")
        if self.windows < 0:
            raise ValueError(f"task.windows={self.windows} must be 0 (all) or more")
        if not self.text.strip():
            raise ValueError(f"task.text is empty; give a file, or '{DEFAULT_TEXT}' for the shipped text")

    def text_path(self) -> Path:
        from bench.quality.texts import text_file

        return text_file(self.text)


@schema("task", "perplexity")
@dataclass(frozen=True, kw_only=True)
class PerplexityConfig(WindowedTextConfig):
    """Perplexity, mean negative log-likelihood and bits per byte of a text."""

    kind: str = "perplexity"

    def run(self, job: TaskJob) -> Outcome:
        from bench.quality.perplexity import measure

        return measure(self, job)


@schema("task", "divergence")
@dataclass(frozen=True, kw_only=True)
class DivergenceConfig(WindowedTextConfig):
    """KL(baseline ‖ variant) of every scored token over the whole vocabulary.

    `noise_floor` also scores the baseline against itself, which takes as long again.
    """

    kind: str = "divergence"
    noise_floor: bool = False

    @property
    def needs_baseline(self) -> bool:
        return True

    def run(self, job: TaskJob) -> Outcome:
        from bench.quality.divergence import measure

        return measure(self, job)
