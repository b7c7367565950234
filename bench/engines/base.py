"""What every engine is: a config, a support answer, a command line, and words for what goes wrong.

An engine is one module in this package (or a plugin): a config dataclass registered with `schema("engine", kind)`
beside a light class registered with `engine(kind)`. Nothing else of the harness names engines.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, TypeVar

from bench.base.errors import FailureKind, UsageError, nearest
from bench.base.schema import identity_when_changed, not_identity
from bench.base.validity import Reason
from bench.engines.container import ContainerConfig
from bench.engines.flags import Flag, refusal
from bench.engines.footprint import Footprint

if TYPE_CHECKING:
    from bench.engines.metrics import MetricMap
    from bench.engines.scoring import Scorer
    from bench.engines.served_logprobs import LogprobRoute
    from bench.toolchains.config import Accelerator
    from bench.toolchains.toolchain import Toolchain


# Not frozen: where the default is None, OmegaConf makes nodes of frozen dataclasses that no YAML can fill.
@dataclass(kw_only=True)
class SpeculativeConfig:
    """Speculative decoding: `method` in the engine's own word (ngram, eagle, draft_model …); empty: none.

    `model` is the draft model where the method has one, `tokens` are proposed at once.
    """

    method: str = ""
    model: str | None = None
    tokens: int = 4


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """Settings every engine has. Lengths are in tokens, deadlines in seconds.

    Engines derive from this and give `kind`; what an engine cannot do it refuses in `support`. What starts as null is
    left to the engine: `max_batched_tokens` are processed in one step over all sequences, `memory_fraction` is the
    share of a GPU's memory for weights and KV cache, `swap_space_gib` is main memory for preempted sequences,
    `quantization` overrides what the checkpoint says. `env` is set for the server, `pass_env` names variables that it
    is given from this process (their values, such as tokens, are recorded nowhere).

    Where the engine comes from: its toolchain, unless `executable` names a program of your own, `container` an image,
    or `base_url` a server that runs already. Then nothing is started; `api_key_env` names the variable with its key,
    `served_name` the model where it serves several. Where no place is given, an engine without a toolchain is
    `own_program`, found on PATH.

    A start is given up after `start_timeout_s` without any sign of progress (log, processor time, reading), and after
    `start_limit_s` in any case. A server that does not answer for `unhealthy_after_s` under load is given up too;
    null: never.
    """

    own_program: ClassVar[str] = ""

    kind: str = "?"
    toolchain: str = ""
    max_model_len: int = 2048
    max_sequences: int = 4
    threads: int | None = None
    extra_args: list[str] = field(default_factory=list)
    tensor_parallel_size: int | None = identity_when_changed(None)
    pipeline_parallel_size: int | None = identity_when_changed(None)
    max_batched_tokens: int | None = identity_when_changed(None)
    memory_fraction: float | None = identity_when_changed(None)
    swap_space_gib: float | None = identity_when_changed(None)
    attention_backend: str | None = identity_when_changed(None)
    prefix_caching: bool | None = identity_when_changed(None)
    chunked_prefill: bool | None = identity_when_changed(None)
    cuda_graphs: bool | None = identity_when_changed(None)
    dtype: str | None = identity_when_changed(None)
    kv_cache_dtype: str | None = identity_when_changed(None)
    block_size: int | None = identity_when_changed(None)
    speculative: SpeculativeConfig = identity_when_changed(default_factory=SpeculativeConfig)  # noqa: RUF009 - a field
    quantization: str | None = identity_when_changed(None)
    env: dict[str, str] = identity_when_changed(default_factory=dict)  # noqa: RUF009 - a field
    pass_env: list[str] = not_identity(default_factory=list)  # noqa: RUF009 - a field
    executable: str = identity_when_changed("")
    container: ContainerConfig = identity_when_changed(default_factory=ContainerConfig)  # noqa: RUF009 - a field
    base_url: str = identity_when_changed("")
    served_name: str = identity_when_changed("")
    api_key_env: str = not_identity("")
    start_timeout_s: float = not_identity(300.0)
    start_limit_s: float = not_identity(3600.0)
    unhealthy_after_s: float | None = not_identity(30.0)
    stop_grace_s: float = not_identity(5.0)

    @property
    def speculation(self) -> SpeculativeConfig | None:
        """How tokens are speculated; None where they are not."""
        return self.speculative if self.speculative.method else None

    def __post_init__(self) -> None:
        for name in ("max_model_len", "max_sequences"):
            if getattr(self, name) < 1:
                raise ValueError(f"engine.{name}={getattr(self, name)} must be at least 1")
        for name in ("tensor_parallel_size", "pipeline_parallel_size", "max_batched_tokens", "block_size"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"engine.{name}={getattr(self, name)} must be at least 1, or null for the default")
        if self.memory_fraction is not None and not 0 < self.memory_fraction <= 1:
            raise ValueError(f"engine.memory_fraction={self.memory_fraction} must be above 0 and at most 1")
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"engine.threads={self.threads} must be at least 1, or null for the engine's default")
        for name in ("start_timeout_s", "start_limit_s", "unhealthy_after_s"):
            if getattr(self, name) is not None and getattr(self, name) <= 0:
                raise ValueError(f"engine.{name}={getattr(self, name)} must be positive")
        if not self.speculative.method and self.speculative != SpeculativeConfig():
            raise ValueError("engine.speculative has settings and no method: give engine.speculative.method too")
        if self.speculative.tokens < 1:
            raise ValueError(f"engine.speculative.tokens={self.speculative.tokens} must be at least 1")
        self._check_mode()

    def _check_mode(self) -> None:
        places = {"executable": self.executable, "container.image": self.container.image, "base_url": self.base_url}
        given = [name for name, value in places.items() if value]
        if len(given) > 1:
            raise ValueError(f"engine.{given[0]} and engine.{given[1]} are two places for one engine; give one of them")
        for name in ("served_name", "api_key_env"):
            if getattr(self, name) and not self.base_url:
                raise ValueError(f"engine.{name} belongs to a server that runs already: give engine.base_url too")
        if not self.container.image:
            for name, value in vars(ContainerConfig()).items():
                if getattr(self.container, name) != value:
                    raise ValueError(f"engine.container.{name} belongs to an image: give engine.container.image too")
        if self.base_url:
            self._check_url()
        if self.own_program and not given and not self.toolchain:
            object.__setattr__(self, "executable", self.own_program)  # as if it had been given: keys tell where from

    def _check_url(self) -> None:
        """Refuse what is no URL, before it is written anywhere; one with a password is not even repeated."""
        from bench.engines.attach import in_engine_terms
        from bench.load.target import parse_url

        if "@" in self.base_url and not self.base_url.startswith("unix:"):
            raise ValueError("engine.base_url: credentials do not belong in a URL; use engine.api_key_env")
        try:
            parse_url(self.base_url)
        except UsageError as error:
            raise ValueError(in_engine_terms(str(error))) from error

    @property
    def uses_toolchain(self) -> bool:
        """Whether the engine runs out of its toolchain."""
        return not (self.executable or self.container.image or self.base_url)


SCORING_TOOLCHAIN = "llama_cpp"
#: The format of a variant whose weights are with the server that serves it.
SERVED_ELSEWHERE = "served"


class SupportAnswer(StrEnum):
    """Whether an engine serves a format here."""

    YES = "yes"
    NO = "no"
    UNVERIFIED = "unverified"


@dataclass(frozen=True, kw_only=True)
class Support:
    """A typed answer with its reason (empty only for yes)."""

    answer: SupportAnswer
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """What an engine is asked to serve: a GGUF file or an HF directory, under a name.

    `load_method`: how it shall quantize the model while loading, in common terms; empty: not at all.
    """

    format: str
    path: Path
    name: str
    load_method: str = ""


@dataclass(frozen=True, kw_only=True)
class Launch:
    """Where a server shall listen. The key travels in the environment, never in the command line."""

    host: str
    port: int
    api_key: str


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command line, with the variables that are set for it. `secret_env` is never recorded.

    `files` are written before the start, by name; a word of `argv` that is one of `file_word(name)` becomes its path.
    """

    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    secret_env: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)


