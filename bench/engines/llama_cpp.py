"""llama.cpp's own server, from the toolchain that also quantizes and scores."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, ClassVar

from bench.base.errors import CellFailure, FailureKind
from bench.base.schema import identity_when_changed, schema
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
from bench.engines.metric_maps import LLAMA_CPP
from bench.engines.served_logprobs import LlamaServerCompletion
from bench.toolchains.config import Accelerator

if TYPE_CHECKING:
    from bench.engines.scoring import Scorer
    from bench.toolchains.toolchain import Toolchain

LOG_PATTERNS = (
    LogPattern(
        pattern=re.compile(
            r"failed to allocate|unable to allocate|cannot allocate memory|out of memory|std::bad_alloc"
            r"|insufficient memory|failed to reserve memory|was unable to fit model into",
            re.IGNORECASE,
        ),
        kind=FailureKind.OUT_OF_MEMORY,
        advice="lower engine.max_model_len or engine.max_sequences, or choose a smaller scheme",
    ),
    LogPattern(
        pattern=re.compile(
            r"(unknown|unsupported) model architecture|unknown pre-tokenizer type|unsupported vocab type"
            r"|error loading model hyperparameters"
        ),
        kind=FailureKind.UNSUPPORTED_ARCHITECTURE,
        advice="this llama.cpp does not know the architecture: use a newer toolchain",
    ),
    LogPattern(
        pattern=re.compile(r"failed to open GGUF file '.*' \((No such file|Permission denied)"),
        kind=FailureKind.CRASHED,
        advice="the model's file is gone or may not be read: quantize again",
    ),
    LogPattern(
        pattern=re.compile(r"no kernel image|CUDA kernel .* has no device code|ggml was not compiled with"),
        kind=FailureKind.MISSING_KERNEL,
        advice="this llama.cpp has no kernel for this GPU: build it for the GPU's architecture",
    ),
    LogPattern(
        pattern=re.compile(r"ggml_cuda_init: failed to initialize|failed to initialize CUDA"),
        kind=FailureKind.DRIVER,
        advice="the GPU's driver is missing or too old for this build: see quantbench doctor",
    ),
    LogPattern(
        pattern=re.compile(
            r"invalid magic|failed to load model|error loading model|not within the file bounds|corrupted model"
            r"|failed to read (magic|header|key-value pairs|tensor (info|data))"
        ),
        kind=FailureKind.CORRUPT,
        advice="the GGUF cannot be loaded: remove it from the cache and quantize again",
    ),
)
START_PHASES = (
    StartPhase(pattern=re.compile(r"warming up the model|empty run"), words="warming up"),
    StartPhase(
        pattern=re.compile(r"load_model: initializing|llama_context:|llama_kv_cache"), words="making the context"
    ),
    StartPhase(pattern=re.compile(r"load_model: loading model|load_tensors:"), words="loading weights"),
)


class FlashAttention(StrEnum):
    """Whether llama.cpp uses flash attention; `auto` lets it decide by model and device."""

    auto = "auto"
    on = "on"
    off = "off"


class CacheType(StrEnum):
    """How llama.cpp stores keys or values of the KV cache."""

    f32 = "f32"
    f16 = "f16"
    bf16 = "bf16"
    q8_0 = "q8_0"
    q5_1 = "q5_1"
    q5_0 = "q5_0"
    q4_1 = "q4_1"
    q4_0 = "q4_0"
    iq4_nl = "iq4_nl"

    @property
    def quantized(self) -> bool:
        """Whether it holds less than 16 bits a value."""
        return self not in (CacheType.f32, CacheType.f16, CacheType.bf16)

    @property
    def value_bytes(self) -> float:
        """Bytes of a value, with its share of a block's scale."""
        return _BLOCK_BYTES.get(self.value, 64) / 32


#: Bytes of 32 values, scales included (`ggml-common.h`); 64 for the two 16-bit types.
_BLOCK_BYTES = {"f32": 128, "q8_0": 34, "q5_1": 24, "q5_0": 22, "q4_1": 20, "q4_0": 18, "iq4_nl": 18}


