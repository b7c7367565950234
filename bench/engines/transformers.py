"""transformers' own server: what every Hugging Face checkpoint runs on, whatever packs its weights."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
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
    Support,
    SupportAnswer,
    engine,
)

if TYPE_CHECKING:
    from bench.engines.scoring import Scorer
    from bench.toolchains.toolchain import Toolchain

_SERVER = Path(__file__).with_name("workers") / "transformers_server.py"


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
    log_patterns: ClassVar[Sequence[LogPattern]] = (
        LogPattern(
            pattern=re.compile(r"out of memory|can't allocate memory|MemoryError", re.IGNORECASE),
            kind=FailureKind.OUT_OF_MEMORY,
            advice="lower engine.max_model_len or engine.max_sequences, or choose a smaller scheme",
        ),
        LogPattern(
            pattern=re.compile(r"does not recognize this architecture|Unrecognized model"),
            kind=FailureKind.CRASHED,
            advice="this transformers does not know the architecture: use a newer toolchain",
        ),
        LogPattern(
            pattern=re.compile(r"SafetensorError|Error\(s\) in loading state_dict"),
            kind=FailureKind.CORRUPT,
            advice="the checkpoint cannot be loaded: remove it from the cache and quantize again",
        ),
    )

    def support(self, config: EngineConfig, model_format: str) -> Support:
        """Hugging Face folders; which packings load depends on the toolchain."""
        if model_format == "hf":
            return Support(answer=SupportAnswer.YES)
        reason = f"transformers serves Hugging Face checkpoints, not {model_format}: choose engine=llama_cpp"
        return Support(answer=SupportAnswer.NO, reason=reason)

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
        if config.continuous_batching:
            tokens = config.max_model_len * config.max_sequences
            options |= {
                "cb_block_size": config.block_size,
                "cb_num_blocks": -(-tokens // config.block_size),
                "cb_max_batch_tokens": config.max_batch_tokens,
            }
        settings = {
            "model": str(model.path),
            "alias": model.name.replace("/", "-"),
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

    def scoring_toolchain(self, config: EngineConfig) -> str:
        """The serving environment itself."""
        return config.toolchain

    def scorer(self, config: EngineConfig, toolchain: Toolchain) -> Scorer:
        """Full-vocabulary logits of the same library; the server gives no log-probabilities."""
        from bench.engines.transformers_scoring import TransformersScorer

        return TransformersScorer(toolchain)
