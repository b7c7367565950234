"""SGLang's OpenAI-compatible server on NVIDIA GPUs. Its flags are those of 0.5.23; it was never run here."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from bench.base.errors import FailureKind, UsageError
from bench.base.schema import not_identity, schema
from bench.engines.base import (
    Command,
    EngineConfig,
    Launch,
    LogPattern,
    ServedModel,
    SpeculativeConfig,
    StartPhase,
    Support,
    SupportAnswer,
    engine,
    file_word,
)
from bench.engines.flags import Flag, common_argv
from bench.engines.footprint import Footprint
from bench.engines.gpu import has_gpu, require_gpu
from bench.engines.metric_maps import SGLANG
from bench.engines.scored_by_transformers import ScoredByTransformers
from bench.engines.served_logprobs import SglangGenerate
from bench.engines.vllm import cache_bytes

if TYPE_CHECKING:
    from bench.toolchains.toolchain import Toolchain

_SERVER = Path(__file__).with_name("workers") / "sglang_server.py"
_CACHE_TYPES = ("auto", "bf16", "bfloat16", "fp8_e4m3", "fp8_e5m2", "mxfp8", "nvfp4", "fp4_mx_block16")

FLAGS: Mapping[str, Flag] = {
    "tensor_parallel_size": Flag(name="--tensor-parallel-size"),
    "pipeline_parallel_size": Flag(name="--pipeline-parallel-size"),
    "max_batched_tokens": Flag(name="--max-prefill-tokens"),
    "memory_fraction": Flag(name="--mem-fraction-static"),
    "attention_backend": Flag(name="--attention-backend"),
    "prefix_caching": Flag(on=(), off=("--disable-radix-cache",)),
    "chunked_prefill": Flag(on=(), off=("--chunked-prefill-size", "-1")),
    "cuda_graphs": Flag(
        on=(), off=("--cuda-graph-backend-decode", "disabled", "--cuda-graph-backend-prefill", "disabled")
    ),
    "dtype": Flag(name="--dtype"),
    "kv_cache_dtype": Flag(name="--kv-cache-dtype", words={"fp8": "fp8_e4m3", **{name: name for name in _CACHE_TYPES}}),
    "block_size": Flag(name="--page-size"),
    "quantization": Flag(name="--quantization"),
}

START_PHASES = (
    StartPhase(pattern=re.compile(r"Load weight begin"), words="loading weights"),
    StartPhase(pattern=re.compile(r"checkpoint shards:\s+(\d+)%"), words="loading weights, {0} %"),
    StartPhase(pattern=re.compile(r"Memory pool end"), words="KV cache is allocated"),
    StartPhase(pattern=re.compile(r"Capture .{1,40}graph begin"), words="capturing CUDA graphs"),
    StartPhase(pattern=re.compile(r"Application startup complete"), words="answering"),
)

LOG_PATTERNS = (
    LogPattern(
        pattern=re.compile(r"Not enough memory\. Please try to increase --mem-fraction-static"),
        kind=FailureKind.OUT_OF_MEMORY,
        advice="weights leave no room for a KV cache: raise engine.memory_fraction or engine.tensor_parallel_size",
    ),
    LogPattern(
        pattern=re.compile(r"Model architectures? .{0,200}not supported for now|does not recognize this architecture"),
        kind=FailureKind.UNSUPPORTED_ARCHITECTURE,
        advice="this SGLang does not know the architecture: use a newer toolchain, or another engine",
    ),
    LogPattern(
        pattern=re.compile(r"is not supported for the current GPU"),
        kind=FailureKind.MISSING_KERNEL,
        advice="SGLang has no kernel for this format on this GPU: choose another scheme or engine",
    ),
    LogPattern(
        pattern=re.compile(r"SafetensorError|Cannot find any model weights"),
        kind=FailureKind.CORRUPT,
        advice="the checkpoint cannot be loaded: remove it from the cache and quantize again",
    ),
)


@schema("engine", "sglang")
@dataclass(frozen=True, kw_only=True)
class SglangConfig(EngineConfig):
    """Settings of SGLang's server.

    Prompts are not cached unless `prefix_caching` asks for it (SGLang itself does by default): requests that begin
    alike would be measured as faster than they are. Sampling defaults of the checkpoint's generation config are left
    aside.

    `chunked_prefill_size` bounds the tokens of a prompt that are computed in one step. `cuda_graph_sizes` are the batch
    sizes that graphs for decoding are captured for, empty: SGLang's own. `host_cache_gib` of main memory extend the
    prefix cache. `deterministic` asks for kernels whose results do not depend on the batch.
    """

    kind: str = "sglang"
    toolchain: str = "sglang"
    prefix_caching: bool | None = False
    chunked_prefill_size: int | None = None
    cuda_graph_sizes: list[int] = field(default_factory=list)
    host_cache_gib: int | None = None
    deterministic: bool = False
    trust_remote_code: bool = False
    seed: int = 0
    start_timeout_s: float = not_identity(900.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("chunked_prefill_size", "host_cache_gib"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"engine.{name}={value} must be at least 1, or null for none")
        if self.chunked_prefill_size is not None and self.chunked_prefill is False:
            raise ValueError("engine.chunked_prefill_size: prompts are not cut with engine.chunked_prefill=false")
        if any(size < 1 for size in self.cuda_graph_sizes):
            raise ValueError(f"engine.cuda_graph_sizes={self.cuda_graph_sizes} must be batch sizes of at least 1")
        if self.cuda_graph_sizes and self.cuda_graphs is False:
            raise ValueError("engine.cuda_graph_sizes: there are no CUDA graphs with engine.cuda_graphs=false")
        if self.host_cache_gib is not None and self.prefix_caching is False:
            raise ValueError("engine.host_cache_gib extends the prefix cache: set engine.prefix_caching=true")


@engine("sglang")
class Sglang(ScoredByTransformers):
    """SGLang's `launch_server` with one model, started by a script that keeps the key out of the command line."""

    config_class = SglangConfig
    logprobs = SglangGenerate()
    metrics_path = "/metrics"
    prompt_counter = "sglang:prompt_tokens"
    generation_counter = "sglang:generation_tokens"
    metrics = SGLANG
    start_phases: ClassVar[Sequence[StartPhase]] = START_PHASES
    log_patterns: ClassVar[Sequence[LogPattern]] = LOG_PATTERNS
    flags: ClassVar[Mapping[str, Flag]] = FLAGS
    own_settings: ClassVar[Mapping[str, str]] = {"speculative": "", "swap_space_gib": "engine.host_cache_gib"}
    load_methods: ClassVar[Mapping[str, str]] = {"fp8": "fp8"}

    def support(self, config: EngineConfig, model_format: str) -> Support:
        """As the table says, and whether there is a driver."""
        found = super().support(config, model_format)
        if found.answer is SupportAnswer.NO or has_gpu():
            return found
        return Support(answer=found.answer, reason=f"{found.reason}, and there is no NVIDIA driver here")

    def check_machine(self, config: EngineConfig) -> None:
        """SGLang needs an NVIDIA GPU."""
        require_gpu(config, "engine=vllm serves Hugging Face checkpoints on CPUs")

    def command(self, config: EngineConfig, model: ServedModel, launch: Launch, toolchain: Toolchain | None) -> Command:
        """SGLang's own arguments behind our script, which takes the key from SGLANG_API_KEY."""
        assert isinstance(config, SglangConfig)
        # Inside a container the script is a file that is mounted.
        inside = bool(config.container.image)
        argv = [
            "python3" if toolchain is None else str(toolchain.python),
            *("-I", file_word(_SERVER.name) if inside else str(_SERVER)),
            *("--model-path", str(model.path), "--served-model-name", model.name),
            *("--host", launch.host, "--port", str(launch.port)),
            *("--context-length", str(config.max_model_len), "--max-running-requests", str(config.max_sequences)),
            *("--random-seed", str(config.seed), "--sampling-defaults", "openai", "--enable-metrics"),
            *("--log-level-http", "warning"),
            *common_argv(config, self.flags),
        ]
        if model.load_method:
            if config.quantization is not None:
                raise UsageError(f"engine.quantization={config.quantization}: the scheme asks for {model.load_method}")
            argv += ["--quantization", self.load_methods[model.load_method]]
        if config.speculation is not None:
            argv += speculative_argv(config.speculation)
        if config.chunked_prefill_size is not None:
            argv += ["--chunked-prefill-size", str(config.chunked_prefill_size)]
        if config.cuda_graph_sizes:
            argv += ["--cuda-graph-bs-decode", *map(str, config.cuda_graph_sizes)]
        if config.host_cache_gib is not None:
            argv += ["--enable-hierarchical-cache", "--hicache-size", str(config.host_cache_gib)]
        if config.deterministic:
            argv.append("--enable-deterministic-inference")
        if config.trust_remote_code:
            argv.append("--trust-remote-code")
        threads = {} if config.threads is None else {"OMP_NUM_THREADS": str(config.threads)}
        return Command(
            argv=[*argv, *config.extra_args],
            env={**config.env, **threads},
            secret_env={"SGLANG_API_KEY": launch.api_key},
            files={_SERVER.name: _SERVER.read_text(encoding="utf-8")} if inside else {},
        )

    def footprint(self, config: EngineConfig) -> Footprint:
        """Weights and KV cache fill a share of each GPU."""
        assert isinstance(config, SglangConfig)
        width = cache_bytes(config)
        return Footprint(
            tokens=config.max_model_len,
            sequences=config.max_sequences,
            block=config.block_size or 1,
            key_bytes=width,
            value_bytes=width,
            batch_tokens=config.chunked_prefill_size or config.max_batched_tokens or _CHUNK,
            logit_tokens=config.max_sequences,
            needs_gpu="engine=sglang",
            gpus=(config.tensor_parallel_size or 1) * (config.pipeline_parallel_size or 1),
            gpu_fraction=config.memory_fraction or _MEMORY_FRACTION,
            # Activations and CUDA graphs lie beside what the share counts; what the context takes is assumed.
            process_bytes=1 << 30,
        )


#: SGLang chooses both by the GPU's memory; these are in the middle of what it chooses.
_MEMORY_FRACTION = 0.88
_CHUNK = 8192


def speculative_argv(config: SpeculativeConfig) -> list[str]:
    """A chain of `tokens` guesses; all methods but n-grams count the token they start from too, and their steps."""
    argv = ["--speculative-algorithm", config.method.upper()]
    if config.model is not None:
        argv += ["--speculative-draft-model-path", config.model]
    if config.method.upper() == "NGRAM":
        return [*argv, "--speculative-num-draft-tokens", str(config.tokens)]
    return [
        *argv,
        *("--speculative-num-steps", str(config.tokens), "--speculative-eagle-topk", "1"),
        *("--speculative-num-draft-tokens", str(config.tokens + 1)),
    ]
