"""Scoring by full-vocabulary logits in a worker: what llama.cpp and transformers do alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np

from bench.base.errors import UsageError
from bench.base.files import write_json
from bench.base.progress import Progress
from bench.engines.scoring import (
    BaselineScores,
    ChoiceGroup,
    ContinuationScores,
    LikelihoodScores,
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


class LogitScorer:
    """A scorer over a worker that takes `tokenize`, `score` and `continuations`; a subclass names it and its settings.

    `scored_on` is the caller's to say: it knows which build serves.
    """

    engine: ClassVar[str]
    format: ClassVar[str]
    worker: ClassVar[Path]
    #: Variables of the worker's process.
    environment: Mapping[str, str] = MappingProxyType({})
    #: Ways to quantize while loading that the worker knows.
    load_methods: frozenset[str] = frozenset()

    def __init__(self, toolchain: Toolchain, settings: Mapping[str, Any], scored_on: ScoredOn) -> None:
        self._toolchain = toolchain
        self._settings = dict(settings)
        self._scored_on = scored_on

    @property
    def scored_by(self) -> ScoredBy:
        """The engine at the toolchain's lock."""
        build = f"{self._toolchain.name}@{self._toolchain.lock_hash[:12]}"
        return ScoredBy(engine=self.engine, build=build, path=self._scored_on)

    @property
    def arithmetic(self) -> Mapping[str, Any]:
        """The settings and the environment; its folder names the processor's instruction sets where that matters."""
        return {**self._settings, "environment": self._toolchain.prefix.name}

    def tokenize(self, model: ScorableModel, text: Path, *, work_dir: Path, progress: Progress) -> Tokens:
        """Tokenize as llama-perplexity does: one final newline dropped, special tokens of the text not parsed."""
        self._refuse_other_formats(model)
        arrays = work_dir / "tokens.npz"
        request = {"task": "tokenize", "model": str(model.path), "text": str(text), "arrays": str(arrays)}
        result = self._run(request, work_dir, progress)
        with np.load(arrays, allow_pickle=False) as loaded:
            return Tokens(
                ids=loaded["ids"],
                byte_lengths=loaded["byte_lengths"],
                bos_id=result["bos_id"],
                vocabulary=int(result["vocabulary"]),
                known_bos_id=result["known_bos_id"],
            )

    def score(
        self,
        windows: TokenWindows,
        *,
        variant: ScorableModel,
        baseline: ScorableModel | None,
        work_dir: Path,
        progress: Progress,
        kept: Path | None = None,
    ) -> TokenScores:
        """Load the models in a fresh process and score window by window; memory is bounded by a window."""
        for model in (variant, baseline):
            if model is not None:
                self._refuse_other_formats(model)
        work_dir.mkdir(parents=True, exist_ok=True)
        inputs, arrays = work_dir / "windows.npy", work_dir / "scores.npz"
        np.save(inputs, windows.ids.astype(np.int32), allow_pickle=False)
        request = {
            "task": "score",
            "variant": str(variant.path),
            "variant_load_method": variant.load_method,
            "baseline": None if baseline is None else str(baseline.path),
            "baseline_load_method": "" if baseline is None else baseline.load_method,
            "windows": str(inputs),
            "first": windows.first,
            **self._settings,
            "kept": None if kept is None else str(kept),
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
        kept: Path | None = None,
    ) -> ContinuationScores:
        """Decode each group's common tokens once and keep them; memory is bounded by the longest prompt."""
        self._refuse_other_formats(model)
        work_dir.mkdir(parents=True, exist_ok=True)
        prompts, arrays = work_dir / "prompts.json", work_dir / "continuations.npz"
        write_json(prompts, [{"prefix": group.prefix, "endings": group.endings} for group in groups])
        request = {
            "task": "continuations",
            "model": str(model.path),
            "load_method": model.load_method,
            "prompts": str(prompts),
            "continuations": list(continuations),
            **self._settings,
            "kept": None if kept is None else str(kept),
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

    def likelihoods(
        self,
        groups: Sequence[ChoiceGroup],
        *,
        model: ScorableModel,
        work_dir: Path,
        progress: Progress,
        kept: Path | None = None,
    ) -> LikelihoodScores:
        """Decode each group's common tokens once where the engine can; memory is bounded by the longest prompt."""
        self._refuse_other_formats(model)
        work_dir.mkdir(parents=True, exist_ok=True)
        prompts, arrays = work_dir / "prompts.json", work_dir / "likelihoods.npz"
        asked = [{"prefix": group.prefix, "endings": group.endings, "choices": group.choices} for group in groups]
        write_json(prompts, asked)
        request = {
            "task": "likelihoods",
            "model": str(model.path),
            "load_method": model.load_method,
            "prompts": str(prompts),
            **self._settings,
            "kept": None if kept is None else str(kept),
            "arrays": str(arrays),
        }
        result = self._run(request, work_dir, progress)
        with np.load(arrays, allow_pickle=False) as loaded:
            return LikelihoodScores(
                logprobs=loaded["logprobs"],
                greedy=loaded["greedy"],
                tokens=loaded["tokens"],
                non_finite=int(result["non_finite"]),
                prompt_tokens=int(result["prompt_tokens"]),
                decoded_tokens=int(result["decoded_tokens"]),
                usage=dict(result["usage"]),
            )

    def _refuse_other_formats(self, model: ScorableModel) -> None:
        if model.format != self.format:
            raise UsageError(
                f"{model.label}: {self.engine} scores {self.format} models, not {model.format}; choose another engine"
            )
        if model.load_method and model.load_method not in self.load_methods:
            raise UsageError(
                f"{model.label}: the scorer of {self.engine} does not quantize by {model.load_method} while loading; "
                "choose another engine"
            )

    def _run(self, request: dict[str, Any], work_dir: Path, progress: Progress) -> dict[str, Any]:
        return run_worker(
            self._toolchain,
            self.worker,
            request,
            work_dir=work_dir,
            log=work_dir / "scorer.log",
            progress=progress,
            env=self.environment,
        )
