"""A scorer for tests: plain functions of the token ids in the place of a model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

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

VARIANT = ScorableModel(format="gguf", path=Path("variant.gguf"), key="v" * 16, label="Q8_0")
BASELINE = ScorableModel(format="gguf", path=Path("base.gguf"), key="b" * 16, label="F16")


@dataclass
class FormulaScorer:
    """Every byte is a token; nll and divergence are constants plus a little of the token id.

    `picks` gives, by model key, the continuations that are likeliest after the prompts (by index, repeated).
    """

    nll: float = 2.0
    divergence: float = 0.01
    broken: bool = False
    build: str = "1"
    threads: int = 1
    bos_id: int | None = None
    scored: list[tuple[TokenWindows, str, str | None]] = field(default_factory=list)
    picks: dict[str, str] = field(default_factory=dict)
    asked: list[tuple[str, tuple[PromptGroup, ...]]] = field(default_factory=list)

    @property
    def scored_by(self) -> ScoredBy:
        return ScoredBy(engine="formula", build=self.build, path=ScoredOn.SAME_ARTEFACT_ELSEWHERE)

    @property
    def arithmetic(self) -> Mapping[str, Any]:
        return {"threads": self.threads}

    def tokenize(self, model: ScorableModel, text: Path, *, work_dir: Path, progress: Progress) -> Tokens:
        ids = np.frombuffer(text.read_bytes(), dtype=np.uint8).astype(np.int32)
        return Tokens(ids=ids, byte_lengths=np.ones_like(ids), bos_id=self.bos_id, vocabulary=256)

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
        self.scored.append((windows, variant.key, None if baseline is None else baseline.key))
        wiggle: NDArray[np.float64] = windows.targets / 1000.0
        nll = self.nll + wiggle
        if self.broken:
            nll[0, 3] = np.nan
        compared = None
        if baseline is not None:
            same = variant.key == baseline.key
            divergence = np.zeros_like(nll) if same else self.divergence + wiggle / 100
            compared = BaselineScores(
                nll=nll - 0.1, divergence=divergence + 0 * nll, top1_match=windows.targets % 4 != 0
            )
        return TokenScores(nll=nll, baseline=compared, non_finite=int(self.broken), usage={"wall_s": 0.1})

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
        self.asked.append((model.key, tuple(groups)))
        prompts = sum(len(group.endings) for group in groups)
        pattern = self.picks.get(model.key, "0")
        logprobs = np.full((prompts, len(continuations)), math.log(0.1))
        for row in range(prompts):
            logprobs[row, int(pattern[row % len(pattern)])] = math.log(0.7)
        if self.broken:
            logprobs[1] = np.nan
        return ContinuationScores(
            logprobs=logprobs,
            token_ids=tuple(range(len(continuations))),
            non_finite=int(self.broken),
            prompt_tokens=prompts,
            decoded_tokens=prompts,
            usage={"wall_s": 0.1},
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
        """The picked choice costs one nat, every other one nat and a little a character."""
        self.asked.append((model.key, tuple(groups)))
        pattern = self.picks.get(model.key, "0")
        own = [choices for group in groups for choices in group.choices]
        logprobs = [
            -1.0 if place == int(pattern[row % len(pattern)]) else -1.0 - 0.01 * len(text)
            for row, choices in enumerate(own)
            for place, text in enumerate(choices)
        ]
        return LikelihoodScores(
            logprobs=np.array(logprobs),
            greedy=np.zeros(len(logprobs), dtype=bool),
            tokens=np.ones(len(logprobs), dtype=np.int64),
            non_finite=0,
            prompt_tokens=len(own),
            decoded_tokens=len(own),
            usage={"wall_s": 0.1},
        )
