"""What can be asked of the load generator: groups `scenario`, `workload`, `endpoint`, the root of `quantbench load`."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from bench.base.schema import identity_when_changed, not_identity, schema
from bench.load.slo import SloConfig

MISSING: Any = "???"
"""OmegaConf's mark for a value that must be given."""


class TimeSource(StrEnum):
    """Where receive stamps come from: `auto` takes the kernel's where they can be had (Linux, no TLS)."""

    auto = "auto"
    kernel = "kernel"
    user = "user"


class Api(StrEnum):
    """Which route is asked: OpenAI's `/v1/completions` or `/v1/chat/completions`, or llama.cpp's own `/completion`."""

    completions = "completions"
    chat = "chat"
    llama_cpp = "llama_cpp"


class ThinkTime(StrEnum):
    """How long a user thinks: always `think_time_s`, or an exponential time of that mean, drawn beforehand."""

    constant = "constant"
    exponential = "exponential"


class LengthKind(StrEnum):
    """How lengths are distributed; see LengthConfig."""

    fixed = "fixed"
    normal = "normal"
    lognormal = "lognormal"
    uniform = "uniform"
    empirical = "empirical"


@dataclass(frozen=True, kw_only=True)
class LengthConfig:
    """A distribution of lengths around a mean that is given beside it.

    `fixed`: always the mean. `normal`, `lognormal`: of that mean and standard deviation `deviation` (of the lengths
    themselves, not of their logarithms), rounded, values outside [`minimum`, `maximum`] moved to the nearer bound.
    `uniform`: every whole number from `minimum` to `maximum` alike. `empirical`: one of `values`, or of the numbers in
    the file `path` (one a line), each as likely as it is frequent there. The last two ignore the mean.
    """

    distribution: LengthKind = LengthKind.fixed
    deviation: float = 0.0
    minimum: int = 1
    maximum: int | None = None
    values: list[int] = field(default_factory=list)
    path: str | None = not_identity(None)

    def __post_init__(self) -> None:
        _at_least(self, 0, "deviation")
        _at_least(self, 1, "minimum")
        if self.maximum is not None and self.maximum < self.minimum:
            raise ValueError(f"maximum is {self.maximum}; it must be at least the minimum, {self.minimum}")
        if self.distribution is LengthKind.uniform and self.maximum is None:
            raise ValueError("uniform lengths need a maximum")
        if self.distribution is LengthKind.empirical and bool(self.values) == bool(self.path):
            raise ValueError("empirical lengths need values or a path, not both")
        if any(value < 1 for value in self.values):
            raise ValueError("values must all be at least 1")


@dataclass(frozen=True, kw_only=True)
class ScenarioConfig:
    """How a workload is asked: what all arrival processes share.

    Deadlines, in seconds: `connect_s` until the connection stands; `first_token_s` from sending until the body begins;
    `stall_s` between two reads of a body; `total_s` from sending until the end. Each has its own error kind.
    """

    kind: str = MISSING
    requests: int = 64
    warmup: int = 2
    """Requests sent and finished before the measurement begins; recorded, never in a metric."""
    cooldown: int = identity_when_changed(0)
    """The last so many requests are sent like the others, recorded, and in no metric."""
    cooldown_s: float = identity_when_changed(0.0)
    """The same for requests scheduled in the last so many seconds of sending."""
    workload: str = "default"
    """Which of a run's workloads is asked."""
    seed: int = 0
    workers: int = 1
    """Client processes; more of them when one core cannot keep up (see the `own_error` section of a summary)."""
    time_source: TimeSource = TimeSource.auto
    drop_waves: int = 2
    """Closed loop: how many first waves (of `concurrency` requests) are left out of the metrics."""
    breaker: int = 8
    """This many refusals in a row, or twice as many other failures beyond those in flight, end the scenario."""
    connect_s: float = not_identity(10.0)
    first_token_s: float = not_identity(300.0)
    stall_s: float = not_identity(120.0)
    total_s: float = not_identity(1200.0)
    keep_raw: bool = not_identity(False)
    """Keep the received bytes with their stamps in `raw/` after they have been parsed."""

    def __post_init__(self) -> None:
        _at_least(self, 1, "workers", "breaker")
        _at_least(self, self.fewest_requests(), "requests")
        _at_least(self, 0, "warmup", "seed", "drop_waves", "cooldown", "cooldown_s")
        if self.requests and self.cooldown >= self.requests:
            raise ValueError(f"cooldown is {self.cooldown}; it must be less than requests, {self.requests}")
        _positive(self, "connect_s", "first_token_s", "stall_s", "total_s")

    def files(self) -> dict[str, str]:
        """The files that what is asked depends on, by the name of their field."""
        return {}

    def fewest_requests(self) -> int:
        """The smallest `requests` that may be asked; 0 where the arrivals themselves say how many there are."""
        return 1


