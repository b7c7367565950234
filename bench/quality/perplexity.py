"""Perplexity: exp of the mean negative log-likelihood of the scored tokens."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.quality.config import PerplexityConfig
from bench.quality.intervals import exp, exp_interval, token_standard_error, window_interval
from bench.quality.job import Outcome, TaskJob, value_metric
from bench.quality.windowed import describe, item_columns, prepare, score, validity, window_means


def measure(config: PerplexityConfig, job: TaskJob) -> Outcome:
    """Score the text under the variant alone."""
    text = prepare(config, job)
    scores = score(text, job, None)
    found = validity(job, scores)
    return Outcome(
        metrics=likelihood_metrics(scores.nll, text.byte_lengths, found),
        items={**item_columns(text), "nll": scores.nll.reshape(-1)},
        details={**describe(config, text, scores, job), "windows": window_means(nll=scores.nll)},
        errors={"non_finite": scores.non_finite} if scores.non_finite else {},
        texts=[text.used()],
    )


def likelihood_metrics(
    nll: NDArray[np.float64], byte_lengths: NDArray[np.int32], found: list[str]
) -> dict[str, dict[str, Any]]:
    """Perplexity, mean nll and bits per byte of `nll`, shape (windows, scored), in nat.

    perplexity = exp(mean nll), its interval exp of the mean's; bits per byte = sum nll / (ln 2 · bytes of the scored
    tokens). `standard_error` is per-token, as llama-perplexity prints it. All null when any score is missing.
    """
    interval = window_interval(nll)
    mean = float(nll.mean())
    error = token_standard_error(nll)
    value = exp(mean)
    total_bytes = int(byte_lengths.sum())
    to_bits = nll.size / (math.log(2) * total_bytes) if total_bytes else math.nan
    bits_interval = None if interval is None else (interval[0] * to_bits, interval[1] * to_bits)
    return {
        "perplexity": value_metric(
            "1", value, exp_interval(interval), found, standard_error=None if error is None else value * error
        ),
        "mean_nll": value_metric("nat/token", mean, interval, found, standard_error=error),
        "bits_per_byte": value_metric("bit/byte", mean * to_bits, bits_interval, found),
    }
