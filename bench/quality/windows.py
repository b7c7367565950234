"""Cutting a text's tokens into windows, once, so that every engine gets the same ids."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bench.base.errors import UsageError
from bench.engines.scoring import Tokens, TokenWindows
from bench.quality.config import ScoreFrom


def first_scored(context: int, score_from: ScoreFrom) -> int:
    """The first position whose logits are scored."""
    return context // 2 if score_from is ScoreFrom.second_half else 0


def build_windows(tokens: Tokens, *, context: int, windows: int, score_from: ScoreFrom) -> TokenWindows:
    """The first `windows` (0: all) whole windows of `context` tokens, side by side without overlap.

    Where the vocabulary adds a BOS, it replaces the first token of each window (llama-perplexity's protocol); that
    token is never scored. Raises UsageError when the text is too short.
    """
    available = len(tokens.ids) // context
    wanted = windows or available
    if available < max(1, wanted):
        raise UsageError(
            f"the text has {len(tokens.ids)} tokens: {available} windows of {context}, {max(1, wanted)} are asked; "
            "give a longer text (task.text=PATH) or lower task.windows or task.context"
        )
    ids = tokens.ids[: wanted * context].reshape(wanted, context).astype(np.int32)
    if tokens.bos_id is not None:
        ids[:, 0] = tokens.bos_id
    return TokenWindows(ids=ids, first=first_scored(context, score_from))


def scored_bytes(tokens: Tokens, windows: TokenWindows) -> NDArray[np.int32]:
    """Bytes of text behind every scored token, shape (windows, scored)."""
    count, context = windows.ids.shape
    lengths = tokens.byte_lengths[: count * context].reshape(count, context)
    return lengths[:, windows.first + 1 :]
