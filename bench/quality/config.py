"""Config group `task`: what is measured, and over which text."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from bench.base.schema import identity_when_changed, not_identity, schema
from bench.quality.hub_texts import hub_text

if TYPE_CHECKING:
    from bench.quality.job import Outcome, TaskJob

#: The text that ships with this package.
DEFAULT_TEXT = "default"
#: The questions that ship with this package.
DEFAULT_QUESTIONS = "default"
#: MMLU's own questions, of a hub.
MMLU = "mmlu"


class ScoreFrom(StrEnum):
    """Where in a window scoring begins."""

    second_half = "second_half"
    second_token = "second_token"  # noqa: S105 - no password


class Bos(StrEnum):
    """Whether a window begins with the vocabulary's BOS: as the vocabulary says, or in any case."""

    auto = "auto"
    always = "always"
    never = "never"


class Method(StrEnum):
    """What of an answer is scored: its letter as the one next token, or all of its tokens."""

    letters = "letters"
    likelihood = "likelihood"


@dataclass(frozen=True, kw_only=True)
class StopWhen:
    """From where on a variant is hopeless: perplexity and divergence are then measured first, and all other tasks are
    skipped once a figure's whole interval is above its bound. None: no bound.

    `divergence`: its mean, nat per token; `perplexity_ratio`: to the baseline's, 1.1 is 10 % more.
    """

    divergence: float | None = None
    perplexity_ratio: float | None = None

    @property
    def given(self) -> bool:
        """Whether there is any bound."""
        return self.divergence is not None or self.perplexity_ratio is not None


@dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """Base of the group."""

    kind: str = "?"

    @property
    def needs_baseline(self) -> bool:
        """Whether the task compares with a baseline."""
        return False

    @property
    def needs_endpoint(self) -> bool:
        """Whether the task asks a running server instead of scoring: bench.quality.generation.config has those."""
        return False

    def text_path(self) -> Path | None:
        """The text the task reads, whose digest belongs in its key; None for tasks without one.

        Raises UsageError, and ToolchainError when it is a hub's that cannot be reached.
        """
        return None

    def data_digest(self) -> str | None:
        """What identifies the data the task reads; None for tasks without any. Raises UsageError."""
        from bench.quality.texts import text_digest

        path = self.text_path()
        return None if path is None else text_digest(path)

    def run(self, job: TaskJob) -> Outcome:
        """Measure; raises UsageError or WorkerError."""
        raise NotImplementedError(f"task kind '{self.kind}' cannot be measured")


