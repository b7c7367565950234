"""llama-cpp-python's own server, on the same native build as llama-server: what the Python layer costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from bench.base.schema import schema
from bench.base.validity import Reason
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
    UBATCH_SIZE,
    buffers_in,
    llama_footprint,
    offloaded_to,
    require_offload,
)
from bench.toolchains.config import Accelerator

if TYPE_CHECKING:
    from bench.engines.scoring import Scorer
    from bench.toolchains.toolchain import Toolchain

_SERVER = Path(__file__).with_name("workers") / "llama_cpp_python_server.py"


@schema("engine", "llama_cpp_python")
@dataclass(frozen=True, kw_only=True)
class LlamaCppPythonConfig(EngineConfig):
    """Settings of `python -m llama_cpp.server`; the same meaning as for llama_cpp.

    It answers one request at a time and lets the others wait: `max_sequences` changes nothing, and the context it
    allocates is `max_model_len` tokens.
    """

    kind: str = "llama_cpp_python"
    toolchain: str = "llama_cpp_python"
    gpu_layers: int = 0
    batch_size: int | None = None
    flash_attention: bool = False


@engine("llama_cpp_python")
class LlamaCppPython(Engine):
    """`python -m llama_cpp.server`. It has no metrics, and no usage in its streams."""

    config_class = LlamaCppPythonConfig
    health_path = "/v1/models"
    health_under_load = False  # it waits for the request that is being answered
    has_program = False
    log_patterns: ClassVar[Sequence[LogPattern]] = LOG_PATTERNS
    start_phases: ClassVar[Sequence[StartPhase]] = START_PHASES

    def accelerator(self, config: EngineConfig) -> Accelerator:
        """A GPU where layers are offloaded to one."""
        assert isinstance(config, LlamaCppPythonConfig)
        return offloaded_to(config.gpu_layers)

    def command(self, config: EngineConfig, model: ServedModel, launch: Launch, toolchain: Toolchain | None) -> Command:
        """The server reads its API key from API_KEY (pydantic-settings, by field name)."""
        assert isinstance(config, LlamaCppPythonConfig)
        settings = {
            "model": str(model.path),
            "model_alias": model.name,
            "host": launch.host,
            "port": launch.port,
            "n_ctx": config.max_model_len,
            "n_gpu_layers": config.gpu_layers,
            "flash_attn": str(config.flash_attention).lower(),
            "n_threads": config.threads,
            "n_threads_batch": config.threads,
            "n_batch": config.batch_size,
            # Its defaults cut a running answer off when the next request comes, and keep the logits of every token.
            "interrupt_requests": "false",
            "logits_all": "false",
        }
        words = [word for name, value in settings.items() if value is not None for word in (f"--{name}", str(value))]
        program = "python" if toolchain is None else str(toolchain.python)
        return Command(
            argv=[program, "-I", str(_SERVER), *words, *config.extra_args],
            secret_env={"API_KEY": launch.api_key},
        )

    def footprint(self, config: EngineConfig) -> Footprint:
        """One sequence: the others wait. The library, unlike the server, has room for the logits of a whole batch."""
        assert isinstance(config, LlamaCppPythonConfig)
        return llama_footprint(config, sequences=1, logit_tokens=UBATCH_SIZE, gpu_layers=config.gpu_layers)

    def check_log(self, config: EngineConfig, log: str) -> None:
        """Layers that were to be on the GPU must be there."""
        assert isinstance(config, LlamaCppPythonConfig)
        require_offload(config.gpu_layers, log)

    def memory_of(self, log: str) -> EngineMemory:
        """The buffers that llama.cpp names in its log."""
        return buffers_in(log)

    def scorer(self, config: EngineConfig, toolchain: Toolchain) -> Scorer:
        """Full-vocabulary logits of the same library."""
        from bench.engines.llama_cpp_scoring import LlamaCppScorer

        assert isinstance(config, LlamaCppPythonConfig)
        return LlamaCppScorer(toolchain, gpu_layers=config.gpu_layers)

    def scoring_reasons(self, config: EngineConfig, toolchain: str) -> Sequence[Reason]:
        """None by its own scorer: the toolchain that scores built the library that serves here."""
        same = toolchain == self.scoring_toolchain(config) and config.uses_toolchain
        return () if same else super().scoring_reasons(config, toolchain)
