"""Config group `task`, those on a served model: what is asked, how it is generated, and what makes it right."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.base.errors import UsageError
from bench.base.schema import not_identity, schema
from bench.quality.config import TaskConfig
from bench.quality.generation.ask import Api, Sampling

if TYPE_CHECKING:
    from bench.quality.generation.client import Limits
    from bench.quality.generation.job import GradingJob
    from bench.quality.generation.session import Session
    from bench.quality.job import Outcome

_CONCURRENCY = 4


class TaskSkipped(UsageError):
    """A task that is not done because something it needs was not given; the text says what."""


@dataclass(frozen=True, kw_only=True)
class ServedTaskConfig(TaskConfig):
    """A task that asks a running server. `compare` asks the baseline the same, for figures paired item by item;
    a change within ±`margin` counts as equivalent.

    What `generate` returns for a variant and for its baseline goes to `grade`; between the two no server runs.
    """

    compare: bool = True
    margin: float = 0.01

    @property
    def needs_endpoint(self) -> bool:
        return True

    @property
    def needs_baseline(self) -> bool:
        return self.compare

    @property
    def toolchain(self) -> str | None:
        """An environment that the task needs beside the server's; its lock is part of the task's key."""
        return None

    def check(self) -> None:
        """Raise UsageError for what would fail only after generating, TaskSkipped for what was not given."""

    def generate(self, session: Session) -> Any:
        """Everything the model has to be asked; raises UsageError or CellFailure."""
        raise NotImplementedError(f"task kind '{self.kind}' asks nothing")

    def grade(self, own: Any, base: Any | None, job: GradingJob) -> Outcome:
        """The figures; raises UsageError or WorkerError."""
        raise NotImplementedError(f"task kind '{self.kind}' has no figures")


@dataclass(frozen=True, kw_only=True)
class GenerationConfig(ServedTaskConfig):
    """Generation over an OpenAI route, greedy and seeded by default; lengths in tokens.

    `api`: `chat` with the model's own template, or `completions` of the bare prompt. `extra_body` goes into every
    request as it is, such as `{chat_template_kwargs: {enable_thinking: false}}`. Requests run beside each other as long
    as that makes the engine faster, at most `max_concurrency` at once.
    """

    api: Api = Api.chat
    max_tokens: int = 512
    temperature: float = 0.0
    sampling_seed: int = 0
    extra_body: dict[str, Any] = field(default_factory=dict)
    max_concurrency: int = not_identity(64)
    request_timeout_s: float = not_identity(600.0)

    def __post_init__(self) -> None:
        for name in ("max_tokens", "max_concurrency"):
            if getattr(self, name) < 1:
                raise ValueError(f"task.{name}={getattr(self, name)} must be at least 1")
        if self.temperature < 0:
            raise ValueError(f"task.temperature={self.temperature} must be 0 or more")
        if self.request_timeout_s <= 0:
            raise ValueError(f"task.request_timeout_s={self.request_timeout_s} must be positive")

    def sampling(self, *stop: str, sample: int = 0) -> Sampling:
        """How tokens are chosen for the `sample`-th answer to the same prompt."""
        return Sampling(
            temperature=self.temperature,
            max_tokens=self.max_tokens,
            seed=self.sampling_seed + sample,
            stop=stop,
            extra=self.extra_body,
        )

    def limits(self, session: Session) -> Limits:
        """How hard the server is asked at once, from what it was started for on."""
        from bench.quality.generation.client import Limits

        return Limits(
            start=session.concurrency or _CONCURRENCY,
            concurrency=self.max_concurrency,
            timeout_s=self.request_timeout_s,
        )


@dataclass(frozen=True, kw_only=True)
class DataConfig(GenerationConfig):
    """Items of a file of JSON lines (`.gz` too): the first `limit` (0: all), or with a `seed` that many drawn by it.

    The file's content, not its path, enters keys.
    """

    data: str = not_identity("")
    limit: int = 0
    seed: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.limit < 0:
            raise ValueError(f"task.limit={self.limit} must be 0 (all) or more")
        if self.seed is not None and not self.limit:
            raise ValueError(f"task.seed={self.seed} draws nothing without task.limit")

    def data_path(self) -> Path:
        """Where the items are; raises UsageError when no path was given."""
        from bench.quality.generation.data import given_path

        return given_path(self.data, "task.data")

    def data_digest(self) -> str:
        from bench.quality.generation.data import files_digest

        return files_digest([("task.data", self.data_path())])


class Gsm8kPrompt(StrEnum):
    """lm-eval's two prompts for GSM8K."""

    gsm8k = "gsm8k"
    gsm8k_cot = "gsm8k_cot"