@schema("scenario", "closed")
@dataclass(frozen=True, kw_only=True)
class ClosedConfig(ScenarioConfig):
    """Closed loop: `concurrency` users, each sending its next request `think_time_s` after its last one ended.

    With `duration_s` no request starts later than that; `requests` stays the upper bound. The turns of a session count
    as requests; a user keeps a session to its end.
    """

    kind: str = "closed"
    concurrency: int = 1
    duration_s: float | None = None
    think_time_s: float = 0.0
    think: ThinkTime = identity_when_changed(ThinkTime.constant)  # noqa: RUF009 - a field specifier

    def __post_init__(self) -> None:
        super().__post_init__()
        _at_least(self, 1, "concurrency")
        _at_least(self, 0, "think_time_s")
        if self.duration_s is not None:
            _positive(self, "duration_s")


@dataclass(frozen=True, kw_only=True)
class OpenConfig(ScenarioConfig):
    """Open loop: requests leave at drawn times, whatever the endpoint does.

    Of a session the first turn does; each later one leaves `think_time_s` after the answer to the one before.
    """

    think_time_s: float = identity_when_changed(0.0)
    think: ThinkTime = identity_when_changed(ThinkTime.constant)  # noqa: RUF009 - a field specifier

    def __post_init__(self) -> None:
        super().__post_init__()
        _at_least(self, 0, "think_time_s")


@dataclass(frozen=True, kw_only=True)
class RatedConfig(OpenConfig):
    """Open loop at one rate throughout."""

    rate_per_s: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _positive(self, "rate_per_s")


@schema("scenario", "constant")
@dataclass(frozen=True, kw_only=True)
class ConstantConfig(RatedConfig):
    """Open loop with equal gaps of 1 / `rate_per_s` seconds."""

    kind: str = "constant"


@schema("scenario", "poisson")
@dataclass(frozen=True, kw_only=True)
class PoissonConfig(RatedConfig):
    """Open loop as a Poisson process: independent exponential gaps of mean 1 / `rate_per_s` seconds, from `seed`."""

    kind: str = "poisson"


@dataclass(frozen=True, kw_only=True)
class WorkloadConfig:
    """What is asked: what all workloads share."""

    kind: str = MISSING
    api: Api = Api.completions
    output_tokens: int = 128
    ignore_eos: bool = True
    """Ask the engine to generate exactly `output_tokens` (an extension most engines know)."""
    temperature: float = 0.0
    top_p: float | None = identity_when_changed(None)
    top_k: int | None = identity_when_changed(None)
    min_p: float | None = identity_when_changed(None)
    stop: list[str] = identity_when_changed(default_factory=list)  # noqa: RUF009 - a field specifier
    sampling_seed: int | None = identity_when_changed(None)
    """The request's own `seed`, for engines that sample."""
    system: str = identity_when_changed("")
    """A system message before the prompt; chat only. It is not counted in `input_tokens`."""
    seed: int = 0
    """Of what is drawn: prompts, lengths, which lines of a file."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Further keys of the request body, passed through (`+workload.extra.cache_prompt=false`); null takes one out."""

    def __post_init__(self) -> None:
        _at_least(self, 1, "output_tokens")
        _at_least(self, 0, "seed", "temperature")
        if self.system and self.api is not Api.chat:
            raise ValueError("system needs api=chat: completions have no system message")

    def files(self) -> dict[str, str]:
        """The files that what is asked depends on, by the name of their field."""
        return {}

    def shares_prefixes(self) -> bool:
        """Whether prompts begin alike on purpose, so that a prefix cache is part of what is measured."""
        return False


