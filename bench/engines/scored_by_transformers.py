"""Engines for GPUs whose servers give no whole distributions: transformers scores the checkpoints that they serve."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from bench.engines.base import Engine, EngineConfig

if TYPE_CHECKING:
    from bench.engines.scoring import Scorer
    from bench.toolchains.toolchain import Toolchain


class ScoredByTransformers(Engine):
    """Base of these engines. Their figures carry the reason that another build scored."""

    packing_toolchains: ClassVar[Mapping[str, str]] = {"gptq": "gptqmodel", "awq": "gptqmodel"}

    def scoring_toolchain(self, config: EngineConfig) -> str:
        """llm-compressor's environment, whose transformers loads the same checkpoints on any machine."""
        return "llmcompressor"

    def scorer(self, config: EngineConfig, toolchain: Toolchain) -> Scorer:
        """Full-vocabulary logits of the same checkpoint in transformers."""
        from bench.engines.transformers_scoring import TransformersScorer

        return TransformersScorer(toolchain)
