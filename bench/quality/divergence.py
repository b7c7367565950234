"""Divergence: KL(baseline ‖ variant) per scored token, over the whole vocabulary, and what goes with it."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.base.validity import Reason
from bench.engines.scoring import BaselineScores, TokenScores
from bench.quality.config import DivergenceConfig
from bench.quality.intervals import exp, exp_interval, share_interval, token_standard_error, window_interval
from bench.quality.job import Outcome, TaskJob, value_metric
from bench.quality.perplexity import likelihood_metrics
from bench.quality.statistics.verdict import compare_means
from bench.quality.windowed import WindowedText, describe, item_columns, prepare, score, validity, window_means

_PERCENTILES = {"median_divergence": 50.0, "p90_divergence": 90.0, "p99_divergence": 99.0, "p999_divergence": 99.9}
_DELTA_PERCENTILES = {
    "min_delta_p": 0.0,
    "p01_delta_p": 1.0,
    "median_delta_p": 50.0,
    "p99_delta_p": 99.0,
    "max_delta_p": 100.0,
}
_UNITS = {
    "mean_divergence": "nat/token",
    **dict.fromkeys(_PERCENTILES, "nat/token"),
    "max_divergence": "nat/token",
    "top1_agreement": "ratio",
    "rms_delta_p": "1",
    "mean_delta_p": "1",
    **dict.fromkeys(_DELTA_PERCENTILES, "1"),
    "base_perplexity": "1",
    "perplexity_ratio": "ratio",
}


def measure(config: DivergenceConfig, job: TaskJob) -> Outcome:
    """Score variant and baseline side by side on the same token ids."""
    if job.baseline is None:
        missing = [*(reason.value for reason in job.reasons), Reason.NO_BASELINE.value]
        metrics = {tag: value_metric(unit, None, None, missing) for tag, unit in _UNITS.items()}
        return Outcome(metrics=metrics, items={}, details={"scored_by": job.scorer.scored_by.as_dict()}, errors={})
    text = prepare(config, job)
    scores = score(text, job, job.baseline)
    assert scores.baseline is not None, "a scorer that was given a baseline compares with it"
    found = validity(job, scores)
    metrics = divergence_metrics(scores.nll, scores.baseline, found)
    metrics |= likelihood_metrics(scores.nll, text.byte_lengths, found)
    floor = _noise_floor(text, job) if config.noise_floor else None
    if floor is not None:
        interval = _not_negative(window_interval(floor))
        metrics["noise_floor_divergence"] = value_metric("nat/token", float(floor.mean()), interval, found)
    means = window_means(nll=scores.nll, base_nll=scores.baseline.nll, divergence=scores.baseline.divergence)
    return Outcome(
        metrics=metrics,
        items={**item_columns(text), **_columns(scores, scores.baseline)},
        details={
            **describe(config, text, scores, job),
            "baseline": {"key": job.baseline.key, "label": job.baseline.label},
            "windows": means,
            "comparisons": comparisons(scores.nll, scores.baseline, floor, margin=config.margin),
        },
        errors={"non_finite": scores.non_finite} if scores.non_finite else {},
        texts=[text.used()],
    )


def divergence_metrics(nll: NDArray[np.float64], base: BaselineScores, found: list[str]) -> dict[str, dict[str, Any]]:
    """Figures of per-token arrays of shape (windows, scored); all null when any score is missing.

    perplexity_ratio = exp(mean(nll − base nll)), paired token by token. delta_p = p − p_base of the text's own next
    token; rms_delta_p = √mean(delta_p²). Percentiles interpolate linearly.
    """
    complete = bool(np.isfinite(nll).all() and np.isfinite(base.divergence).all())
    if not complete:
        return {tag: value_metric(unit, None, None, found) for tag, unit in _UNITS.items()}
    divergence = base.divergence
    difference = nll - base.nll
    delta = np.exp(-nll) - np.exp(-base.nll)
    delta_squared = np.square(delta)
    hits, total = int(base.top1_match.sum()), base.top1_match.size
    agreement = share_interval(hits, total)
    ratio_error = token_standard_error(difference)
    ratio = exp(float(difference.mean()))
    figures: dict[str, tuple[float, tuple[float, float] | None, dict[str, float | None]]] = {
        "mean_divergence": (
            float(divergence.mean()),
            _not_negative(window_interval(divergence)),
            {"standard_error": token_standard_error(divergence)},
        ),
        **{tag: (float(np.percentile(divergence, rank)), None, {}) for tag, rank in _PERCENTILES.items()},
        "max_divergence": (float(divergence.max()), None, {}),
        "top1_agreement": (hits / total, agreement, {}),
        "rms_delta_p": (math.sqrt(float(delta_squared.mean())), _sqrt(window_interval(delta_squared)), {}),
        "mean_delta_p": (float(delta.mean()), window_interval(delta), {}),
        **{tag: (float(np.percentile(delta, rank)), None, {}) for tag, rank in _DELTA_PERCENTILES.items()},
        "base_perplexity": (exp(float(base.nll.mean())), exp_interval(window_interval(base.nll)), {}),
        "perplexity_ratio": (
            ratio,
            exp_interval(window_interval(difference)),
            {"standard_error": None if ratio_error is None else ratio * ratio_error},
        ),
    }
    return {
        tag: value_metric(_UNITS[tag], value, interval, found, **extra)
        for tag, (value, interval, extra) in figures.items()
    }


def comparisons(
    nll: NDArray[np.float64], base: BaselineScores, floor: NDArray[np.float64] | None, *, margin: float
) -> dict[str, dict[str, Any]]:
    """How the variant compares, paired window by window: by its mean nll (the logarithm of the perplexity ratio), and
    by its divergence where that of the baseline from itself is known. Empty where scores are missing, or windows."""
    found = {"mean_nll": compare_means((nll - base.nll).mean(axis=1), margin=margin)} if np.isfinite(nll).all() else {}
    if floor is not None and np.isfinite(base.divergence).all() and np.isfinite(floor).all():
        found["divergence"] = compare_means((base.divergence - floor).mean(axis=1), margin=margin)
    return {tag: comparison.as_dict() for tag, comparison in found.items() if comparison is not None}


def _noise_floor(text: WindowedText, job: TaskJob) -> NDArray[np.float64]:
    """Divergences of the baseline against itself, each loaded anew, shape (windows, scored)."""
    assert job.baseline is not None
    itself = score(text, dataclasses.replace(job, variant=job.baseline), job.baseline)
    assert itself.baseline is not None
    return itself.baseline.divergence


def _columns(scores: TokenScores, base: BaselineScores) -> dict[str, NDArray[Any]]:
    return {
        "nll": scores.nll.reshape(-1),
        "base_nll": base.nll.reshape(-1),
        "divergence": base.divergence.reshape(-1),
        "top1_match": base.top1_match.reshape(-1),
        "p": np.exp(-scores.nll).reshape(-1),
        "base_p": np.exp(-base.nll).reshape(-1),
    }


def _not_negative(interval: tuple[float, float] | None) -> tuple[float, float] | None:
    """A divergence and a mean square are never negative."""
    return None if interval is None else (max(0.0, interval[0]), interval[1])


def _sqrt(interval: tuple[float, float] | None) -> tuple[float, float] | None:
    bounded = _not_negative(interval)
    return None if bounded is None else (math.sqrt(bounded[0]), math.sqrt(max(0.0, bounded[1])))