@schema("workload", "synthetic")
@dataclass(frozen=True, kw_only=True)
class SyntheticConfig(WorkloadConfig):
    """Prompts of common English words, drawn from `seed`: about one token a word.

    With `tokenize` and an endpoint that offers a tokenize route, prompts are fitted to exactly `input_tokens`: of the
    whole prompt for completions, of the user's message without the chat template for chat. The summary says whether
    they were. With `unique`, no two prompts of a scenario begin alike, so that no prefix cache can answer for them.

    `prefix_groups` > 0: a `prefix_share` of the prompts begin with the `prefix_tokens` words of one of so many groups,
    drawn anew for each; the rest of a prompt is its own. `turns` > 1: sessions of so many turns, each with the real
    answers to those before it; `input_tokens` and `output_tokens` are then those of a turn.
    """

    kind: str = "synthetic"
    input_tokens: int = 32
    unique: bool = True
    tokenize: bool = True
    input_lengths: LengthConfig = identity_when_changed(default_factory=LengthConfig)  # noqa: RUF009 - a field specifier
    """How the lengths of prompts spread around `input_tokens`."""
    output_lengths: LengthConfig = identity_when_changed(default_factory=LengthConfig)  # noqa: RUF009 - a field specifier
    prefix_groups: int = identity_when_changed(0)
    prefix_tokens: int = identity_when_changed(0)
    prefix_share: float = identity_when_changed(1.0)
    turns: int = identity_when_changed(1)
    turn_lengths: LengthConfig = identity_when_changed(default_factory=LengthConfig)  # noqa: RUF009 - a field specifier
    """How the number of turns of a session spreads around `turns`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _at_least(self, 1, "input_tokens", "turns")
        _at_least(self, 0, "prefix_groups", "prefix_tokens", "prefix_share")
        if self.prefix_share > 1:
            raise ValueError(f"prefix_share is {self.prefix_share}; it must be at most 1")
        if bool(self.prefix_groups) != bool(self.prefix_tokens):
            raise ValueError("prefix_groups and prefix_tokens go together: give both, or neither")
        if self.input_lengths.distribution is LengthKind.fixed and self.prefix_tokens > self.input_tokens:
            raise ValueError(f"prefix_tokens is {self.prefix_tokens}; it must be at most {self.input_tokens}")

    def files(self) -> dict[str, str]:
        lengths = {name: getattr(self, name).path for name in ("input_lengths", "output_lengths", "turn_lengths")}
        return {f"{name}.path": path for name, path in lengths.items() if path is not None}

    def shares_prefixes(self) -> bool:
        sessions = self.turns > 1 or self.turn_lengths.distribution is not LengthKind.fixed
        return sessions or self.prefix_groups > 0 or not self.unique


@schema("endpoint", "openai")
@dataclass(frozen=True, kw_only=True)
class EndpointConfig:
    """A server that speaks the OpenAI routes. `url` is its base, without `/v1`; `unix:/path` names a socket."""

    kind: str = "openai"
    url: str = MISSING
    model: str = MISSING
    api_key_env: str | None = not_identity(None)
    """Name of the environment variable that holds the API key; the key itself is never written anywhere."""
    ca_file: str | None = not_identity(None)
    """Certificate authorities for https, PEM; none: the system's."""
    check: bool = not_identity(True)
    """Ask `/v1/models` before the run, so that a wrong key or model is said at once."""


@schema(None, "load")
@dataclass(frozen=True, kw_only=True)
class LoadRunConfig:
    """Root of `quantbench load`: one scenario against one endpoint, its files in `out`."""

    endpoint: EndpointConfig = MISSING
    scenario: ScenarioConfig = MISSING
    workload: WorkloadConfig = MISSING
    out: str = MISSING
    fresh_prompts: bool = True
    """Draw the workload's seed anew, so that no prefix cache of an earlier run answers; the manifest records it."""
    slo: SloConfig = field(default_factory=SloConfig)
    """What the load is held to: the summary says whether it held, and gives its goodput."""


def _at_least(config: object, bound: int, *names: str) -> None:
    for name in names:
        if getattr(config, name) < bound:
            raise ValueError(f"{name} is {getattr(config, name)}; it must be at least {bound}")


def _positive(config: object, *names: str) -> None:
    for name in names:
        if not getattr(config, name) > 0:
            raise ValueError(f"{name} is {getattr(config, name)}; it must be greater than 0")