@schema("engine", "llama_cpp")
@dataclass(frozen=True, kw_only=True)
class LlamaCppConfig(EngineConfig):
    """Settings of llama-server. The context it allocates is `max_model_len` × `max_sequences` tokens.

    `gpu_layers` are offloaded; where it is not 0 and nothing is offloaded, the server is not used. `batch_size` and
    `ubatch_size` are tokens decoded at once, logically and physically. `cache_type_k` and `cache_type_v` are how the KV
    cache is stored. `cache_ram_mib` bounds the server's cache of past prompts in memory; 0 keeps runs independent of
    each other.
    """

    kind: str = "llama_cpp"
    toolchain: str = "llama_cpp"
    gpu_layers: int = 0
    batch_size: int | None = None
    cache_ram_mib: int = 0
    ubatch_size: int | None = identity_when_changed(None)
    flash_attention: FlashAttention = identity_when_changed(FlashAttention.auto)  # noqa: RUF009 - a field
    cache_type_k: CacheType = identity_when_changed(CacheType.f16)  # noqa: RUF009 - a field
    cache_type_v: CacheType = identity_when_changed(CacheType.f16)  # noqa: RUF009 - a field

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("batch_size", "ubatch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"engine.{name}={value} must be at least 1, or null for the engine's default")
        if self.batch_size is not None and self.ubatch_size is not None and self.ubatch_size > self.batch_size:
            raise ValueError(f"engine.ubatch_size={self.ubatch_size} must not exceed batch_size={self.batch_size}")
        if self.cache_type_v.quantized and self.flash_attention is FlashAttention.off:
            raise ValueError(
                f"engine.cache_type_v={self.cache_type_v} needs flash attention: engine.flash_attention=auto or on"
            )


@engine("llama_cpp")
class LlamaCpp(Engine):
    """`llama-server` of the native build."""

    config_class = LlamaCppConfig
    logprobs = LlamaServerCompletion()
    metrics_path = "/metrics"
    prompt_counter = "llamacpp:prompt_tokens"
    generation_counter = "llamacpp:tokens_predicted"
    metrics = LLAMA_CPP
    log_patterns: ClassVar[Sequence[LogPattern]] = LOG_PATTERNS
    start_phases: ClassVar[Sequence[StartPhase]] = START_PHASES
    own_settings: ClassVar[Mapping[str, str]] = {
        "max_batched_tokens": "engine.batch_size",
        "kv_cache_dtype": "engine.cache_type_k and engine.cache_type_v",
        "attention_backend": "engine.flash_attention",
    }

    def accelerator(self, config: EngineConfig) -> Accelerator:
        """A GPU where layers are offloaded to one."""
        assert isinstance(config, LlamaCppConfig)
        return offloaded_to(config.gpu_layers)

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
            "--threads-http",
            str(http_threads(config.max_sequences)),
            "--verbosity",
            _NAMES_BUFFERS,
        ]
        if config.threads is not None:
            argv += ["--threads", str(config.threads)]
        if config.batch_size is not None:
            argv += ["--batch-size", str(config.batch_size)]
        if config.ubatch_size is not None:
            argv += ["--ubatch-size", str(config.ubatch_size)]
        if config.flash_attention is not FlashAttention.auto:
            argv += ["--flash-attn", config.flash_attention.value]
        if config.cache_type_k is not CacheType.f16:
            argv += ["--cache-type-k", config.cache_type_k.value]
        if config.cache_type_v is not CacheType.f16:
            argv += ["--cache-type-v", config.cache_type_v.value]
        return Command(argv=[*argv, *config.extra_args], secret_env={"LLAMA_API_KEY": launch.api_key})

    def footprint(self, config: EngineConfig) -> Footprint:
        """The context of each sequence is rounded up to 256 tokens."""
        assert isinstance(config, LlamaCppConfig)
        return llama_footprint(
            config,
            sequences=config.max_sequences,
            logit_tokens=config.max_sequences,
            gpu_layers=config.gpu_layers,
            ubatch_size=config.ubatch_size,
            extra_bytes=config.cache_ram_mib * _MIB,
            key_bytes=config.cache_type_k.value_bytes,
            value_bytes=config.cache_type_v.value_bytes,
        )

    def check_log(self, config: EngineConfig, log: str) -> None:
        """Layers that were to be on the GPU must be there."""
        assert isinstance(config, LlamaCppConfig)
        require_offload(config.gpu_layers, log)

    def memory_of(self, log: str) -> EngineMemory:
        """The buffers that llama.cpp names in its log."""
        return buffers_in(log)

    def scoring_toolchain(self, config: EngineConfig) -> str:
        """The serving build itself."""
        return config.toolchain

    def scorer(self, config: EngineConfig, toolchain: Toolchain) -> Scorer:
        """Full-vocabulary logits of the library the server is linked against; the server itself gives none."""
        from bench.engines.llama_cpp_scoring import LlamaCppScorer

        assert isinstance(config, LlamaCppConfig)
        return LlamaCppScorer(toolchain, gpu_layers=config.gpu_layers)


