"""transformers' own server: what every Hugging Face checkpoint runs on, whatever packs its weights."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from bench.base.errors import FailureKind, UsageError
from bench.base.schema import schema
from bench.engines.base import (
    Command,
    Engine,
    EngineConfig,
    Launch,
    LogPattern,
    ServedModel,
    StartPhase,
    engine,
)
from bench.engines.footprint import Footprint
from bench.engines.gpu import has_gpu
from bench.toolchains.config import Accelerator

if TYPE_CHECKING:
    from bench.engines.scoring import Scorer
    from bench.toolchains.toolchain import Toolchain

#: What has a meaning in a model's id: folders, a revision, a file.
_NOT_IN_IDS = re.compile(r"[/@:]")
_SERVER = Path(__file__).with_name("workers") / "transformers_server.py"
#: Python with torch, transformers and the server, or a GPU's context: of SmolLM2-135M in BF16 (257 MiB) 744 MiB were
#: resident on a CPU, with a cache that one request had hardly filled.
_PROCESS_BYTES = 500 << 20


@schema("engine", "transformers")
@dataclass(frozen=True, kw_only=True)
class TransformersConfig(EngineConfig):
    """Settings of `transformers serve`, here on one device.

    With `continuous_batching` requests share batches over a paged KV cache of `max_model_len` × `max_sequences` tokens;
    without, they are answered one after the other. `dtype`: `auto` is what the checkpoint says. `device`: `auto`, `cpu`
    or a GPU such as `cuda:0`.
    """

    kind: str = "transformers"
    toolchain: str = "llmcompressor"
    continuous_batching: bool = True
    dtype: str = "auto"
    device: str = "auto"
    block_size: int = 16
    max_batch_tokens: int = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("block_size", "max_batch_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"engine.{name}={getattr(self, name)} must be at least 1")


@engine("transformers")
class Transformers(Engine):
    """`transformers serve` with one model. It has no metrics."""

    config_class = TransformersConfig
    has_program = False
    load_methods: ClassVar[Mapping[str, str]] = {"bitsandbytes_nf4": "bnb-4bit", "bitsandbytes_int8": "bnb-8bit"}
    own_settings: ClassVar[Mapping[str, str]] = {
        "dtype": "",
        "block_size": "",
        "max_batched_tokens": "engine.max_batch_tokens",
    }
    packing_toolchains: ClassVar[Mapping[str, str]] = {"gptq": "gptqmodel", "awq": "gptqmodel"}
    start_phases: ClassVar[Sequence[StartPhase]] = (
        StartPhase(
            pattern=re.compile(r"Loading (?:weights|checkpoint shards): +(\d+)%"), words="loading weights {0} %"
        ),
    )
    log_patterns: ClassVar[Sequence[LogPattern]] = (
        LogPattern(
            pattern=re.compile(r"out of memory|can't allocate memory|MemoryError", re.IGNORECASE),
            kind=FailureKind.OUT_OF_MEMORY,
            advice="lower engine.max_model_len or engine.max_sequences, or choose a smaller scheme",
        ),
        LogPattern(
            pattern=re.compile(r"does not recognize this architecture|Unrecognized (model|configuration class)"),
            kind=FailureKind.UNSUPPORTED_ARCHITECTURE,
            advice="this transformers does not know the architecture: use a newer toolchain",
        ),
        LogPattern(
            pattern=re.compile(
                r"quantiz\w+ (model )?requires|A GPU is (needed|required)|GPU is required|requires a (CUDA )?GPU"
                r"|RuntimeError: NVFP4 "
            ),
            kind=FailureKind.MISSING_KERNEL,
            advice="this transformers has no kernels for the format here: choose another scheme, toolchain or GPU",
        ),
        LogPattern(
            pattern=re.compile(r"SafetensorError|Error\(s\) in loading state_dict"),
            kind=FailureKind.CORRUPT,
            advice="the checkpoint cannot be loaded: remove it from the cache and quantize again",
        ),
    )

    def accelerator(self, config: EngineConfig) -> Accelerator:
        """The device; `auto` is a GPU where there is one."""
        assert isinstance(config, TransformersConfig)
        if config.device == "auto":
            return Accelerator.cuda if has_gpu() else Accelerator.cpu
        return Accelerator.cpu if config.device == "cpu" else Accelerator.cuda

    def command(self, config: EngineConfig, model: ServedModel, launch: Launch, toolchain: Toolchain | None) -> Command:
        """The worker script with its settings as one JSON argument; raises UsageError on `extra_args`."""
        assert isinstance(config, TransformersConfig)
        if config.extra_args:
            raise UsageError("engine.extra_args: transformers is started without a command line of its own")
        options: dict[str, object] = {
            "host": launch.host,
            "port": launch.port,
            "device": config.device,
            "dtype": config.dtype,
            "continuous_batching": config.continuous_batching,
        }
        if model.load_method:
            options["quantization"] = self.load_methods[model.load_method]
        if config.continuous_batching:
            tokens = config.max_model_len * config.max_sequences
            options |= {
                "cb_block_size": config.block_size,
                "cb_num_blocks": -(-tokens // config.block_size),
                "cb_max_batch_tokens": config.max_batch_tokens,
            }
        settings = {
            "model": str(model.path),
            "name": model.name,
            "alias": _NOT_IN_IDS.sub("-", model.name),
            "threads": config.threads,
            "options": options,
        }
        program = "python" if toolchain is None else str(toolchain.python)
        threads = {} if config.threads is None else {"OMP_NUM_THREADS": str(config.threads)}
        return Command(
            argv=[program, "-I", str(_SERVER), json.dumps(settings)],
            env=threads,
            secret_env={"TRANSFORMERS_API_KEY": launch.api_key},
        )

    def footprint(self, config: EngineConfig) -> Footprint:
        """Weights of compressed-tensors are unpacked at the first token, and latent attention is kept unfolded."""
        assert isinstance(config, TransformersConfig)
        width = 4.0 if config.dtype == "float32" else 2.0
        return Footprint(
            tokens=config.max_model_len,
            sequences=config.max_sequences if config.continuous_batching else 1,
            block=config.block_size,
            key_bytes=width,
            value_bytes=width,
            latent_cache=False,
            batch_tokens=config.max_batch_tokens,
            logit_tokens=config.max_batch_tokens,
            gpu_layers=0 if config.device == "cpu" else None,
            needs_gpu="" if config.device in ("auto", "cpu") else f"engine.device={config.device}",
            process_bytes=_PROCESS_BYTES,
            unpacks=frozenset({"compressed-tensors"}),
            native=False,
        )

    def scoring_toolchain(self, config: EngineConfig) -> str:
        """The serving environment itself."""
        return config.toolchain

    def scorer(self, config: EngineConfig, toolchain: Toolchain) -> Scorer:
        """Full-vocabulary logits of the same library; the server gives no log-probabilities."""
        from bench.engines.transformers_scoring import TransformersScorer

        return TransformersScorer(toolchain)
