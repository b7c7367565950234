"""Cutting a text's tokens into windows, once, so that every engine gets the same ids."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bench.base.errors import UsageError
from bench.engines.scoring import Tokens, TokenWindows
from bench.quality.config import Bos, ScoreFrom


def first_scored(context: int, score_from: ScoreFrom, stride: int = 0) -> int:
    """The first position whose logits are scored; with a stride, that of the window's last `stride` tokens."""
    if stride:
        return context - 1 - stride
    return context // 2 if score_from is ScoreFrom.second_half else 0


def build_windows(
    tokens: Tokens, *, context: int, windows: int, score_from: ScoreFrom, stride: int = 0, bos: Bos = Bos.auto
) -> TokenWindows:
    """The first `windows` (0: all) whole windows of `context` tokens, each `stride` tokens after the one before.

    Without a stride they lie side by side. With one, every window scores its last `stride` tokens, so that no token is
    scored twice and each has as much text before it. The BOS that `bos` asks for replaces
    the first token of each window (llama-perplexity's protocol) and is never scored. Raises UsageError when the text is
    too short, or when there is no BOS to put.
    """
    ids = text_ids(tokens, bos)
    step = stride or context
    available = 0 if len(ids) < context else 1 + (len(ids) - context) // step
    wanted = windows or available
    if available < max(1, wanted):
        raise UsageError(
            f"the text has {len(ids)} tokens: {available} windows of {context}, {max(1, wanted)} are asked; "
            "give a longer text (task.text=PATH) or lower task.windows or task.context"
        )
    cut = ids[_places(wanted, context, step)].astype(np.int32)
    begin = bos_token(tokens, bos)
    if begin is not None:
        cut[:, 0] = begin
    return TokenWindows(ids=cut, first=first_scored(context, score_from, stride))


def scored_bytes(tokens: Tokens, windows: TokenWindows, *, stride: int = 0, bos: Bos = Bos.auto) -> NDArray[np.int32]:
    """Bytes of text behind every scored token, shape (windows, scored)."""
    count, context = windows.ids.shape
    lengths = tokens.byte_lengths[len(tokens.ids) - len(text_ids(tokens, bos)) :]
    return lengths[_places(count, context, stride or context)][:, windows.first + 1 :]


def text_ids(tokens: Tokens, bos: Bos) -> NDArray[np.int32]:
    """The text's ids; without the BOS that its vocabulary put first where none is wanted."""
    put_first = tokens.bos_id is not None and len(tokens.ids) and tokens.ids[0] == tokens.bos_id
    return tokens.ids[1:] if bos is Bos.never and put_first else tokens.ids


def bos_token(tokens: Tokens, bos: Bos) -> int | None:
    """What replaces a window's first token. Raises UsageError where one is asked for and the vocabulary has none."""
    if bos is Bos.never:
        return None
    if bos is Bos.always and tokens.bos_id is None and tokens.known_bos_id is None:
        raise UsageError("task.bos=always: the model's vocabulary has no BOS; use task.bos=auto")
    return tokens.bos_id if bos is Bos.auto or tokens.bos_id is not None else tokens.known_bos_id


def _places(windows: int, context: int, step: int) -> NDArray[np.int64]:
    return np.arange(windows)[:, np.newaxis] * step + np.arange(context)
