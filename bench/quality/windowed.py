"""What the tasks over a windowed text share: tokens, windows, scores, items."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.base.validity import Reason
from bench.engines.scoring import ScorableModel, Tokens, TokenScores, TokenWindows
from bench.quality.config import WindowedTextConfig
from bench.quality.job import TaskJob
from bench.quality.remembered import remember_nll, remembered_nll, unfinished, window_content
from bench.quality.texts import text_digest
from bench.quality.windows import bos_token, build_windows, scored_bytes


@dataclass(frozen=True, kw_only=True)
class WindowedText:
    """A text ready to be scored; `byte_lengths` are those of the scored tokens, shape (windows, scored)."""

    path: Path
    tokens: Tokens
    windows: TokenWindows
    byte_lengths: NDArray[np.int32]
    stride: int = 0

    def used(self) -> str:
        """The text in the windows."""
        count, context = self.windows.ids.shape
        size = int(self.tokens.byte_lengths[: context + (count - 1) * (self.stride or context)].sum())
        with self.path.open("rb") as stream:
            return stream.read(size).decode(errors="ignore")


def prepare(config: WindowedTextConfig, job: TaskJob) -> WindowedText:
    """Tokenize the text with the variant's own vocabulary and cut it."""
    path = config.text_path()
    job.progress.say(f"tokenizing {path.name}")
    tokens = job.scorer.tokenize(job.variant, path, work_dir=job.work_dir, progress=job.progress)
    windows = build_windows(
        tokens,
        context=config.context,
        windows=config.windows,
        score_from=config.score_from,
        stride=config.stride,
        bos=config.bos,
    )
    lengths = scored_bytes(tokens, windows, stride=config.stride, bos=config.bos)
    return WindowedText(path=path, tokens=tokens, windows=windows, byte_lengths=lengths, stride=config.stride)


def score(text: WindowedText, job: TaskJob, baseline: ScorableModel | None) -> TokenScores:
    """Score the windows under the variant, in a fresh process; alone, only where no task has done so before."""
    if baseline is None:
        known = remembered_nll(text.windows, job)
        if known is not None:
            job.progress.say(f"{job.variant.label} was scored over these windows before, reused")
            return known
    job.progress.say(f"scoring {job.variant.label}" + ("" if baseline is None else f" against {baseline.label}"))
    with unfinished(job, window_content(text.windows, job, baseline)) as kept:
        scores = job.scorer.score(
            text.windows,
            variant=job.variant,
            baseline=baseline,
            work_dir=job.work_dir,
            progress=job.progress,
            kept=kept,
        )
    remember_nll(text.windows, job, scores)
    return scores


def validity(job: TaskJob, scores: TokenScores) -> list[str]:
    """How the figures were scored, and whether logits were finite."""
    broken = [Reason.NON_FINITE] if scores.non_finite else []
    return [reason.value for reason in (*job.reasons, *broken)]


def item_columns(text: WindowedText) -> dict[str, NDArray[Any]]:
    """One item a scored token: its window, its position in the window, its id, its bytes of text."""
    windows = text.windows
    count, scored = windows.ids.shape[0], windows.scored
    return {
        "window": np.repeat(np.arange(count, dtype=np.int32), scored),
        "position": np.tile(np.arange(windows.first + 1, windows.first + 1 + scored, dtype=np.int32), count),
        "token_id": windows.targets.reshape(-1),
        "token_bytes": text.byte_lengths.reshape(-1),
    }


def describe(config: WindowedTextConfig, text: WindowedText, scores: TokenScores, job: TaskJob) -> dict[str, Any]:
    """What was scored, by what."""
    return {
        "scored_by": job.scorer.scored_by.as_dict(),
        "protocol": {
            "text": {"name": config.text if config.text == "default" else text.path.name,
                     "digest": text_digest(text.path), "tokens": len(text.tokens.ids)},
            "context": config.context,
            "windows": int(text.windows.ids.shape[0]),
            "score_from": config.score_from.value,
            "scored_tokens": int(text.windows.targets.size),
            "scored_bytes": int(text.byte_lengths.sum()),
            "stride": config.stride,
            "bos": bos_token(text.tokens, config.bos) is not None,
            "vocabulary": text.tokens.vocabulary,
        },
        "non_finite": scores.non_finite,
        "usage": scores.usage,
    }  # fmt: skip


def window_means(**columns: NDArray[np.float64]) -> list[dict[str, Any]]:
    """The mean of each column in each window, for charts; null where a window has missing scores."""
    count = len(next(iter(columns.values())))
    rows: list[dict[str, Any]] = []
    for index in range(count):
        means = {name: float(values[index].mean()) for name, values in columns.items()}
        rows.append({"window": index, **{name: mean if np.isfinite(mean) else None for name, mean in means.items()}})
    return rows
