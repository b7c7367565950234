"""TensorRT-LLM's OpenAI-compatible server, `trtllm-serve`, with its PyTorch backend.

Flags are those of 1.3.0rc3 (`tensorrt_llm/commands/serve.py`), options that have none go into the YAML file that it
takes (`llmapi/llm_args.py`). It was never run here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from bench.base.errors import FailureKind
from bench.base.schema import schema
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
from bench.engines.flags import Flag, common_argv, without_threads
from bench.engines.footprint import Footprint
from bench.engines.gpu import require_own_gpu
from bench.engines.metric_maps import TENSORRT_LLM
from bench.engines.scored_by_transformers import ScoredByTransformers
from bench.engines.served_logprobs import OpenAiCompletions
from bench.toolchains.config import Accelerator

if TYPE_CHECKING:
    from bench.toolchains.toolchain import Toolchain

OPTIONS_FILE = "trtllm_options.yaml"
FLAGS: Mapping[str, Flag] = {
    "tensor_parallel_size": Flag(name="--tp_size"),
    "pipeline_parallel_size": Flag(name="--pp_size"),
    "max_batched_tokens": Flag(name="--max_num_tokens"),
    "memory_fraction": Flag(name="--kv_cache_free_gpu_memory_fraction"),
    "chunked_prefill": Flag(on=("--enable_chunked_prefill",), off=()),
}
#: Common settings that have no flag → where the YAML file has them.
_IN_FILE = {
    "attention_backend": ("attn_backend",),
    "dtype": ("dtype",),
    "prefix_caching": ("kv_cache_config", "enable_block_reuse"),
    "kv_cache_dtype": ("kv_cache_config", "dtype"),
    "block_size": ("kv_cache_config", "tokens_per_block"),
}
#: Methods of speculative decoding → its `decoding_type`.
_DECODING = {"ngram": "NGram", "eagle": "Eagle", "draft_model": "DraftTarget", "mtp": "MTP"}


@schema("engine", "tensorrt_llm")
@dataclass(frozen=True, kw_only=True)
class TensorRtLlmConfig(EngineConfig):
    """Settings of trtllm-serve.

    `memory_fraction` is of the memory that is free once the weights are loaded, and for the KV cache alone.
    `expert_parallel_size` spreads the experts of a mixture, `postprocess_workers` turn tokens into text beside the
    server, `iteration_statistics` fills `/metrics`, which is JSON. `options` are further entries of the YAML file.
    """

    own_program: ClassVar[str] = "trtllm-serve"

    kind: str = "tensorrt_llm"
    backend: str = "pytorch"
    expert_parallel_size: int | None = None
    postprocess_workers: int | None = None
    cuda_graph_sizes: list[int] = field(default_factory=list)
    iteration_statistics: bool = True
    trust_remote_code: bool = False
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.backend not in ("pytorch", "tensorrt"):
            raise ValueError(f"engine.backend={self.backend} must be pytorch or tensorrt")
        if self.expert_parallel_size is not None and self.expert_parallel_size < 1:
            raise ValueError(f"engine.expert_parallel_size={self.expert_parallel_size} must be at least 1")
        if self.postprocess_workers is not None and self.postprocess_workers < 0:
            raise ValueError(f"engine.postprocess_workers={self.postprocess_workers} must be 0 or more")
        if any(size < 1 for size in self.cuda_graph_sizes):
            raise ValueError("engine.cuda_graph_sizes must be at least 1; engine.cuda_graphs=false switches them off")
        if self.cuda_graph_sizes and self.cuda_graphs is False:
            raise ValueError("engine.cuda_graph_sizes are given, and engine.cuda_graphs=false says there are none")


@engine("tensorrt_llm")
class TensorRtLlm(ScoredByTransformers):
    """`trtllm-serve serve` with one model.

    It checks no API key: whoever reaches the port may use it, so it listens on the loopback interface only. Its
    `/metrics` is JSON and has no token counters.
    """

    config_class = TensorRtLlmConfig
    logprobs = OpenAiCompletions()
    metrics = TENSORRT_LLM
    flags: ClassVar[Mapping[str, Flag]] = FLAGS
    own_settings: ClassVar[Mapping[str, str]] = {**dict.fromkeys(_IN_FILE, ""), "cuda_graphs": "", "speculative": ""}
    log_patterns: ClassVar[Sequence[LogPattern]] = (
        LogPattern(
            pattern=re.compile(
                r"out of memory|OutOfMemoryError|No enough memory|insufficient GPU memory", re.IGNORECASE
            ),
            kind=FailureKind.OUT_OF_MEMORY,
            advice="lower engine.max_model_len, engine.max_sequences or engine.memory_fraction",
        ),
        LogPattern(
            pattern=re.compile(r"Unknown architecture for AutoModelForCausalLM|does not recognize this architecture"),
            kind=FailureKind.UNSUPPORTED_ARCHITECTURE,
            advice="this TensorRT-LLM does not know the architecture: choose another engine",
        ),
    )
    start_phases: ClassVar[Sequence[StartPhase]] = (
        StartPhase(pattern=re.compile(r"Application startup complete"), words="ready"),
        StartPhase(pattern=re.compile(r"CUDA graph|cuda graph"), words="capturing CUDA graphs"),
        StartPhase(pattern=re.compile(r"[Aa]utotun"), words="tuning kernels"),
        StartPhase(pattern=re.compile(r"KV ?cache", re.IGNORECASE), words="making the KV cache"),
        StartPhase(pattern=re.compile(r"[Ll]oading weights.*?(\d+)%"), words="loading weights {0} %"),
        StartPhase(pattern=re.compile(r"[Ll]oading weights|[Pp]refetching"), words="loading weights"),
    )

    def accelerator(self, config: EngineConfig) -> Accelerator:
        """It knows NVIDIA GPUs only."""
        return Accelerator.cuda

    def check_machine(self, config: EngineConfig) -> None:
        """It needs a GPU."""
        require_own_gpu(config)

    def serves(self, config: EngineConfig, model_format: str, load_method: str = "", packing: str = "") -> Support:
        """As any engine; of speculative decoding only the methods it has."""
        found = super().serves(config, model_format, load_method, packing)
        if found.answer is SupportAnswer.NO or config.base_url:
            return found
        reason, speculative = without_threads(config), config.speculation
        if speculative is not None and speculative.method not in _DECODING:
            reason = f"engine.speculative.method={speculative.method}: tensorrt_llm knows {', '.join(_DECODING)}"
        return Support(answer=SupportAnswer.NO, reason=reason) if reason else found

    def command(self, config: EngineConfig, model: ServedModel, launch: Launch, toolchain: Toolchain | None) -> Command:
        """There is no key to hand over: `launch.api_key` is not asked for by the server."""
        assert isinstance(config, TensorRtLlmConfig)
        program = config.own_program if toolchain is None else str(toolchain.executable(config.own_program))
        argv = [
            *(program, "serve", str(model.path), "--backend", config.backend),
            *("--host", launch.host, "--port", str(launch.port)),
            *("--max_seq_len", str(config.max_model_len), "--max_batch_size", str(config.max_sequences)),
            *common_argv(config, self.flags),
        ]
        if config.expert_parallel_size is not None:
            argv += ["--ep_size", str(config.expert_parallel_size)]
        if config.postprocess_workers is not None:
            argv += ["--num_postprocess_workers", str(config.postprocess_workers)]
        if config.trust_remote_code:
            argv.append("--trust_remote_code")
        options = file_options(config)
        files = {OPTIONS_FILE: json.dumps(options, sort_keys=True)} if options else {}  # JSON is YAML
        if files:
            argv += ["--extra_llm_api_options", file_word(OPTIONS_FILE)]
        return Command(argv=[*argv, *config.extra_args], files=files)

    def request_name(self, model: ServedModel) -> str:
        """The folder's name, which is what it calls the model."""
        return model.path.name

    def footprint(self, config: EngineConfig) -> Footprint:
        """The KV cache takes its share of what the weights leave."""
        assert isinstance(config, TensorRtLlmConfig)
        width = 1.0 if config.kv_cache_dtype == "fp8" else 2.0
        return Footprint(
            tokens=config.max_model_len,
            sequences=config.max_sequences,
            block=config.block_size or _BLOCK,
            key_bytes=width,
            value_bytes=width,
            batch_tokens=config.max_batched_tokens or _BATCH_TOKENS,
            logit_tokens=config.max_sequences,
            needs_gpu="engine.kind=tensorrt_llm",
            gpus=(config.tensor_parallel_size or 1) * (config.pipeline_parallel_size or 1),
        )