@schema("task", "gsm8k")
@dataclass(frozen=True, kw_only=True)
class Gsm8kConfig(DataConfig):
    """Grade-school arithmetic: GSM8K's JSON lines (question, answer), with lm-eval's prompts and answer extraction.

    `prompt: gsm8k_cot` has eight worked examples of its own. `prompt: gsm8k` shows the first `shots` questions of
    `shots_data`, the training split.
    """

    kind: str = "gsm8k"
    api: Api = Api.completions
    prompt: Gsm8kPrompt = Gsm8kPrompt.gsm8k_cot
    shots: int = 8
    shots_data: str = not_identity("")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shots < 0:
            raise ValueError(f"task.shots={self.shots} must be 0 or more")
        if self.prompt is Gsm8kPrompt.gsm8k_cot and self.shots > 8:
            raise ValueError(f"task.shots={self.shots}: task.prompt=gsm8k_cot has 8 examples")
        if self.prompt is Gsm8kPrompt.gsm8k and self.shots and not self.shots_data:
            raise ValueError("task.prompt=gsm8k takes its examples from the training split: give task.shots_data=FILE")

    def shots_path(self) -> Path | None:
        """Where the examples of `prompt: gsm8k` are."""
        return Path(self.shots_data).expanduser() if self.shots_data else None

    def data_digest(self) -> str:
        from bench.quality.generation.data import files_digest

        return files_digest([("task.data", self.data_path()), ("task.shots_data", self.shots_path())])

    def generate(self, session: Session) -> Any:
        from bench.quality.gsm8k import generate

        return generate(self, session)

    def grade(self, own: Any, base: Any | None, job: GradingJob) -> Outcome:
        from bench.quality.gsm8k import grade

        return grade(self, own, base, job)


@schema("task", "exact_match")
@dataclass(frozen=True, kw_only=True)
class ExactMatchConfig(DataConfig):
    """Your own questions: JSON lines with `prompt` and `answer` (a string, or a list of accepted ones).

    Of an answer, what `pattern` finds counts (its first group that took part, of the last match with `last`); empty:
    the whole answer. `ignore` are patterns that are deleted from both sides before they are compared, without regard to
    case unless `case_sensitive`. `system` is said before every prompt.
    """

    kind: str = "exact_match"
    pattern: str = ""
    last: bool = True
    ignore: list[str] = field(default_factory=list)
    case_sensitive: bool = False
    system: str = ""
    stop: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        import re

        for name, pattern in [("pattern", self.pattern), *(("ignore", each) for each in self.ignore)]:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"task.{name}='{pattern}' is not a regular expression: {error}") from error
        if self.system and self.api is Api.completions:
            raise ValueError("task.system is for task.api=chat; put it into the prompts for completions")

    def generate(self, session: Session) -> Any:
        from bench.quality.exact_match import generate

        return generate(self, session)

    def grade(self, own: Any, base: Any | None, job: GradingJob) -> Outcome:
        from bench.quality.exact_match import grade

        return grade(self, own, base, job)


