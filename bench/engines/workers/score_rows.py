"""Arithmetic over logits that every scoring worker does alike. Workers load it by path: numpy and nothing else."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ids = NDArray[np.int32]

#: Rows of logits turned into float64 at once.
ROWS = 16


def log_softmax(logits: Floats) -> Floats:
    """Log-probabilities of float64 logits, row by row."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    normalised: Floats = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return normalised


def score_rows(targets: Ids, variant: Floats, baseline: Floats | None = None) -> tuple[dict[str, NDArray[Any]], int]:
    """Scores of rows of logits (rows, vocabulary), float64: {column: values}, and how many rows are not finite.

    nll = -log p(target); divergence = sum of p_base * (log p_base - log p) over the vocabulary, 0 where rounding
    makes it negative. Rows that are not finite are NaN (top1_match: False).
    """
    finite: NDArray[np.bool_] = np.asarray(np.isfinite(variant).all(axis=1))
    if baseline is not None:
        finite = np.asarray(finite & np.isfinite(baseline).all(axis=1))
    rows, kept = np.flatnonzero(finite), targets[finite]
    picked = np.arange(len(rows)), kept
    log_p = log_softmax(variant[rows])
    scores: dict[str, NDArray[Any]] = {"nll": spread(-log_p[picked], finite)}
    if baseline is not None:
        log_base = log_softmax(baseline[rows])
        divergence = (np.exp(log_base) * (log_base - log_p)).sum(axis=1)
        scores["base_nll"] = spread(-log_base[picked], finite)
        scores["divergence"] = spread(np.maximum(divergence, 0.0), finite)
        scores["top1_match"] = (variant.argmax(axis=1) == baseline.argmax(axis=1)) & finite
    return scores, int((~finite).sum())


def spread(values: Floats, finite: NDArray[np.bool_]) -> Floats:
    """Values of the finite rows in a row for all, NaN elsewhere."""
    column = np.full(len(finite), np.nan)
    column[finite] = values
    return column


def common_length(one: Ids, other: Ids) -> int:
    """How many first ids are equal."""
    length = min(len(one), len(other))
    different = np.flatnonzero(one[:length] != other[:length])
    return int(different[0]) if len(different) else length


def log_probabilities(logits: Floats, wanted: Sequence[int]) -> Floats:
    """Log-softmax of `logits` (vocabulary,) at the `wanted` ids; all NaN when any logit is not finite."""
    if not np.isfinite(logits).all():
        return np.full(len(wanted), np.nan)
    return log_softmax(logits[np.newaxis])[0, list(wanted)]