@dataclass(frozen=True, kw_only=True)
class WindowedTextConfig(TaskConfig):
    """A text cut into windows of `context` tokens, the first `windows` of them (0: all).

    `text` is `default` (shipped), `wikitext2` or `hub:ORG/NAME/PATH@COMMIT` (of a hub's datasets), or the path of a
    UTF-8 file; its content, not its name, enters keys. From `score_from: second_half` the first half of a window is
    only context, as llama-perplexity does. With a `stride`, windows overlap and each scores its last `stride` tokens;
    0: they lie side by side.
    """

    text: str = not_identity(DEFAULT_TEXT)
    context: int = 512
    windows: int = 8
    score_from: ScoreFrom = ScoreFrom.second_half
    stride: int = identity_when_changed(0)
    bos: Bos = identity_when_changed(Bos.auto)  # noqa: RUF009 - a field specifier

    def __post_init__(self) -> None:
        if self.context < 4:
            raise ValueError(f"task.context={self.context} must be at least 4 tokens")
        if self.windows < 0:
            raise ValueError(f"task.windows={self.windows} must be 0 (all) or more")
        if not 0 <= self.stride < self.context:
            raise ValueError(f"task.stride={self.stride} must be 0 (side by side) or below task.context={self.context}")
        if not self.text.strip():
            raise ValueError(f"task.text is empty; give a file, or '{DEFAULT_TEXT}' for the shipped text")
        hub_text(self.text)

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

    `noise_floor` also scores the baseline against itself, which takes as long again. Differences of the mean nll, and
    of the divergence from that floor, count as equivalent within ±`margin` (nat per token).
    """

    kind: str = "divergence"
    noise_floor: bool = False
    margin: float = not_identity(0.01)

    @property
    def needs_baseline(self) -> bool:
        return True

    def run(self, job: TaskJob) -> Outcome:
        from bench.quality.divergence import measure

        return measure(self, job)


@schema("task", "multiple_choice")
@dataclass(frozen=True, kw_only=True)
class MultipleChoiceConfig(TaskConfig):
    """Questions with four choices, answered by the likeliest letter, in MMLU's format and with its prompts.

    `data` is `default` (shipped, plumbing only), `mmlu` (of a hub) or a folder of MMLU's CSV or Parquet files; its
    content, not its path, enters keys. Of each subject the first `limit` questions are asked (0: all), or with a `seed`
    that many drawn by it. `method: likelihood` scores letters of several tokens too. `compare` also scores the
    baseline's answers, for figures paired question by question; a change of the accuracy within ±`margin` counts as
    equivalent.
    """

    kind: str = "multiple_choice"
    data: str = not_identity(DEFAULT_QUESTIONS)
    subjects: list[str] = field(default_factory=list)
    shots: int = 5
    limit: int = 0
    seed: int | None = None
    compare: bool = True
    method: Method = identity_when_changed(Method.letters)  # noqa: RUF009 - a field specifier
    margin: float = not_identity(0.01)

    def __post_init__(self) -> None:
        if not self.data.strip():
            raise ValueError(f"task.data is empty; give a folder, or '{DEFAULT_QUESTIONS}' for the shipped questions")
        for name in ("shots", "limit"):
            if getattr(self, name) < 0:
                raise ValueError(f"task.{name}={getattr(self, name)} must be 0 or more")
        if self.seed is not None and not self.limit:
            raise ValueError(f"task.seed={self.seed} draws nothing without task.limit")

    @property
    def needs_baseline(self) -> bool:
        return self.compare

    def data_digest(self) -> str:
        from bench.quality.mmlu import data_digest

        return data_digest(self)

    def run(self, job: TaskJob) -> Outcome:
        from bench.quality.multiple_choice import measure

        return measure(self, job)


class ChoiceFormat(StrEnum):
    """How rows become prompts and choices; all but `plain` as lm-eval's tasks of that name do it."""

    arc = "arc"
    hellaswag = "hellaswag"
    truthfulqa_mc1 = "truthfulqa_mc1"
    truthfulqa_mc2 = "truthfulqa_mc2"
    plain = "plain"


@schema("task", "choices")
@dataclass(frozen=True, kw_only=True)
class ChoicesConfig(TaskConfig):
    """Questions whose answers are texts, picked by the log-likelihood of each as a whole.

    `data` is a Parquet, CSV or JSON-lines file, or hub:ORG/NAME/PATH@COMMIT; its content, not its name, enters keys.
    `shots` rows of `shots_data`, the first ones, go before every question. Of the rows the first `limit` are asked (0:
    all), or with a `seed` that many drawn by it. `compare` also scores the baseline, for figures paired question by
    question; a change within ±`margin` counts as equivalent.
    """

    kind: str = "choices"
    format: ChoiceFormat = ChoiceFormat.plain
    data: str = not_identity("")
    shots: int = 0
    shots_data: str = not_identity("")
    limit: int = 0
    seed: int | None = None
    compare: bool = True
    margin: float = not_identity(0.01)

    def __post_init__(self) -> None:
        for name in ("shots", "limit"):
            if getattr(self, name) < 0:
                raise ValueError(f"task.{name}={getattr(self, name)} must be 0 or more")
        if self.seed is not None and not self.limit:
            raise ValueError(f"task.seed={self.seed} draws nothing without task.limit")
        if self.shots and self.format in (ChoiceFormat.truthfulqa_mc1, ChoiceFormat.truthfulqa_mc2):
            raise ValueError(f"task.shots={self.shots}: {self.format} has its own six examples in every prompt")

    @property
    def needs_baseline(self) -> bool:
        return self.compare

    def data_digest(self) -> str:
        from bench.quality.choice_formats import data_digest

        return data_digest(self)

    def run(self, job: TaskJob) -> Outcome:
        from bench.quality.choices import measure

        return measure(self, job)
