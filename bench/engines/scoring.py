"""Scoring: per-token figures of a text under a model. What quality asks for, whichever engine answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    """A model that can be loaded: a GGUF file or a Hugging Face folder. `key` names its artefact.

    `load_method`: how it is quantized while it is loaded; empty: not at all.
    """

    format: str
    path: Path
    key: str
    label: str
    load_method: str = ""


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """A text in a model's vocabulary.

    `ids` and `byte_lengths` have shape (tokens,); `bos_id` is given when the vocabulary puts a BOS before a text, and
    `known_bos_id` when it has one at all.
    """

    ids: NDArray[np.int32]
    byte_lengths: NDArray[np.int32]
    bos_id: int | None
    vocabulary: int
    known_bos_id: int | None = None


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


@dataclass(frozen=True, kw_only=True)
class PromptGroup:
    """Prompts that begin alike, such as questions after the same examples: `prefix` + each of `endings`."""

    prefix: str
    endings: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ContinuationScores:
    """What a model thinks comes after each prompt, all groups in one sequence.

    `logprobs` has shape (prompts, continuations): log-probability of each continuation's one token over the whole
    vocabulary, nat; NaN where the logits are not all finite, counted in `non_finite`. `prompt_tokens` are those of
    all prompts in full, `decoded_tokens` those that were computed: a shared prefix counts once a group.
    """

    logprobs: NDArray[np.float64]
    token_ids: tuple[int, ...]
    non_finite: int
    prompt_tokens: int
    decoded_tokens: int
    usage: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class ChoiceGroup(PromptGroup):
    """Prompts with continuations of their own: `choices` are those of each ending."""

    choices: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, kw_only=True)
class LikelihoodScores:
    """How likely whole continuations are, all groups' prompts in one sequence, and each prompt's choices in theirs.

    Arrays of shape (choices of all prompts,): `logprobs`, the sum over a continuation's `tokens`, nat; `greedy`,
    whether each of them is the likeliest. NaN where the logits are not all finite, counted in `non_finite`.
    """

    logprobs: NDArray[np.float64]
    greedy: NDArray[np.bool_]
    tokens: NDArray[np.int64]
    non_finite: int
    prompt_tokens: int
    decoded_tokens: int
    usage: dict[str, Any]


class Scorer(Protocol):
    """An engine's way to score. Every call runs in a fresh process; all raise bench.toolchains.worker.WorkerError.

    Below `kept`, a folder of the caller's, is put what was found so far: who is stopped and asks the same again, with
    the same folder, goes on there.
    """

    @property
    def scored_by(self) -> ScoredBy:
        """Recorded with every figure."""
        ...

    @property
    def arithmetic(self) -> Mapping[str, Any]:
        """What else decides the last bits of every figure: device, threads, the processor the build is for."""
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
        kept: Path | None = None,
    ) -> TokenScores:
        """Score the same token ids under `variant`, and against `baseline` when there is one."""
        ...

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
        """Log-probabilities of each of `continuations` right after every prompt.

        Prompts are tokenized as the completion endpoint does it: special tokens parsed, a BOS where the vocabulary
        adds one. The error's kind is `not_one_token` when a continuation is not a token of its own after a prompt,
        and `prompt_too_long` when a prompt exceeds the context the model was made for.
        """
        ...

    def likelihoods(
        self,
        groups: Sequence[ChoiceGroup],
        *,
        model: ScorableModel,
        work_dir: Path,
        progress: Progress,
        kept: Path | None = None,
    ) -> LikelihoodScores:
        """Log-likelihood of every choice after its prompt.

        A choice's tokens are those that the whole text has more than the prompt, as lm-eval splits them. The error's
        kind is `no_token` where that is none, and `prompt_too_long` as above.
        """
        ...
