"""Config group `task`, those that ask a running server for log-probabilities: what serves is what is scored."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.base.schema import not_identity, schema
from bench.quality.config import DEFAULT_QUESTIONS, MultipleChoiceConfig, ScoreFrom, WindowedTextConfig
from bench.quality.generation.ask import Api
from bench.quality.generation.config import ServedTaskConfig

if TYPE_CHECKING:
    from bench.quality.generation.job import GradingJob
    from bench.quality.generation.session import Session
    from bench.quality.job import Outcome


@schema("task", "served_multiple_choice")
@dataclass(frozen=True, kw_only=True)
class ServedMultipleChoiceConfig(ServedTaskConfig):
    """MMLU's questions and prompts, one request a question, answered by the likeliest letter of the first token.

    `data`, `subjects`, `shots`, `limit` and `seed` as for `multiple_choice`. `api: completions` gives the bare prompt;
    `chat` the model's own template, with thinking switched off by `chat_template_kwargs`.
    """

    kind: str = "served_multiple_choice"
    data: str = not_identity(DEFAULT_QUESTIONS)
    subjects: list[str] = field(default_factory=list)
    shots: int = 5
    limit: int = 0
    seed: int | None = None
    api: Api = Api.completions
    chat_template_kwargs: dict[str, Any] = field(default_factory=lambda: {"enable_thinking": False})
    max_concurrency: int = not_identity(64)

    def __post_init__(self) -> None:
        self.questions()

    def questions(self) -> MultipleChoiceConfig:
        """The same questions as a scored task."""
        return MultipleChoiceConfig(
            data=self.data,
            subjects=list(self.subjects),
            shots=self.shots,
            limit=self.limit,
            seed=self.seed,
            compare=self.compare,
            margin=self.margin,
        )

    def data_digest(self) -> str:
        return self.questions().data_digest()

    def generate(self, session: Session) -> Any:
        from bench.quality.served.letters import generate

        return generate(self, session)

    def grade(self, own: Any, base: Any | None, job: GradingJob) -> Outcome:
        from bench.quality.served.letters import grade

        return grade(self, own, base, job)


@schema("task", "served_divergence")
@dataclass(frozen=True, kw_only=True)
class ServedDivergenceConfig(ServedTaskConfig):
    """Perplexity of a text on a running server, and a lower bound of the divergence from the baseline.

    The text is cut as for `divergence`. At every scored place the `top` likeliest tokens are asked for.
    """

    kind: str = "served_divergence"
    text: str = not_identity("default")
    context: int = 512
    windows: int = 8
    score_from: ScoreFrom = ScoreFrom.second_half
    top: int = 20
    max_concurrency: int = not_identity(16)

    def __post_init__(self) -> None:
        self.cut()
        if self.top < 1:
            raise ValueError(f"task.top={self.top} must be 1 or more")

    def cut(self) -> WindowedTextConfig:
        """How the text is cut."""
        return WindowedTextConfig(
            text=self.text, context=self.context, windows=self.windows, score_from=self.score_from
        )

    def text_path(self) -> Path:
        return self.cut().text_path()

    def generate(self, session: Session) -> Any:
        from bench.quality.served.text import generate

        return generate(self, session)

    def grade(self, own: Any, base: Any | None, job: GradingJob) -> Outcome:
        from bench.quality.served.text import grade

        return grade(self, own, base, job)


@schema("task", "served_rescoring")
@dataclass(frozen=True, kw_only=True)
class ServedRescoringConfig(ServedTaskConfig):
    """What a server generates, scored again as a prompt: whether decoding and prefill kernels agree.

    The first `context` tokens of each of `windows` parts of the text are continued greedily by `tokens`.
    """

    kind: str = "served_rescoring"
    compare: bool = False
    text: str = not_identity("default")
    context: int = 128
    windows: int = 8
    tokens: int = 64
    max_concurrency: int = not_identity(16)

    def text_path(self) -> Path:
        return WindowedTextConfig(text=self.text).text_path()

    def generate(self, session: Session) -> Any:
        from bench.quality.served.rescoring import generate

        return generate(self, session)

    def grade(self, own: Any, base: Any | None, job: GradingJob) -> Outcome:
        from bench.quality.served.rescoring import grade

        return grade(self, own, job)
