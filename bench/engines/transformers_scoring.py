"""transformers as a scorer: full-vocabulary logits of a Hugging Face checkpoint, in a worker."""

from __future__ import annotations

import os
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

from bench.base.process import SHORT_SPIN
from bench.engines.logit_scoring import LogitScorer
from bench.engines.scoring import ScoredOn
from bench.toolchains.cpu import cpu_features_key
from bench.toolchains.toolchain import Toolchain


class ScoringType(StrEnum):
    """What scores are computed in: 32-bit floats, or what the checkpoint says."""

    float32 = "float32"
    as_stored = "as_stored"


class TransformersScorer(LogitScorer):
    """Scores Hugging Face folders, unquantized or packed as the toolchain's transformers reads them.

    `threads` 0: all cores this process may use. In `float32` the figures are those of the weights, without the
    rounding of activations that a kernel of another type adds.
    """

    engine: ClassVar[str] = "transformers"
    format: ClassVar[str] = "hf"
    worker: ClassVar[Path] = Path(__file__).parent / "workers" / "transformers_scorer.py"
    environment: Mapping[str, str] = MappingProxyType(SHORT_SPIN)
    load_methods: frozenset[str] = frozenset({"bitsandbytes_nf4", "bitsandbytes_int8"})

    def __init__(
        self,
        toolchain: Toolchain,
        *,
        threads: int = 0,
        dtype: ScoringType = ScoringType.float32,
        scored_on: ScoredOn = ScoredOn.SAME_ARTEFACT_ELSEWHERE,
    ) -> None:
        settings = {"threads": threads or len(os.sched_getaffinity(0)), "dtype": dtype.value}
        super().__init__(toolchain, settings, scored_on)

    @property
    def arithmetic(self) -> Mapping[str, Any]:
        """torch chooses its kernels by the processor's instruction sets."""
        return {**super().arithmetic, "cpu": cpu_features_key()}
