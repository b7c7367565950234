"""What can be asked of the load generator: groups `scenario`, `workload`, `endpoint`, the root of `quantbench load`."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from bench.base.schema import not_identity, schema

MISSING: Any = "???"
"""OmegaConf's mark for a value that must be given."""


class TimeSource(StrEnum):
    """Where receive stamps come from: `auto` takes the kernel's where they can be had (Linux, no TLS)."""

    auto = "auto"
    kernel = "kernel"
    user = "user"


class Api(StrEnum):
    """Which OpenAI route is asked: `/v1/completions` or `/v1/chat/completions`."""

    completions = "completions"
    chat = "chat"


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
        _at_least(self, 1, "requests", "workers", "breaker")
        _at_least(self, 0, "warmup", "seed", "drop_waves")
        _positive(self, "connect_s", "first_token_s", "stall_s", "total_s")


@schema("scenario", "closed")
@dataclass(frozen=True, kw_only=True)
class ClosedConfig(ScenarioConfig):
    """Closed loop: `concurrency` users, each sending its next request `think_time_s` after its last one ended.

    With `duration_s` no request starts later than that; `requests` stays the upper bound.
    """

    kind: str = "closed"
    concurrency: int = 1
    duration_s: float | None = None
    think_time_s: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _at_least(self, 1, "concurrency")
        _at_least(self, 0, "think_time_s")
        if self.duration_s is not None:
            _positive(self, "duration_s")


@dataclass(frozen=True, kw_only=True)
class OpenConfig(ScenarioConfig):
    """Open loop: requests leave at drawn times, whatever the endpoint does."""

    rate_per_s: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _positive(self, "rate_per_s")


@schema("scenario", "constant")
@dataclass(frozen=True, kw_only=True)
class ConstantConfig(OpenConfig):
    """Open loop with equal gaps of 1 / `rate_per_s` seconds."""

    kind: str = "constant"


@schema("scenario", "poisson")
@dataclass(frozen=True, kw_only=True)
class PoissonConfig(OpenConfig):
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
    seed: int = 0
    extra: dict[str, Any] = field(default_factory=dict)
    """Further keys of the request body, passed through (`+workload.extra.cache_prompt=false`)."""

    def __post_init__(self) -> None:
        _at_least(self, 1, "output_tokens")
        _at_least(self, 0, "seed", "temperature")


@schema("workload", "synthetic")
@dataclass(frozen=True, kw_only=True)
class SyntheticConfig(WorkloadConfig):
    """Prompts of common English words, drawn from `seed`: about one token a word.

    With `tokenize` and an endpoint that offers a tokenize route, prompts are fitted to exactly `input_tokens`: of the
    whole prompt for completions, of the user's message without the chat template for chat. The summary says whether
    they were. With `unique`, no two prompts of a scenario begin alike, so that no prefix cache can answer for them.
    """

    kind: str = "synthetic"
    input_tokens: int = 32
    unique: bool = True
    tokenize: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        _at_least(self, 1, "input_tokens")


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


def _at_least(config: object, bound: int, *names: str) -> None:
    for name in names:
        if getattr(config, name) < bound:
            raise ValueError(f"{name} is {getattr(config, name)}; it must be at least {bound}")


def _positive(config: object, *names: str) -> None:
    for name in names:
        if not getattr(config, name) > 0:
            raise ValueError(f"{name} is {getattr(config, name)}; it must be greater than 0")
