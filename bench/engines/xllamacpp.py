"""llama.cpp's server out of the portable xllamacpp wheel: no compiler needed, but another build scores."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from bench.base.errors import UsageError
from bench.base.schema import schema
from bench.engines.base import (
    Command,
    Engine,
    EngineConfig,
    EngineMemory,
    Launch,
    LogPattern,
    ServedModel,
    StartPhase,
    engine,
)
from bench.engines.footprint import Footprint
from bench.engines.llama_cpp import (
    LOG_PATTERNS,
    START_PHASES,
    buffers_in,
    http_threads,
    llama_footprint,
    offloaded_to,
    require_offload,
)
from bench.engines.metric_maps import LLAMA_CPP
from bench.engines.served_logprobs import LlamaServerCompletion
from bench.toolchains.config import Accelerator

if TYPE_CHECKING:
    from bench.toolchains.toolchain import Toolchain

_SERVER = Path(__file__).with_name("workers") / "xllamacpp_server.py"


@schema("engine", "xllamacpp")
@dataclass(frozen=True, kw_only=True)
class XllamacppConfig(EngineConfig):
    """Settings of the xllamacpp server; the same meaning as for llama_cpp."""

    kind: str = "xllamacpp"
    toolchain: str = "xllamacpp"
    gpu_layers: int = 0
    cache_ram_mib: int = 0


@engine("xllamacpp")
class Xllamacpp(Engine):
    """`xllamacpp.Server` in a process of its own."""

    config_class = XllamacppConfig
    logprobs = LlamaServerCompletion()
    has_program = False
    metrics_path = "/metrics"
    prompt_counter = "llamacpp:prompt_tokens"
    generation_counter = "llamacpp:tokens_predicted"
    metrics = LLAMA_CPP
    log_patterns: ClassVar[Sequence[LogPattern]] = LOG_PATTERNS
    start_phases: ClassVar[Sequence[StartPhase]] = START_PHASES

    def accelerator(self, config: EngineConfig) -> Accelerator:
        """A GPU where layers are offloaded to one."""
        assert isinstance(config, XllamacppConfig)
        return offloaded_to(config.gpu_layers)

    def command(self, config: EngineConfig, model: ServedModel, launch: Launch, toolchain: Toolchain | None) -> Command:
        """The worker script with its settings as one JSON argument; raises UsageError on `extra_args`."""
        assert isinstance(config, XllamacppConfig)
        if config.extra_args:
            raise UsageError("engine.extra_args: xllamacpp has no command line; use engine=llama_cpp for extra flags")
        settings = {
            "model": str(model.path),
            "alias": model.name,
            "host": launch.host,
            "port": launch.port,
            "n_ctx": config.max_model_len * config.max_sequences,
            "n_parallel": config.max_sequences,
            "n_threads": config.threads,
            "n_threads_http": http_threads(config.max_sequences),
            "n_gpu_layers": config.gpu_layers,
            "cache_ram_mib": config.cache_ram_mib,
        }
        program = "python" if toolchain is None else str(toolchain.python)
        return Command(
            argv=[program, "-I", str(_SERVER), json.dumps(settings)],
            secret_env={"XLLAMACPP_API_KEY": launch.api_key},
        )

    def footprint(self, config: EngineConfig) -> Footprint:
        """As llama-server's."""
        assert isinstance(config, XllamacppConfig)
        return llama_footprint(
            config,
            sequences=config.max_sequences,
            logit_tokens=config.max_sequences,
            gpu_layers=config.gpu_layers,
            extra_bytes=config.cache_ram_mib << 20,
        )

    def check_log(self, config: EngineConfig, log: str) -> None:
        """Layers that were to be on the GPU must be there."""
        assert isinstance(config, XllamacppConfig)
        require_offload(config.gpu_layers, log)

    def memory_of(self, log: str) -> EngineMemory:
        """The buffers that llama.cpp names in its log."""
        return buffers_in(log)
