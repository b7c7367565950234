"""llama.cpp as a scorer: full-vocabulary logits of the toolchain's own build, in a worker."""

from __future__ import annotations

import os
from pathlib import Path
from typing import ClassVar

from bench.engines.logit_scoring import LogitScorer
from bench.engines.scoring import ScoredOn
from bench.toolchains.toolchain import Toolchain


class LlamaCppScorer(LogitScorer):
    """Scores GGUF files. `threads` 0: all cores this process may use; `gpu_layers` as in llama.cpp."""

    engine: ClassVar[str] = "llama_cpp"
    format: ClassVar[str] = "gguf"
    worker: ClassVar[Path] = Path(__file__).parent / "workers" / "llama_cpp_scorer.py"

    def __init__(
        self,
        toolchain: Toolchain,
        *,
        threads: int = 0,
        gpu_layers: int = 0,
        scored_on: ScoredOn = ScoredOn.SAME_ARTEFACT_ELSEWHERE,
    ) -> None:
        settings = {"threads": threads or len(os.sched_getaffinity(0)), "gpu_layers": gpu_layers}
        super().__init__(toolchain, settings, scored_on)