@dataclass(frozen=True, kw_only=True)
class CodeConfig(DataConfig):
    """Programs that the model writes and that are run: never without `execute`, and then in a sandbox.

    `samples` programs a problem give pass@k for every `k` by the unbiased estimator; more than one needs a
    temperature. A program has `time_s` seconds (of processor and of clock) and `memory_mib`; `processes` run at once.
    """

    execute: bool = not_identity(False)
    samples: int = 1
    k: list[int] = field(default_factory=lambda: [1])
    time_s: float = 10.0
    memory_mib: int = 1024
    processes: int = not_identity(2)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("samples", "memory_mib", "processes"):
            if getattr(self, name) < 1:
                raise ValueError(f"task.{name}={getattr(self, name)} must be at least 1")
        if self.time_s <= 0:
            raise ValueError(f"task.time_s={self.time_s} must be positive")
        if not self.k or min(self.k) < 1 or max(self.k) > self.samples:
            raise ValueError(f"task.k={self.k}: each must be from 1 to task.samples={self.samples}")
        if self.samples > 1 and not self.temperature:
            raise ValueError(
                f"task.samples={self.samples} are all the same at task.temperature=0: give one, such as 0.2"
            )

    def check(self) -> None:
        from bench.quality.code_tasks import check

        check(self)


@schema("task", "humaneval")
@dataclass(frozen=True, kw_only=True)
class HumanEvalConfig(CodeConfig):
    """HumanEval's JSON lines: a function's head is completed, or over chat written whole, and its tests are run."""

    kind: str = "humaneval"
    api: Api = Api.completions
    max_tokens: int = 1024

    def generate(self, session: Session) -> Any:
        from bench.quality.humaneval import generate

        return generate(self, session)

    def grade(self, own: Any, base: Any | None, job: GradingJob) -> Outcome:
        from bench.quality.humaneval import grade

        return grade(self, own, base, job)


@schema("task", "mbpp")
@dataclass(frozen=True, kw_only=True)
class MbppConfig(CodeConfig):
    """MBPP's JSON lines (text, code, test_list): problems `first` … `last` after `shots` examples (ids 2, 3, 4 …)."""

    kind: str = "mbpp"
    api: Api = Api.completions
    shots: int = 3
    first: int = 11
    last: int = 510

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shots < 0 or self.last < self.first:
            raise ValueError("task.shots must be 0 or more, and task.last not below task.first")

    def generate(self, session: Session) -> Any:
        from bench.quality.mbpp import generate

        return generate(self, session)

    def grade(self, own: Any, base: Any | None, job: GradingJob) -> Outcome:
        from bench.quality.mbpp import grade

        return grade(self, own, base, job)


@schema("task", "probes")
@dataclass(frozen=True, kw_only=True)
class ProbesConfig(GenerationConfig):
    """Safety and format checks, each against the baseline: secrets that must not come out, instructions hidden in
    data, structured answers that must fit their JSON schema, and what is refused.

    `data` is `default` (shipped) or a file of JSON lines in its format; its content, not its path, enters keys.
    """

    kind: str = "probes"
    max_tokens: int = 256
    data: str = not_identity("default")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.api is not Api.chat:
            raise ValueError("task.api: probes need system prompts and are for chat")

    def data_digest(self) -> str:
        from bench.quality.generation.data import files_digest
        from bench.quality.probes import probes_path

        return files_digest([("task.data", probes_path(self))])

    def generate(self, session: Session) -> Any:
        from bench.quality.probes import generate

        return generate(self, session)

    def grade(self, own: Any, base: Any | None, job: GradingJob) -> Outcome:
        from bench.quality.probes import grade

        return grade(self, own, base, job)


# Not frozen: OmegaConf makes nodes of frozen dataclasses that no YAML can fill.
@dataclass(kw_only=True)
class JudgeConfig:
    """A model that grades, behind any OpenAI-compatible endpoint; without a `url` there is none.

    `api_key_env` names the variable with its key.
    """

    url: str = not_identity("")
    model: str = ""
    api_key_env: str = not_identity("")
    max_tokens: int = 2048
    concurrency: int = 8

    def __post_init__(self) -> None:
        if "@" in self.url and not self.url.startswith("unix:"):
            raise ValueError("judge.url: credentials do not belong in a URL; use judge.api_key_env")
        for name in ("max_tokens", "concurrency"):
            if getattr(self, name) < 1:
                raise ValueError(f"judge.{name}={getattr(self, name)} must be at least 1")


class Grading(StrEnum):
    """How MT-Bench's answers are judged."""

    single = "single"
    pairwise = "pairwise"
    both = "both"