#: Defaults of 1.3.0rc3: `KvCacheConfig.tokens_per_block` and `BuildConfig.max_num_tokens`.
_BLOCK = 32
_BATCH_TOKENS = 8192


def file_options(config: TensorRtLlmConfig) -> dict[str, Any]:
    """What has no flag, as the YAML file has it; `engine.options` come last and win."""
    options: dict[str, Any] = {}
    for name, place in _IN_FILE.items():
        value = getattr(config, name)
        if value is not None:
            _put(options, place, value)
    if config.cuda_graphs is False:
        options["cuda_graph_config"] = None
    elif config.cuda_graph_sizes:
        options["cuda_graph_config"] = {"batch_sizes": list(config.cuda_graph_sizes)}
    elif config.cuda_graphs:
        options["cuda_graph_config"] = {}
    if config.speculation is not None:
        options["speculative_config"] = _speculative(config.speculation)
    if config.iteration_statistics and config.backend == "pytorch":
        options["enable_iter_perf_stats"] = True
    return _merged(options, config.options)


def _speculative(config: SpeculativeConfig) -> dict[str, Any]:
    method = _DECODING[config.method]
    draft = {} if config.model is None else {"speculative_model_dir": config.model}
    length = "num_nextn_predict_layers" if method == "MTP" else "max_draft_len"
    return {"decoding_type": method, length: config.tokens, **draft}


def _put(options: dict[str, Any], place: Sequence[str], value: Any) -> None:
    *folders, name = place
    for folder in folders:
        options = options.setdefault(folder, {})
    options[name] = value


def _merged(options: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` into `options`, mapping by mapping."""
    merged = dict(options)
    for name, value in over.items():
        held = merged.get(name)
        merged[name] = _merged(held, value) if isinstance(held, Mapping) and isinstance(value, Mapping) else value
    return merged