_MIB = 1 << 20
#: llama-server with its libraries, threads and the model's vocabulary; 33 MiB were measured of SmolLM2-135M.
_PROCESS_BYTES = 48 * _MIB
#: What a CUDA context and its libraries keep of a GPU. Assumed: no GPU was at hand to measure it.
_CONTEXT_BYTES = 512 * _MIB
_CELLS = 256
#: llama.cpp's default.
UBATCH_SIZE = 512


def llama_footprint(
    config: EngineConfig,
    *,
    sequences: int,
    logit_tokens: int,
    gpu_layers: int,
    ubatch_size: int | None = None,
    extra_bytes: int = 0,
    key_bytes: float = 2.0,
    value_bytes: float = 2.0,
) -> Footprint:
    """What engines built on llama.cpp allocate. Negative `gpu_layers` are all.

    Its server has room for the logits of one token a sequence: with SmolLM2-135M, 4 sequences of 2048 tokens and 512
    tokens at once its log tells 180.00 MiB of KV cache, 15.51 MiB of compute buffer and 0.75 MiB of output.
    """
    return Footprint(
        tokens=config.max_model_len,
        sequences=sequences,
        block=_CELLS,
        key_bytes=key_bytes,
        value_bytes=value_bytes,
        batch_tokens=ubatch_size or UBATCH_SIZE,
        logit_tokens=logit_tokens,
        gpu_layers=None if gpu_layers < 0 else gpu_layers,
        gpus=None,
        process_bytes=_PROCESS_BYTES + extra_bytes + (_CONTEXT_BYTES if gpu_layers else 0),
    )


# A connection holds a thread of the server. Its pool grows by one thread for each connection that comes while none is
# idle, but a burst comes before the idle ones have woken: of 24 connections at once 6 were served, and `/metrics` not
# at all until one of them ended. Threads that wait cost nothing.
_HTTP_THREADS = 256
# From llama.cpp's fourth level on (the default is the third) its log says how large each buffer is, and on which
# device. That makes about 15 lines more a request, in a thread of their own, and none a token.
_NAMES_BUFFERS = "4"
_NO_GPU = re.compile(r"no usable GPU found|offloaded 0/\d+ layers to GPU")
_WEIGHTS = re.compile(r"(\S+) model buffer size")
_IN_MAIN_MEMORY = re.compile(r"CPU|AMX|BLAS|\S+_Host$")
#: RS: the recurrent state of models that have one in the place of keys and values.
_BUFFER = re.compile(r"(model|KV|RS) buffer size = +([0-9.]+) MiB")


def buffers_in(log: str) -> EngineMemory:
    """Weights and KV cache over all devices, as llama.cpp's log tells their buffers."""
    sizes: dict[str, float] = {}
    for kind, mib in _BUFFER.findall(log):
        name = "weights" if kind == "model" else "kv_cache"
        sizes[name] = sizes.get(name, 0.0) + float(mib)
    told = {name: round(mib * _MIB) for name, mib in sizes.items()}
    return EngineMemory(weights_bytes=told.get("weights"), kv_cache_bytes=told.get("kv_cache"))


def http_threads(sequences: int) -> int:
    """Threads of the HTTP server: for every sequence, and for a burst of others that wait or ask for metrics."""
    return max(_HTTP_THREADS, sequences + 64)


def require_offload(gpu_layers: int, log: str) -> None:
    """Raise CellFailure(cpu_fallback) when layers were to be on a GPU and llama.cpp's log says that none is.

    It warns when it has no GPU at all; when it has one that it does not use, all weights are in main memory.
    """
    if gpu_layers == 0:
        return
    said = [line for line in log.splitlines() if _NO_GPU.search(line) or _WEIGHTS.search(line)]
    places = _WEIGHTS.findall("\n".join(said))
    if any(_NO_GPU.search(line) for line in said) or (places and all(map(_IN_MAIN_MEMORY.match, places))):
        message = (
            f"engine.gpu_layers={gpu_layers}, but llama.cpp put no layer on a GPU and would run on the CPU: check the "
            "driver (quantbench doctor) and use a toolchain built for the GPU, or set engine.gpu_layers=0"
        )
        raise CellFailure(FailureKind.CPU_FALLBACK, message, log_tail="\n".join(said[-20:]))


def offloaded_to(gpu_layers: int) -> Accelerator:
    """What engines built on llama.cpp compute on."""
    return Accelerator.cuda if gpu_layers else Accelerator.cpu
