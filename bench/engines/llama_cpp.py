"""llama.cpp's own server, from the toolchain that also quantizes and scores."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bench.base.errors import FailureKind
from bench.base.schema import schema
from bench.engines.base import (
    Command,
    Engine,
    EngineConfig,
    Launch,
    LogPattern,
    ServedModel,
    Support,
    SupportAnswer,
    engine,
)

if TYPE_CHECKING:
    from bench.engines.scoring import Scorer
    from bench.toolchains.toolchain import Toolchain

LOG_PATTERNS = (
    LogPattern(
        pattern=re.compile(r"failed to allocate|cannot allocate memory|out of memory|std::bad_alloc", re.IGNORECASE),
        kind=FailureKind.OUT_OF_MEMORY,
        advice="lower engine.max_model_len or engine.max_sequences, or choose a smaller scheme",
    ),
    LogPattern(
        pattern=re.compile(r"unknown model architecture"),
        kind=FailureKind.CRASHED,
        advice="this llama.cpp does not know the architecture: use a newer toolchain",
    ),
    LogPattern(
        pattern=re.compile(r"invalid magic|failed to load model|error loading model"),
        kind=FailureKind.CORRUPT,
        advice="the GGUF cannot be loaded: remove it from the cache and quantize again",
    ),
)


@schema("engine", "llama_cpp")
@dataclass(frozen=True, kw_only=True)
class LlamaCppConfig(EngineConfig):
    """Settings of llama-server. The context it allocates is `max_model_len` × `max_sequences` tokens.

    `cache_ram_mib` bounds the server's cache of past prompts in memory; 0 keeps runs independent of each other.
    """

    kind: str = "llama_cpp"
    toolchain: str = "llama_cpp"
    gpu_layers: int = 0
    batch_size: int | None = None
    cache_ram_mib: int = 0


@engine("llama_cpp")
class LlamaCpp(Engine):
    """`llama-server` of the native build."""

    config_class = LlamaCppConfig
    metrics_path = "/metrics"
    prompt_counter = "llamacpp:prompt_tokens"
    generation_counter = "llamacpp:tokens_predicted"
    log_patterns: ClassVar[Sequence[LogPattern]] = LOG_PATTERNS

    def support(self, config: EngineConfig, model_format: str) -> Support:
        """GGUF only."""
        return gguf_only("llama_cpp", model_format)

    def command(self, config: EngineConfig, model: ServedModel, launch: Launch, toolchain: Toolchain | None) -> Command:
        """llama-server reads its API key from LLAMA_API_KEY (common/arg.cpp of the vendored source)."""
        assert isinstance(config, LlamaCppConfig)
        program = "llama-server" if toolchain is None else str(toolchain.executable("llama-server"))
        argv = [
            program,
            "--model",
            str(model.path),
            "--alias",
            model.name,
            "--host",
            launch.host,
            "--port",
            str(launch.port),
            "--ctx-size",
            str(config.max_model_len * config.max_sequences),
            "--parallel",
            str(config.max_sequences),
            "--n-gpu-layers",
            str(config.gpu_layers),
            "--cache-ram",
            str(config.cache_ram_mib),
            "--metrics",
            "--no-webui",
        ]
        if config.threads is not None:
            argv += ["--threads", str(config.threads)]
        if config.batch_size is not None:
            argv += ["--batch-size", str(config.batch_size)]
        return Command(argv=[*argv, *config.extra_args], secret_env={"LLAMA_API_KEY": launch.api_key})

    def scorer(self, config: EngineConfig, toolchain: Toolchain) -> Scorer:
        """Full-vocabulary logits of the library the server is linked against; the server itself gives none."""
        from bench.engines.llama_cpp_scoring import LlamaCppScorer

        assert isinstance(config, LlamaCppConfig)
        return LlamaCppScorer(toolchain, gpu_layers=config.gpu_layers)


def gguf_only(kind: str, model_format: str) -> Support:
    """The support answer of engines built on llama.cpp."""
    if model_format == "gguf":
        return Support(answer=SupportAnswer.YES)
    reason = f"{kind} serves GGUF files, not {model_format}: choose a gguf scheme or another engine"
    return Support(answer=SupportAnswer.NO, reason=reason)