def file_word(name: str) -> str:
    """What stands in a command line for the path of a file that is written before the start."""
    return f"{{file:{name}}}"


@dataclass(frozen=True, kw_only=True)
class StartPhase:
    """A line in an engine's log that tells what it does while it starts; `words` may use the pattern's groups."""

    pattern: re.Pattern[str]
    words: str


@dataclass(frozen=True, kw_only=True)
class LogPattern:
    """A line in an engine's log that tells why it failed, and what the user can do."""

    pattern: re.Pattern[str]
    kind: FailureKind
    advice: str


@dataclass(frozen=True, kw_only=True)
class EngineMemory:
    """What an engine says that it allocated, over all devices, in bytes; None where it does not say."""

    weights_bytes: int | None = None
    kv_cache_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class ServerCounters:
    """The engine's own running totals, in tokens; None where it does not count."""

    prompt_tokens: int | None
    generation_tokens: int | None


class Engine:
    """The launcher side of an engine; stateless. Subclasses fill the class variables and the methods that raise."""

    kind: ClassVar[str]
    config_class: ClassVar[type[EngineConfig]]
    health_path: ClassVar[str] = "/health"
    #: Whether `health_path` is answered while requests are.
    health_under_load: ClassVar[bool] = True
    #: Whether it is a program of its own, which an image may hold; otherwise a script of ours starts it.
    has_program: ClassVar[bool] = True
    #: The Python distribution that it is; empty: one that is called as its kind.
    distribution: ClassVar[str] = ""
    metrics_path: ClassVar[str | None] = None
    prompt_counter: ClassVar[str | None] = None
    generation_counter: ClassVar[str | None] = None
    #: Its metrics by common names, sampled while load runs; None where it has none.
    metrics: ClassVar[MetricMap | None] = None
    log_patterns: ClassVar[Sequence[LogPattern]] = ()
    start_phases: ClassVar[Sequence[StartPhase]] = ()
    #: Common settings → the engine's flags. One that is set and in neither table is refused.
    flags: ClassVar[Mapping[str, Flag]] = {}
    #: Common settings that need no flag here: → what to use instead, or "" where the engine's config reads it itself.
    own_settings: ClassVar[Mapping[str, str]] = {}
    #: How a running server is asked for log-probabilities; None: it gives none.
    logprobs: ClassVar[LogprobRoute | None] = None
    #: Ways to quantize while loading, in common terms → the engine's own word.
    load_methods: ClassVar[Mapping[str, str]] = {}
    #: Packings of weights that its own scoring environment cannot load → the toolchain that can.
    packing_toolchains: ClassVar[Mapping[str, str]] = {}

    def serves(self, config: EngineConfig, model_format: str, load_method: str = "", packing: str = "") -> Support:
        """Whether this engine serves `model_format`, quantizing it by `load_method` if that is asked.

        `packing` is the scheme's; empty: not known yet, or of no concern because nothing will be served.
        """
        elsewhere = self._elsewhere(config, model_format)
        if elsewhere is not None:
            return elsewhere
        found = self.support(config, model_format)
        if found.answer is SupportAnswer.NO:
            return found
        refused = refusal(self.kind, config, self.flags, self.own_settings)
        if load_method and load_method not in self.load_methods and not refused:
            known = ", ".join(self.load_methods) or "nothing"
            refused = (
                f"{self.kind} does not quantize by {load_method} while loading (but by {known}): choose another engine"
            )
        if refused:
            return Support(answer=SupportAnswer.NO, reason=refused)
        told = self._tabled(config, model_format, load_method, packing)
        return found if told is None or told.answer is found.answer else told

    def _tabled(
        self, config: EngineConfig, model_format: str, load_method: str = "", packing: str = ""
    ) -> Support | None:
        """What the table says; None for an engine that is not in it."""
        from bench.engines.support_matrix import answer, kinds

        if self.kind not in kinds():
            return None
        return answer(self.kind, self.accelerator(config), model_format, packing=packing, load_method=load_method)

    def _elsewhere(self, config: EngineConfig, model_format: str) -> Support | None:
        """The answer where it does not depend on the engine: a server that runs already serves what it serves."""
        if config.base_url:
            return Support(answer=SupportAnswer.YES)
        if model_format == SERVED_ELSEWHERE:
            reason = (
                "scheme=as_served is for a server that runs already: give engine.base_url, or choose another scheme"
            )
            return Support(answer=SupportAnswer.NO, reason=reason)
        if config.container.image and not self.has_program:
            reason = (
                f"{self.kind} is started by a script of quantbench, not by a program of an image: use its toolchain"
            )
            return Support(answer=SupportAnswer.NO, reason=reason)
        return None

    def support(self, config: EngineConfig, model_format: str) -> Support:
        """Whether this engine serves `model_format` with these settings on this machine; by the table, if it is there.

        An engine that is not in the table of `support_matrix` answers here.
        """
        told = self._tabled(config, model_format)
        if told is None:
            raise NotImplementedError
        return told

    def accelerator(self, config: EngineConfig) -> Accelerator:
        """What it computes on: as its toolchain, or the GPUs that a container is given."""
        from bench.engines.gpu import accelerator_of

        return accelerator_of(config)

    def check_machine(self, config: EngineConfig) -> None:
        """Refuse what cannot run on this machine, before any toolchain is made; raises UsageError."""

    def command(self, config: EngineConfig, model: ServedModel, launch: Launch, toolchain: Toolchain | None) -> Command:
        """The exact command line. `toolchain` is None when it only has to be shown."""
        raise NotImplementedError

    def request_name(self, model: ServedModel) -> str:
        """What requests call the model."""
        return model.name

    def footprint(self, config: EngineConfig) -> Footprint:
        """What these settings mean for memory: `max_sequences` of `max_model_len` tokens, on GPUs if there are any."""
        return Footprint(tokens=config.max_model_len, sequences=config.max_sequences)

    def check_log(self, config: EngineConfig, log: str) -> None:
        """Look at what a server that is ready has logged since its start; raises CellFailure on a wrong way of running.

        A server that serves, but not as asked, would be measured as if it were slow.
        """

    def memory_of(self, log: str) -> EngineMemory:
        """What a server said in `log`, from its start on, of the memory it allocated."""
        return EngineMemory()

    def serving_reasons(self, log: str) -> Sequence[Reason]:
        """What is to be said of every speed, because of how a server that logged this runs."""
        return ()

    def scoring_toolchain(self, config: EngineConfig) -> str:
        """The toolchain whose build scores quality: llama.cpp's, which scores any GGUF; an engine may have its own."""
        return SCORING_TOOLCHAIN

    def scorer(self, config: EngineConfig, toolchain: Toolchain) -> Scorer:
        """How quality is scored, in `toolchain`. The scorer raises UsageError for formats it cannot read."""
        from bench.engines.llama_cpp_scoring import LlamaCppScorer

        return LlamaCppScorer(toolchain)

    def scoring_reasons(self, config: EngineConfig, toolchain: str) -> Sequence[Reason]:
        """What is to be said of every quality figure, because it was scored in `toolchain`."""
        same = toolchain == config.toolchain and config.uses_toolchain
        return () if same else (Reason.SCORING_BUILD_DIFFERS,)


EngineType = TypeVar("EngineType", bound=type[Engine])

_ENGINES: dict[str, type[Engine]] = {}


def engine(kind: str) -> Callable[[EngineType], EngineType]:
    """Register an engine under `kind`; raises ValueError when the name is taken."""

    def register(cls: EngineType) -> EngineType:
        held = _ENGINES.get(kind)
        if held is not None and (held.__module__, held.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ValueError(f"engine '{kind}' is registered twice: {held.__qualname__}, {cls.__qualname__}")
        cls.kind = kind
        _ENGINES[kind] = cls
        return cls

    return register


def engine_of(config: EngineConfig) -> Engine:
    """The engine a config is for; raises UsageError listing what exists."""
    discover()
    cls = _ENGINES.get(config.kind)
    if cls is None:
        raise UsageError(f"engine.kind='{config.kind}' is unknown; {nearest(config.kind, _ENGINES)}")
    return cls()


def discover() -> None:
    """Import every module of this package, so that each registers its engine and its schema."""
    import importlib
    import pkgutil

    import bench.engines

    for module in pkgutil.iter_modules(bench.engines.__path__):
        if not module.ispkg:
            importlib.import_module(f"bench.engines.{module.name}")
