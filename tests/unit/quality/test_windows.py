from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.base.errors import UsageError
from bench.engines.scoring import Tokens
from bench.quality.config import ScoreFrom
from bench.quality.windows import build_windows, first_scored, scored_bytes


def tokens(count: int, bos_id: int | None = None) -> Tokens:
    ids = np.arange(100, 100 + count, dtype=np.int32)
    return Tokens(ids=ids, byte_lengths=ids % 7, bos_id=bos_id, vocabulary=100 + count)


@given(
    context=st.integers(4, 64),
    count=st.integers(1, 500),
    windows=st.integers(0, 6),
    bos_id=st.sampled_from([None, 1]),
    score_from=st.sampled_from(list(ScoreFrom)),
)
def test_windows_tile_the_text(
    context: int, count: int, windows: int, bos_id: int | None, score_from: ScoreFrom
) -> None:
    text = tokens(count, bos_id)
    if count // context < max(1, windows):
        with pytest.raises(UsageError, match="give a longer text"):
            build_windows(text, context=context, windows=windows, score_from=score_from)
        return
    built = build_windows(text, context=context, windows=windows, score_from=score_from)
    rows = windows or count // context
    assert built.ids.shape == (rows, context)
    flat = built.ids.reshape(-1).copy()
    if bos_id is not None:
        assert (built.ids[:, 0] == bos_id).all()
        flat[::context] = text.ids[: rows * context : context]
    assert (flat == text.ids[: rows * context]).all()
    assert built.targets.shape == (rows, built.scored)
    assert built.scored == context - 1 - first_scored(context, score_from)
    assert (built.targets[:, -1] == built.ids[:, -1]).all()
    assert bos_id not in built.targets
    assert (scored_bytes(text, built) == built.targets % 7).all()


def test_llama_perplexity_scores_255_tokens_of_512() -> None:
    built = build_windows(tokens(5000), context=512, windows=8, score_from=ScoreFrom.second_half)
    assert (built.first, built.scored, built.targets.size) == (256, 255, 2040)
    assert built.targets[0, 0] == 100 + 257
    every = build_windows(tokens(5000), context=512, windows=8, score_from=ScoreFrom.second_token)
    assert (every.first, every.scored) == (0, 511)


def test_the_text_is_never_changed_by_bos() -> None:
    text = tokens(100, bos_id=1)
    build_windows(text, context=10, windows=0, score_from=ScoreFrom.second_half)
    assert text.ids[0] == 100
