"""Scoring: per-token figures of a text under a model. What quality asks for, whichever engine answers."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bench.base.progress import Progress


class ScoredOn(StrEnum):
    """How far the scoring is from the serving."""

    WHAT_SERVES = "what_serves"
    SAME_ARTEFACT_ELSEWHERE = "same_artefact_elsewhere"


@dataclass(frozen=True, kw_only=True)
class ScoredBy:
    """Which engine and build gave the figures."""

    engine: str
    build: str
    path: ScoredOn

    def as_dict(self) -> dict[str, Any]:
        """For summaries."""
        return {"engine": self.engine, "build": self.build, "path": self.path.value}


@dataclass(frozen=True, kw_only=True)
class ScorableModel:
    """A model that can be loaded: a GGUF file or a Hugging Face folder. `key` names its artefact."""

    format: str
    path: Path
    key: str
    label: str


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """A text in a model's vocabulary.

    `ids` and `byte_lengths` have shape (tokens,); `bos_id` is given when the vocabulary puts a BOS before a text.
    """

    ids: NDArray[np.int32]
    byte_lengths: NDArray[np.int32]
    bos_id: int | None
    vocabulary: int


@dataclass(frozen=True, kw_only=True)
class TokenWindows:
    """Token ids as they go to a model, shape (windows, context), BOS in place already.

    The logits at positions `first` … context-2 are scored against the tokens after them, so every window gives
    context-1-`first` scores.
    """

    ids: NDArray[np.int32]
    first: int

    @property
    def scored(self) -> int:
        """Scores a window gives."""
        return int(self.ids.shape[1]) - 1 - self.first

    @property
    def targets(self) -> NDArray[np.int32]:
        """The scored token ids, shape (windows, scored)."""
        return self.ids[:, self.first + 1 :]


@dataclass(frozen=True, kw_only=True)
class BaselineScores:
    """How a variant's predictions differ from a baseline's; arrays of shape (windows, scored).

    `nll`: of the baseline, nat; `divergence`: KL(baseline ‖ variant) over the whole vocabulary, nat; `top1_match`:
    whether both rank the same token first.
    """

    nll: NDArray[np.float64]
    divergence: NDArray[np.float64]
    top1_match: NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class TokenScores:
    """Scores of one model over windows. `nll` has shape (windows, scored), in nat.

    A position whose logits are not all finite, in the variant or the baseline, is NaN and counted in `non_finite`.
    """

    nll: NDArray[np.float64]
    baseline: BaselineScores | None
    non_finite: int
    usage: dict[str, Any]


class Scorer(Protocol):
    """An engine's way to score. Every call runs in a fresh process; both raise bench.toolchains.worker.WorkerError."""

    @property
    def scored_by(self) -> ScoredBy:
        """Recorded with every figure."""
        ...

    def tokenize(self, model: ScorableModel, text: Path, *, work_dir: Path, progress: Progress) -> Tokens:
        """The ids of the UTF-8 file `text` in the vocabulary of `model`."""
        ...

    def score(
        self,
        windows: TokenWindows,
        *,
        variant: ScorableModel,
        baseline: ScorableModel | None,
        work_dir: Path,
        progress: Progress,
    ) -> TokenScores:
        """Score the same token ids under `variant`, and against `baseline` when there is one."""
        ...
