"""Text Generation Inference by `text-generation-launcher`. It is in maintenance mode: upstream takes only small fixes.

Flags are those of its documentation at db931fcf (`docs/source/reference/launcher.md`); it was never run here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from bench.base.errors import FailureKind, UsageError
from bench.base.schema import schema
from bench.engines.base import (
    Command,
    EngineConfig,
    Launch,
    LogPattern,
    ServedModel,
    StartPhase,
    Support,
    SupportAnswer,
    engine,
)
from bench.engines.flags import Flag, common_argv, without_threads
from bench.engines.footprint import Footprint
from bench.engines.gpu import require_own_gpu
from bench.engines.metric_maps import TGI
from bench.engines.scored_by_transformers import ScoredByTransformers
from bench.engines.served_logprobs import TgiGenerate
from bench.toolchains.config import Accelerator

if TYPE_CHECKING:
    from bench.toolchains.toolchain import Toolchain

#: Values of `--quantize`.
QUANTIZE = (
    *("awq", "compressed-tensors", "eetq", "exl2", "gptq", "marlin"),
    *("bitsandbytes", "bitsandbytes-nf4", "bitsandbytes-fp4", "fp8"),
)
FLAGS: Mapping[str, Flag] = {
    "tensor_parallel_size": Flag(name="--num-shard"),
    "max_batched_tokens": Flag(name="--max-batch-prefill-tokens"),
    "memory_fraction": Flag(name="--cuda-memory-fraction"),
    # On is the default, with sizes of its own choice; --cuda-graphs 0 is how its documentation switches them off.
    "cuda_graphs": Flag(on=(), off=("--cuda-graphs", "0")),
    "dtype": Flag(name="--dtype", words={"float16": "float16", "bfloat16": "bfloat16"}),
    "kv_cache_dtype": Flag(
        name="--kv-cache-dtype",
        words={"fp8_e4m3": "fp8_e4m3fn", "fp8_e4m3fn": "fp8_e4m3fn", "fp8_e5m2": "fp8_e5m2"},
    ),
    "quantization": Flag(name="--quantize", words={word: word for word in QUANTIZE}),
}
#: Settings of its own → flags; those that are null are left to TGI.
_OWN_FLAGS = {
    "max_input_tokens": "--max-input-tokens",
    "max_batch_total_tokens": "--max-batch-total-tokens",
    "waiting_served_ratio": "--waiting-served-ratio",
    "max_waiting_tokens": "--max-waiting-tokens",
    "max_concurrent_requests": "--max-concurrent-requests",
    "max_client_batch_size": "--max-client-batch-size",
    "validation_workers": "--validation-workers",
}


@schema("engine", "tgi")
@dataclass(frozen=True, kw_only=True)
class TgiConfig(EngineConfig):
    """Settings of text-generation-launcher. What is null is left to TGI, which fits it to the GPU's memory.

    `max_model_len` is prompt and answer together, `max_input_tokens` the prompt alone (null: all but one), and
    `max_batch_total_tokens` what all running requests may come to. How new requests join a running batch:
    `waiting_served_ratio` of waiting to running ones from which they may interrupt it, `max_waiting_tokens` after which
    they do in any case, `max_concurrent_requests` above which requests are refused, `max_client_batch_size` prompts in
    one request. `max_sequences` is the batch size that is enforced, with `enforce_batch_size`, which TGI knows for
    hardware without unpadded inference only. `cuda_graph_sizes` are batch sizes that graphs are made for. A draft model
    cannot be given: `speculative` is n-gram speculation of its `tokens`.
    """

    own_program: ClassVar[str] = "text-generation-launcher"

    kind: str = "tgi"
    max_input_tokens: int | None = None
    max_batch_total_tokens: int | None = None
    waiting_served_ratio: float | None = None
    max_waiting_tokens: int | None = None
    max_concurrent_requests: int | None = None
    max_client_batch_size: int | None = None
    validation_workers: int | None = None
    enforce_batch_size: bool = False
    cuda_graph_sizes: list[int] = field(default_factory=list)
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in _OWN_FLAGS:
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"engine.{name}={value} must be positive, or null for TGI's default")
        if self.max_input_tokens is not None and self.max_input_tokens >= self.max_model_len:
            raise ValueError(
                f"engine.max_input_tokens={self.max_input_tokens} must be below max_model_len={self.max_model_len}, "
                "which is prompt and answer together"
            )
        total = self.max_batch_total_tokens
        if total is not None and total < self.max_model_len:
            raise ValueError(f"engine.max_batch_total_tokens={total} holds no request of {self.max_model_len} tokens")
        if any(size < 1 for size in self.cuda_graph_sizes):
            raise ValueError("engine.cuda_graph_sizes must be at least 1; engine.cuda_graphs=false switches them off")
        if self.cuda_graph_sizes and self.cuda_graphs is False:
            raise ValueError("engine.cuda_graph_sizes are given, and engine.cuda_graphs=false says there are none")
        if self.dtype is not None and self.quantization is not None:
            raise ValueError("engine.dtype cannot be used with engine.quantization (TGI's --dtype with --quantize)")


@engine("tgi")
class Tgi(ScoredByTransformers):
    """`text-generation-launcher` with one model.

    It is given no API key, which it would log and hand to its router in a command line: whoever reaches the port may
    use it, so it listens on the loopback interface only.
    """

    config_class = TgiConfig
    logprobs = TgiGenerate()
    distribution = "text-generation-server"
    metrics_path = "/metrics"
    prompt_counter = "tgi_request_input_length_sum"
    generation_counter = "tgi_request_generated_tokens_sum"
    metrics = TGI
    flags: ClassVar[Mapping[str, Flag]] = FLAGS
    own_settings: ClassVar[Mapping[str, str]] = {"speculative": ""}
    load_methods: ClassVar[Mapping[str, str]] = {
        "fp8": "fp8",
        "eetq": "eetq",
        "bitsandbytes_nf4": "bitsandbytes-nf4",
        "bitsandbytes_int8": "bitsandbytes",
    }
    log_patterns: ClassVar[Sequence[LogPattern]] = (
        LogPattern(
            pattern=re.compile(r"Not enough memory to handle|CUDA out of memory|OutOfMemoryError"),
            kind=FailureKind.OUT_OF_MEMORY,
            advice="lower engine.max_model_len, engine.max_batched_tokens or engine.max_batch_total_tokens",
        ),
        LogPattern(
            pattern=re.compile(
                r"Unsupported model type|sharded is not supported for|does not recognize this architecture"
            ),
            kind=FailureKind.UNSUPPORTED_ARCHITECTURE,
            advice="this TGI does not know the architecture: choose another engine",
        ),
        LogPattern(
            pattern=re.compile(
                r"(awq|gptq|eetq|marlin|exl2|fp8)\b.{0,120}(only (available|supported)|requires|not installed)",
                re.IGNORECASE,
            ),
            kind=FailureKind.MISSING_KERNEL,
            advice="this TGI has no kernel for the format on this GPU: choose another scheme or GPU",
        ),
    )
    start_phases: ClassVar[Sequence[StartPhase]] = (
        StartPhase(pattern=re.compile(r"Connected\b"), words="ready"),
        StartPhase(pattern=re.compile(r"Cuda Graphs? are enabled|Capturing"), words="capturing CUDA graphs"),
        StartPhase(pattern=re.compile(r"Warming up model"), words="warming up"),
        StartPhase(pattern=re.compile(r"Starting Webserver"), words="starting the web server"),
        StartPhase(pattern=re.compile(r"Waiting for shard|Starting shard"), words="loading weights"),
        StartPhase(pattern=re.compile(r"[Dd]ownload"), words="checking the files"),
    )

    def accelerator(self, config: EngineConfig) -> Accelerator:
        """It knows NVIDIA GPUs only."""
        return Accelerator.cuda

    def check_machine(self, config: EngineConfig) -> None:
        """It needs a GPU."""
        require_own_gpu(config)

    def command(self, config: EngineConfig, model: ServedModel, launch: Launch, toolchain: Toolchain | None) -> Command:
        """`launch.api_key` is not handed over. Usage statistics are off."""
        assert isinstance(config, TgiConfig)
        program = config.own_program
        argv = [
            *(program if toolchain is None else str(toolchain.executable(program)), "--model-id", str(model.path)),
            *("--hostname", launch.host, "--port", str(launch.port), "--usage-stats", "off"),
            *("--max-total-tokens", str(config.max_model_len)),
            *common_argv(config, self.flags),
        ]
        for name, flag in _OWN_FLAGS.items():
            value = getattr(config, name)
            if value is not None:
                argv += [flag, str(value)]
        if model.load_method:
            if config.quantization is not None or config.dtype is not None:
                raise UsageError(f"engine: the scheme asks for {model.load_method}; leave quantization and dtype null")
            argv += ["--quantize", self.load_methods[model.load_method]]
        if config.enforce_batch_size:
            argv += ["--max-batch-size", str(config.max_sequences)]
        if config.cuda_graph_sizes:
            argv += ["--cuda-graphs", ",".join(map(str, config.cuda_graph_sizes))]
        if config.speculation is not None:
            argv += ["--speculate", str(_speculated(config))]
        if config.trust_remote_code:
            argv.append("--trust-remote-code")
        return Command(argv=[*argv, *config.extra_args])

    def request_name(self, model: ServedModel) -> str:
        """`tgi`: any other name would ask for a LoRA adapter of that name."""
        return "tgi"

    def serves(self, config: EngineConfig, model_format: str, load_method: str = "", packing: str = "") -> Support:
        """As any engine; speculation is by n-grams alone, and the batch size is told where it is enforced."""
        assert isinstance(config, TgiConfig)
        found = super().serves(config, model_format, load_method, packing)
        if found.answer is SupportAnswer.NO or config.base_url:
            return found
        reason = without_threads(config)
        if config.max_sequences != TgiConfig.max_sequences and not config.enforce_batch_size:
            reason = (
                f"engine.max_sequences={config.max_sequences}: tgi fits its batches to the memory; leave it at "
                f"{TgiConfig.max_sequences}, or add engine.enforce_batch_size=true"
            )
        speculation = config.speculation
        if speculation is not None and (speculation.method != "ngram" or speculation.model is not None):
            reason = "engine.speculative: tgi speculates by ngram, or with the heads that a checkpoint itself has"
        return Support(answer=SupportAnswer.NO, reason=reason) if reason else found

    def footprint(self, config: EngineConfig) -> Footprint:
        """The share of a GPU's memory that it may fill, it fills."""
        assert isinstance(config, TgiConfig)
        width = 1.0 if config.kv_cache_dtype else 2.0
        return Footprint(
            tokens=config.max_model_len,
            sequences=config.max_sequences,
            key_bytes=width,
            value_bytes=width,
            batch_tokens=config.max_batched_tokens or config.max_model_len,
            needs_gpu="engine.kind=tgi",
            gpus=config.tensor_parallel_size,
            gpu_fraction=config.memory_fraction or 1.0,
        )


def _speculated(config: TgiConfig) -> int:
    assert config.speculation is not None
    return config.speculation.tokens
