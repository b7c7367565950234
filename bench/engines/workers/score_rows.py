"""What every scoring worker does alike: arithmetic over logits, and rows that outlive a killed worker.

Workers load it by path: numpy and nothing else.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ids = NDArray[np.int32]

#: Rows of logits turned into float64 at once.
ROWS = 16
#: How much work a kill may cost, in seconds.
KEPT_EVERY_S = 2.0


class Kept:
    """Rows of results, one a window or a prompt, in `folder`, so that whoever is asked the same again goes on there.

    `done` counts the rows that were there already. Without a folder they are in memory only.
    """

    def __init__(self, folder: str | None) -> None:
        self._folder = None if folder is None else Path(folder)
        self._rows: list[dict[str, NDArray[Any]]] = []
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._read(self._folder)
        self.done = self._written = len(self._rows)
        self._since = time.monotonic()

    def _read(self, folder: Path) -> None:
        while (place := folder / f"{len(self._rows):08d}.npz").is_file():
            with np.load(place, allow_pickle=False) as part:
                columns = {name: part[name] for name in part.files}
            self._rows += [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, **row: Any) -> None:
        """The next row; its columns are the same in every row."""
        self._rows.append({name: np.asarray(value) for name, value in row.items()})
        if time.monotonic() - self._since >= KEPT_EVERY_S:
            self.write()

    def write(self) -> None:
        """Put what is not yet there on disk, whole or not at all."""
        fresh = self._rows[self._written :]
        self._since = time.monotonic()
        if self._folder is None or not fresh:
            return
        place = self._folder / f"{self._written:08d}.npz"
        unfinished = place.with_name("unfinished.npz")
        np.savez(unfinished, allow_pickle=False, **{name: np.stack([row[name] for row in fresh]) for name in fresh[0]})
        unfinished.replace(place)
        self._written = len(self._rows)

    def columns(self) -> dict[str, NDArray[Any]]:
        """All rows, stacked."""
        self.write()
        return {name: np.stack([row[name] for row in self._rows]) for name in self._rows[0]} if self._rows else {}


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


def likelihood(rows: Floats, ids: Ids) -> tuple[float, bool]:
    """Log-probability of `ids` one after the other, and whether each is the likeliest; `rows` (ids, vocabulary) are the
    logits before each. NaN and False where they are not finite."""
    if not np.isfinite(rows).all():
        return float("nan"), False
    chosen = log_softmax(rows)[np.arange(len(ids)), ids]
    return float(chosen.sum()), bool((rows.argmax(axis=1) == ids).all())


def log_probabilities(logits: Floats, wanted: Sequence[int]) -> Floats:
    """Log-softmax of `logits` (vocabulary,) at the `wanted` ids; all NaN when any logit is not finite."""
    if not np.isfinite(logits).all():
        return np.full(len(wanted), np.nan)
    return log_softmax(logits[np.newaxis])[0, list(wanted)]
