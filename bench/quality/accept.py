"""Acceptance: a fresh process loads the candidate and scores a short text, before anything is measured on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from bench.base.hashing import key_of
from bench.base.progress import Progress
from bench.engines.scoring import ScorableModel, Scorer, TokenScores
from bench.quality.config import DEFAULT_TEXT, ScoreFrom
from bench.quality.intervals import exp
from bench.quality.job import finite
from bench.quality.texts import text_digest, text_file
from bench.quality.windows import build_windows
from bench.toolchains.worker import WorkerError

ACCEPTED, CORRUPT = "accepted", "corrupt"
#: Two windows of 256 tokens of the shipped text: a broken artefact shows in one.
_CONTEXT, _WINDOWS = 256, 2
#: Raised when the check itself changes.
_VERSION = 2


def check_key(*, baseline: ScorableModel | None, scorer: Scorer, max_divergence: float) -> str:
    """What an acceptance verdict depends on besides the artefact."""
    return key_of(
        {
            "version": _VERSION,
            "text": text_digest(text_file(DEFAULT_TEXT)),
            "baseline": None if baseline is None else baseline.key,
            "scored_by": scorer.scored_by.as_dict(),
            "arithmetic": scorer.arithmetic,
            "max_divergence": max_divergence,
        }
    )


def accept(
    *,
    variant: ScorableModel,
    baseline: ScorableModel | None,
    scorer: Scorer,
    max_divergence: float,
    work_dir: Path,
    progress: Progress,
) -> dict[str, Any]:
    """Load and score the candidate; returns a verdict with its figures and, when corrupt, the reason.

    Corrupt: it does not load, its logits are not finite, its perplexity is no better than guessing evenly among the
    whole vocabulary, or its mean divergence from the baseline exceeds `max_divergence` (nats per token).
    Raises WorkerError when the scoring process itself fails.
    """
    progress.say(f"accepting {variant.label}: a fresh process loads and scores it")
    text = text_file(DEFAULT_TEXT)
    try:
        tokens = scorer.tokenize(variant, text, work_dir=work_dir, progress=progress)
        windows = build_windows(tokens, context=_CONTEXT, windows=_WINDOWS, score_from=ScoreFrom.second_half)
        scores = scorer.score(windows, variant=variant, baseline=baseline, work_dir=work_dir, progress=progress)
    except WorkerError as error:
        if error.kind != "load_failed":
            raise
        return _verdict(f"it does not load: {error}", scorer, max_divergence, {})
    figures = _figures(scores)
    return _verdict(_fault(figures, tokens.vocabulary, max_divergence), scorer, max_divergence, figures)


def _figures(scores: TokenScores) -> dict[str, Any]:
    base = scores.baseline
    return {
        "tokens": int(scores.nll.size),
        "non_finite": scores.non_finite,
        "perplexity": finite(exp(float(np.mean(scores.nll)))),
        "base_perplexity": None if base is None else finite(exp(float(np.mean(base.nll)))),
        "mean_divergence": None if base is None else finite(float(np.mean(base.divergence))),
    }


def _fault(figures: dict[str, Any], vocabulary: int, max_divergence: float) -> str | None:
    if figures["non_finite"]:
        return f"{figures['non_finite']} of {figures['tokens']} positions have logits that are not finite"
    perplexity, divergence = figures["perplexity"], figures["mean_divergence"]
    if perplexity is None or perplexity >= vocabulary:
        return f"its perplexity is no better than guessing among {vocabulary} tokens"
    if divergence is not None and divergence > max_divergence:
        return f"its mean divergence from the baseline is {divergence:.4g} nats per token, above {max_divergence:g}"
    return None


def _verdict(fault: str | None, scorer: Scorer, max_divergence: float, figures: dict[str, Any]) -> dict[str, Any]:
    return {
        "verdict": ACCEPTED if fault is None else CORRUPT,
        "reason": fault,
        "max_divergence": max_divergence,
        "scored_by": scorer.scored_by.as_dict(),
        **figures,
    }
