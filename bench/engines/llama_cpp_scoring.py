"""llama.cpp as a scorer: full-vocabulary logits of the toolchain's own build, in a worker."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.base.errors import UsageError
from bench.base.files import write_json
from bench.base.progress import Progress
from bench.engines.scoring import (
    BaselineScores,
    ContinuationScores,
    PromptGroup,
    ScorableModel,
    ScoredBy,
    ScoredOn,
    Tokens,
    TokenScores,
    TokenWindows,
)
from bench.toolchains.toolchain import Toolchain
from bench.toolchains.worker import run_worker

_WORKER = Path(__file__).parent / "workers" / "llama_cpp_scorer.py"


class LlamaCppScorer:
    """Scores GGUF files. `threads` 0: all cores this process may use; `gpu_layers` as in llama.cpp.

    `scored_on` is the caller's to say: it knows which build serves.
    """

    def __init__(
        self,
        toolchain: Toolchain,
        *,
        threads: int = 0,
        gpu_layers: int = 0,
        scored_on: ScoredOn = ScoredOn.SAME_ARTEFACT_ELSEWHERE,
    ) -> None:
        self._toolchain = toolchain
        self._threads = threads or len(os.sched_getaffinity(0))
        self._gpu_layers = gpu_layers
        self._scored_on = scored_on

    @property
    def scored_by(self) -> ScoredBy:
        """llama.cpp at the toolchain's lock."""
        build = f"{self._toolchain.name}@{self._toolchain.lock_hash[:12]}"
        return ScoredBy(engine="llama_cpp", build=build, path=self._scored_on)

    @property
    def arithmetic(self) -> Mapping[str, Any]:
        """The environment's folder names the processor's instruction sets where the build depends on them."""
        return {"threads": self._threads, "gpu_layers": self._gpu_layers, "environment": self._toolchain.prefix.name}

    def tokenize(self, model: ScorableModel, text: Path, *, work_dir: Path, progress: Progress) -> Tokens:
        """Tokenize as llama-perplexity does: one final newline dropped, special tokens of the text not parsed."""
        _refuse_other_formats(model)
        arrays = work_dir / "tokens.npz"
        request = {"task": "tokenize", "model": str(model.path), "text": str(text), "arrays": str(arrays)}
        result = self._run(request, work_dir, progress)
        with np.load(arrays, allow_pickle=False) as loaded:
            return Tokens(
                ids=loaded["ids"],
                byte_lengths=loaded["byte_lengths"],
                bos_id=result["bos_id"],
                vocabulary=int(result["vocabulary"]),
            )

    def score(
        self,
        windows: TokenWindows,
        *,
        variant: ScorableModel,
        baseline: ScorableModel | None,
        work_dir: Path,
        progress: Progress,
    ) -> TokenScores:
        """Load the models in a fresh process and score window by window; memory is bounded by a window."""
        for model in (variant, baseline):
            if model is not None:
                _refuse_other_formats(model)
        work_dir.mkdir(parents=True, exist_ok=True)
        inputs, arrays = work_dir / "windows.npy", work_dir / "scores.npz"
        np.save(inputs, windows.ids.astype(np.int32), allow_pickle=False)
        request = {
            "task": "score",
            "variant": str(variant.path),
            "baseline": None if baseline is None else str(baseline.path),
            "windows": str(inputs),
            "first": windows.first,
            "threads": self._threads,
            "gpu_layers": self._gpu_layers,
            "arrays": str(arrays),
        }
        result = self._run(request, work_dir, progress)
        with np.load(arrays, allow_pickle=False) as loaded:
            compared = None
            if baseline is not None:
                compared = BaselineScores(
                    nll=loaded["base_nll"], divergence=loaded["divergence"], top1_match=loaded["top1_match"]
                )
            return TokenScores(
                nll=loaded["nll"],
                baseline=compared,
                non_finite=int(result["non_finite"]),
                usage=dict(result["usage"]),
            )

    def continuations(
        self,
        groups: Sequence[PromptGroup],
        continuations: Sequence[str],
        *,
        model: ScorableModel,
        work_dir: Path,
        progress: Progress,
    ) -> ContinuationScores:
        """Decode each group's common tokens once and keep them; memory is bounded by the longest prompt."""
        _refuse_other_formats(model)
        work_dir.mkdir(parents=True, exist_ok=True)
        prompts, arrays = work_dir / "prompts.json", work_dir / "continuations.npz"
        write_json(prompts, [{"prefix": group.prefix, "endings": group.endings} for group in groups])
        request = {
            "task": "continuations",
            "model": str(model.path),
            "prompts": str(prompts),
            "continuations": list(continuations),
            "threads": self._threads,
            "gpu_layers": self._gpu_layers,
            "arrays": str(arrays),
        }
        result = self._run(request, work_dir, progress)
        with np.load(arrays, allow_pickle=False) as loaded:
            return ContinuationScores(
                logprobs=loaded["logprobs"],
                token_ids=tuple(int(token) for token in result["token_ids"]),
                non_finite=int(result["non_finite"]),
                prompt_tokens=int(result["prompt_tokens"]),
                decoded_tokens=int(result["decoded_tokens"]),
                usage=dict(result["usage"]),
            )

    def _run(self, request: dict[str, Any], work_dir: Path, progress: Progress) -> dict[str, Any]:
        return run_worker(
            self._toolchain, _WORKER, request, work_dir=work_dir, log=work_dir / "scorer.log", progress=progress
        )


def _refuse_other_formats(model: ScorableModel) -> None:
    if model.format != "gguf":
        raise UsageError(f"{model.label}: llama.cpp scores GGUF files, not {model.format}; choose another engine")
