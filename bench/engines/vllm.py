"""vLLM's OpenAI-compatible server, on CPUs or NVIDIA GPUs as its toolchain is for the one or the other."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from bench.base.errors import FailureKind, UsageError
from bench.base.schema import not_identity, schema
from bench.base.validity import Reason
from bench.engines.base import (
    Command,
    Engine,
    EngineConfig,
    EngineMemory,
    Launch,
    LogPattern,
    ServedModel,
    SpeculativeConfig,
    StartPhase,
    Support,
    SupportAnswer,
    engine,
)
from bench.engines.flags import Flag, common_argv
from bench.engines.footprint import Footprint
from bench.engines.gpu import accelerator_of, computes_on_gpu, require_gpu
from bench.engines.metric_maps import VLLM
from bench.engines.served_logprobs import VllmCompletions
from bench.engines.vllm_reference import SAYS, lacks_kernel, reference_environment

if TYPE_CHECKING:
    from bench.engines.scoring import Scorer
    from bench.toolchains.toolchain import Toolchain

FLAGS: Mapping[str, Flag] = {
    "tensor_parallel_size": Flag(name="--tensor-parallel-size"),
    "pipeline_parallel_size": Flag(name="--pipeline-parallel-size"),
    "max_batched_tokens": Flag(name="--max-num-batched-tokens"),
    "memory_fraction": Flag(name="--gpu-memory-utilization"),
    "attention_backend": Flag(name="--attention-backend"),
    "prefix_caching": Flag(on=("--enable-prefix-caching",), off=("--no-enable-prefix-caching",)),
    "chunked_prefill": Flag(on=("--enable-chunked-prefill",), off=("--no-enable-chunked-prefill",)),
    "cuda_graphs": Flag(on=("--no-enforce-eager",), off=("--enforce-eager",)),
    "dtype": Flag(name="--dtype"),
    "kv_cache_dtype": Flag(name="--kv-cache-dtype"),
    "block_size": Flag(name="--block-size"),
    "quantization": Flag(name="--quantization"),
}

#: Of vLLM 0.32; the messages are those of its source.
LOG_PATTERNS = (
    LogPattern(
        pattern=re.compile(
            r"No available memory for the cache blocks|cache is needed, which is larger than the available KV cache"
        ),
        kind=FailureKind.OUT_OF_MEMORY,
        advice="the KV cache does not hold one sequence: lower engine.max_model_len, or raise engine.cpu_kv_cache_gib "
        "(on a GPU engine.memory_fraction)",
    ),
    LogPattern(
        pattern=re.compile(r"Available memory on node .{0,80}is less than|Free memory on device .{0,80}is less than"),
        kind=FailureKind.OUT_OF_MEMORY,
        advice="others use the memory: end them, or lower engine.cpu_kv_cache_gib (on a GPU engine.memory_fraction)",
    ),
    LogPattern(
        pattern=re.compile(r"out of memory|OutOfMemoryError|can't allocate memory|std::bad_alloc", re.IGNORECASE),
        kind=FailureKind.OUT_OF_MEMORY,
        advice="lower engine.max_model_len, engine.max_sequences or engine.memory_fraction, or choose a smaller scheme",
    ),
    LogPattern(
        pattern=re.compile(
            r"Model architectures? .{0,200}(not supported for now|not supported anymore|not supported in-tree)"
            r"|does not recognize this architecture"
        ),
        kind=FailureKind.UNSUPPORTED_ARCHITECTURE,
        advice="this vLLM does not know the architecture: use a newer toolchain, or another engine",
    ),
    LogPattern(
        pattern=re.compile(
            r"Failed to find a kernel that can implement|cpu_gemm_wna16|quantization method .{0,80}is not supported"
            r"|_C::\w+\(\) expected at most 0 argument|[Nn]o kernel image is available"
        ),
        kind=FailureKind.MISSING_KERNEL,
        advice="vLLM has no kernel for this format on this processor or GPU: choose another scheme or engine",
    ),
    LogPattern(
        pattern=re.compile(
            r"NVIDIA driver on your system is too old|CUDA driver version is insufficient|no CUDA-capable device"
            r"|No CUDA GPUs are available|Failed to infer device type|Can't initialize NVML|invalid device ordinal"
        ),
        kind=FailureKind.DRIVER,
        advice="the GPU or its driver does not answer as this vLLM needs it: quantbench doctor, or use fewer GPUs",
    ),
    LogPattern(
        pattern=re.compile(r"[Aa]ddress already in use"),
        kind=FailureKind.PORT_TAKEN,
        advice="another program listens on the port: name another, or leave it out for a free one",
    ),
    LogPattern(
        pattern=re.compile(r"Not enough allowed NUMA nodes to bind threads"),
        kind=FailureKind.USAGE,
        advice="on a CPU each part needs a NUMA node of its own: lower engine.tensor_parallel_size, or set "
        "engine.threads, which leaves threads unbound",
    ),
    LogPattern(
        pattern=re.compile(r"No working C\+\+ compiler found|InvalidCxxCompiler"),
        kind=FailureKind.TOOLCHAIN,
        advice="vLLM compiles the model: install a C++ compiler, or set engine.cuda_graphs=false to run it as it is",
    ),
    LogPattern(
        pattern=re.compile(r"SafetensorError|Cannot find any model weights"),
        kind=FailureKind.CORRUPT,
        advice="the checkpoint cannot be loaded: remove it from the cache and quantize again",
    ),
)

START_PHASES = (
    StartPhase(pattern=re.compile(r"Starting to load model"), words="loading weights"),
    StartPhase(pattern=re.compile(r"checkpoint shards:\s+(\d+)%"), words="loading weights, {0} %"),
    StartPhase(pattern=re.compile(r"Loading weights took"), words="weights are loaded"),
    StartPhase(pattern=re.compile(r"Start compiling|Warming up model for the compilation"), words="compiling"),
    StartPhase(pattern=re.compile(r"KV cache size"), words="KV cache is allocated"),
    StartPhase(pattern=re.compile(r"Capturing CUDA graphs.*?(\d+)%"), words="capturing CUDA graphs, {0} %"),
    StartPhase(pattern=re.compile(r"Application startup complete"), words="answering"),
)


@schema("engine", "vllm")
@dataclass(frozen=True, kw_only=True)
class VllmConfig(EngineConfig):
    """Settings of `vllm serve`. What a toolchain for CPUs cannot carry out is refused there.

    Prompts are not cached unless `prefix_caching` asks for it (vLLM itself does by default): requests that begin alike
    would be measured as faster than they are. Requests are not logged, and sampling defaults of the checkpoint's
    generation config are left aside.

    `cpu_kv_cache_gib` is the KV cache on CPUs, allocated at the start. `cuda_graphs=false` runs the model as it is,
    neither compiled nor in CUDA graphs; `cuda_graph_sizes` are the batch sizes that graphs are captured for, empty:
    vLLM's own. `kv_offload_gib` of main memory take what falls out of a GPU's KV cache. `threads` compute on CPUs,
    unbound; null: vLLM binds one to each core and leaves one core to its scheduler.
    """

    kind: str = "vllm"
    toolchain: str = "vllm"
    prefix_caching: bool | None = False
    cpu_kv_cache_gib: int = 1
    cuda_graph_sizes: list[int] = field(default_factory=list)
    kv_offload_gib: float | None = None
    trust_remote_code: bool = False
    seed: int = 0
    start_timeout_s: float = not_identity(900.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cpu_kv_cache_gib < 1:
            raise ValueError(f"engine.cpu_kv_cache_gib={self.cpu_kv_cache_gib} must be at least 1")
        if any(size < 1 for size in self.cuda_graph_sizes):
            raise ValueError(f"engine.cuda_graph_sizes={self.cuda_graph_sizes} must be batch sizes of at least 1")
        if self.cuda_graph_sizes and self.cuda_graphs is False:
            raise ValueError("engine.cuda_graph_sizes: there are no CUDA graphs with engine.cuda_graphs=false")
        if self.kv_offload_gib is not None and self.kv_offload_gib <= 0:
            raise ValueError(f"engine.kv_offload_gib={self.kv_offload_gib} must be positive, or null for none")


@engine("vllm")
class Vllm(Engine):
    """`vllm serve` with one model."""

    config_class = VllmConfig
    logprobs = VllmCompletions()
    metrics_path = "/metrics"
    prompt_counter = "vllm:prompt_tokens"
    generation_counter = "vllm:generation_tokens"
    metrics = VLLM
    start_phases: ClassVar[Sequence[StartPhase]] = START_PHASES
    log_patterns: ClassVar[Sequence[LogPattern]] = LOG_PATTERNS
    flags: ClassVar[Mapping[str, Flag]] = FLAGS
    own_settings: ClassVar[Mapping[str, str]] = {"speculative": "", "swap_space_gib": "engine.kv_offload_gib"}
    load_methods: ClassVar[Mapping[str, str]] = {"fp8": "fp8_per_channel"}

    def support(self, config: EngineConfig, model_format: str) -> Support:
        """As the table says; with a toolchain for CPUs only settings that have a meaning there."""
        assert isinstance(config, VllmConfig)
        found = super().support(config, model_format)
        refused = "" if found.answer is SupportAnswer.NO or computes_on_gpu(config) else refused_on_cpu(config)
        return Support(answer=SupportAnswer.NO, reason=refused) if refused else found

    def check_machine(self, config: EngineConfig) -> None:
        """A toolchain for GPUs needs one."""
        require_gpu(config, "set engine.toolchain=vllm to serve on the CPU")

    def command(self, config: EngineConfig, model: ServedModel, launch: Launch, toolchain: Toolchain | None) -> Command:
        """vLLM reads its API key from VLLM_API_KEY; raises UsageError for a format that it has no kernel for."""
        assert isinstance(config, VllmConfig)
        gpu = computes_on_gpu(config)
        refuse_without_kernel(config, model.path)
        program = "vllm" if toolchain is None else str(toolchain.executable("vllm"))
        argv = [
            *(program, "serve", str(model.path), "--served-model-name", model.name),
            *("--host", launch.host, "--port", str(launch.port)),
            *("--max-model-len", str(config.max_model_len), "--max-num-seqs", str(config.max_sequences)),
            *("--seed", str(config.seed), "--generation-config", "vllm"),
            *("--no-enable-log-requests", "--disable-uvicorn-access-log"),
            *common_argv(config, self.flags),
        ]
        if model.load_method:
            if config.quantization is not None:
                raise UsageError(f"engine.quantization={config.quantization}: the scheme asks for {model.load_method}")
            argv += ["--quantization", self.load_methods[model.load_method]]
        if config.speculation is not None:
            argv += ["--speculative-config", json.dumps(speculative_words(config.speculation))]
        if config.cuda_graph_sizes:
            argv += ["--cudagraph-capture-sizes", *map(str, config.cuda_graph_sizes)]
        if config.kv_offload_gib is not None:
            argv += ["--kv-offloading-size", str(config.kv_offload_gib)]
        if config.trust_remote_code:
            argv.append("--trust-remote-code")
        return Command(
            argv=[*argv, *config.extra_args],
            env={**config.env, **variables(config, gpu)},
            secret_env={"VLLM_API_KEY": launch.api_key},
        )

    def footprint(self, config: EngineConfig) -> Footprint:
        """On GPUs their share of memory is filled; on CPUs the KV cache is what was set aside for it."""
        assert isinstance(config, VllmConfig)
        gpu = computes_on_gpu(config)
        width = cache_bytes(config)
        return Footprint(
            tokens=config.max_model_len,
            sequences=config.max_sequences,
            block=config.block_size or (_GPU_BLOCK if gpu else _CPU_BLOCK),
            key_bytes=width,
            value_bytes=width,
            batch_tokens=config.max_batched_tokens or (_GPU_BATCH if gpu else _CPU_BATCH),
            logit_tokens=config.max_sequences,
            gpu_layers=None if gpu else 0,
            needs_gpu=f"engine.toolchain={config.toolchain}" if gpu else "",
            gpus=(config.tensor_parallel_size or 1) * (config.pipeline_parallel_size or 1) if gpu else 1,
            gpu_fraction=config.memory_fraction or _MEMORY_FRACTION,
            process_bytes=_PROCESS_BYTES,
            set_aside_bytes=None if gpu else config.cpu_kv_cache_gib << 30,
        )

    def memory_of(self, log: str) -> EngineMemory:
        """On GPUs every worker tells its weights and cache; on CPUs only the cache is told."""
        weights, cache = (total_gib(pattern, log) for pattern in (_WEIGHTS_TOLD, _CACHE_TOLD))
        return EngineMemory(weights_bytes=weights, kv_cache_bytes=cache)

    def serving_reasons(self, log: str) -> Sequence[Reason]:
        """Whether 4-bit weights were unpacked, where the kernel for them does not exist."""
        return (Reason.UNPACKED_WEIGHTS,) if SAYS in log else ()

    def scoring_toolchain(self, config: EngineConfig) -> str:
        """The serving environment itself."""
        return config.toolchain

    def scorer(self, config: EngineConfig, toolchain: Toolchain) -> Scorer:
        """Full-vocabulary logits of the same engine, in a process of its own."""
        from bench.engines.vllm_scoring import VllmScorer

        assert isinstance(config, VllmConfig)
        return VllmScorer(toolchain, config, self.load_methods)


# Defaults of vLLM 0.32: `CacheConfig.gpu_memory_utilization`, its block sizes, and the tokens that its server computes
# at once on a CPU and on a GPU with 70 GiB and more (on others 2048).
_MEMORY_FRACTION = 0.92
_GPU_BLOCK, _CPU_BLOCK = 16, 128
_GPU_BATCH, _CPU_BATCH = 8192, 2048
#: Server, scheduler and one worker, each with torch: of SmolLM2-135M in BF16 (257 MiB) with 1 GiB of KV cache 3065 MiB
#: were resident on a CPU.
_PROCESS_BYTES = 1800 << 20

_WEIGHTS_TOLD = re.compile(r"Model loading took ([\d.]+) GiB")
_CACHE_TOLD = re.compile(r"Available KV cache memory: ([\d.]+) GiB|(?:Explicitly|Auto) set \(([\d.]+)/")

_CPU_BACKENDS = ("CPU_ATTN", "CPU_MLA", "AMX_MLA")


def total_gib(pattern: re.Pattern[str], log: str) -> int | None:
    """Bytes over all workers; None where the log does not tell."""
    told = [next(value for value in found.groups() if value) for found in pattern.finditer(log)]
    return round(sum(map(float, told)) * (1 << 30)) if told else None


def refused_on_cpu(config: VllmConfig) -> str:
    """Why the settings have no effect on a CPU, where vLLM would pass over them; empty when they have."""
    if config.memory_fraction is not None:
        return f"engine.memory_fraction={config.memory_fraction}: on a CPU use engine.cpu_kv_cache_gib instead"
    if config.cuda_graphs or config.cuda_graph_sizes:
        return "engine.cuda_graphs: there are none on a CPU; null compiles the model, false runs it as it is"
    if config.kv_offload_gib is not None:
        return f"engine.kv_offload_gib={config.kv_offload_gib}: on a CPU raise engine.cpu_kv_cache_gib instead"
    if config.attention_backend is not None and config.attention_backend not in _CPU_BACKENDS:
        known = ", ".join(_CPU_BACKENDS)
        return f"engine.attention_backend={config.attention_backend}: on a CPU vllm knows only {known}"
    return ""


def refuse_without_kernel(config: VllmConfig, folder: Path) -> None:
    """Raise UsageError for a checkpoint in a format that vLLM has no kernel for here."""
    from bench.engines.support_matrix import of_checkpoint

    told = of_checkpoint(config.kind, accelerator_of(config), folder)
    if told is not None and told.answer is SupportAnswer.NO:
        raise UsageError(told.reason)


def speculative_words(config: SpeculativeConfig) -> dict[str, Any]:
    """vLLM's JSON for speculative decoding."""
    draft = {} if config.model is None else {"model": config.model}
    return {"method": config.method, "num_speculative_tokens": config.tokens, **draft}


def variables(config: VllmConfig, gpu: bool) -> dict[str, str]:
    """How many threads compute; on CPUs also the room for the KV cache, and the kernel that some of them lack.

    Bound threads would need the numbers of this machine's cores in the command.
    """
    threads = {} if config.threads is None else {"OMP_NUM_THREADS": str(config.threads)}
    if gpu:
        return threads
    unbound = {"VLLM_CPU_OMP_THREADS_BIND": "nobind"} if threads else {}
    kernel = reference_environment() if lacks_kernel() and not config.container.image else {}
    return {"VLLM_CPU_KVCACHE_SPACE": str(config.cpu_kv_cache_gib), **threads, **unbound, **kernel}


def cache_bytes(config: EngineConfig) -> float:
    """Bytes of a value in the KV cache, scales left out."""
    stored = config.kv_cache_dtype or "auto"
    if stored.startswith(("fp8", "int8", "mxfp8")):
        return 1.0
    if stored.startswith(("nvfp4", "int4", "fp4")) or "4bit" in stored:
        return 0.5
    return 4.0 if stored == "auto" and config.dtype in ("float32", "float") else 2.0