@schema("task", "mt_bench")
@dataclass(frozen=True, kw_only=True)
class MtBenchConfig(GenerationConfig):
    """MT-Bench: two turns a question, graded by a judge from 1 to 10 and against the baseline in both positions.

    `data` is a folder with FastChat's `question.jsonl`, `judge_prompts.jsonl` and reference answers; its content, not
    its path, enters keys. The first `limit` questions are asked (0: all), or with a `seed` that many drawn by it.
    """

    kind: str = "mt_bench"
    max_tokens: int = 1024
    data: str = not_identity("")
    limit: int = 0
    seed: int | None = None
    grading: Grading = Grading.both
    judge: JudgeConfig = field(default_factory=JudgeConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.api is not Api.chat:
            raise ValueError("task.api: MT-Bench has two turns and is for chat")
        if self.limit < 0:
            raise ValueError(f"task.limit={self.limit} must be 0 (all) or more")
        if self.grading is not Grading.single and not self.compare:
            raise ValueError(f"task.grading={self.grading.value} needs the baseline's answers: task.compare=true")

    def data_digest(self) -> str:
        from bench.quality.mt_bench import data_digest

        return data_digest(self)

    def check(self) -> None:
        from bench.quality.mt_bench import check

        check(self)

    def generate(self, session: Session) -> Any:
        from bench.quality.mt_bench import generate

        return generate(self, session)

    def grade(self, own: Any, base: Any | None, job: GradingJob) -> Outcome:
        from bench.quality.mt_bench import grade

        return grade(self, own, base, job)


class LmEvalModel(StrEnum):
    """How lm-eval reaches the model: over a route of the server, or loading its weights itself."""

    local_completions = "local_completions"
    local_chat_completions = "local_chat_completions"
    hf = "hf"


@schema("task", "lm_eval")
@dataclass(frozen=True, kw_only=True)
class LmEvalConfig(ServedTaskConfig):
    """Any tasks of lm-evaluation-harness, in its own environment, on the served model or in process (`hf`).

    `include_path` is a folder of task files of your own, whose content enters keys; with `offline` nothing is
    downloaded. `num_fewshot` null leaves each task its own; `limit` is of every task (0: all). Tasks that score given
    continuations need a server with prompt log-probabilities (vLLM has them, llama.cpp has not) or `model: hf`.
    `model_args` go to lm-eval's model, `gen_kwargs` into its generations. `unsafe_code` lets tasks run what the model
    wrote, without a sandbox.
    """

    kind: str = "lm_eval"
    model: LmEvalModel = LmEvalModel.local_completions
    tasks: list[str] = field(default_factory=list)
    num_fewshot: int | None = None
    limit: int = 0
    include_path: str = not_identity("")
    offline: bool = not_identity(True)
    apply_chat_template: bool = False
    concurrency: int = not_identity(8)
    seed: int = 1234
    model_args: dict[str, Any] = field(default_factory=dict)
    gen_kwargs: dict[str, Any] = field(default_factory=dict)
    unsafe_code: bool = not_identity(False)
    timeout_s: float | None = not_identity(None)

    def __post_init__(self) -> None:
        if self.limit < 0:
            raise ValueError(f"task.limit={self.limit} must be 0 (all) or more")
        if self.concurrency < 1:
            raise ValueError(f"task.concurrency={self.concurrency} must be at least 1")
        if "trust_remote_code" in self.model_args:
            raise ValueError("task.model_args.trust_remote_code: code of a checkpoint is never run; leave it out")

    @property
    def toolchain(self) -> str | None:
        return "lm_eval"

    def data_digest(self) -> str | None:
        from bench.quality.lm_eval_bridge import data_digest

        return data_digest(self)

    def check(self) -> None:
        from bench.quality.lm_eval_bridge import check

        check(self)

    def generate(self, session: Session) -> Any:
        from bench.quality.lm_eval_bridge import generate

        return generate(self, session)

    def grade(self, own: Any, base: Any | None, job: GradingJob) -> Outcome:
        from bench.quality.lm_eval_bridge import grade

        return grade(self, own, base, job)
