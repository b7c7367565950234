from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.base.errors import UsageError
from bench.engines.scoring import Tokens
from bench.quality.config import Bos, ScoreFrom, WindowedTextConfig
from bench.quality.windows import build_windows, first_scored, scored_bytes


def tokens(count: int, bos_id: int | None = None) -> Tokens:
    ids = np.arange(100, 100 + count, dtype=np.int32)
    return Tokens(ids=ids, byte_lengths=ids % 7, bos_id=bos_id, vocabulary=100 + count, known_bos_id=1)


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


@given(context=st.integers(4, 32), stride=st.integers(1, 31), count=st.integers(32, 300))
def test_with_a_stride_every_token_is_scored_once_after_as_much_text(context: int, stride: int, count: int) -> None:
    if stride >= context:
        with pytest.raises(ValueError, match=r"below task\.context"):
            WindowedTextConfig(context=context, stride=stride)
        return
    text = tokens(count)
    built = build_windows(text, context=context, windows=0, score_from=ScoreFrom.second_half, stride=stride)
    scored = built.targets.reshape(-1)
    assert built.scored == stride
    assert scored.tolist() == list(range(100 + context - stride, 100 + context - stride + scored.size))
    assert count - (scored[-1] - 100 + 1) < stride, "no further window fits"
    assert (scored_bytes(text, built, stride=stride) == built.targets % 7).all()


def test_a_bos_is_as_asked() -> None:
    whole = tokens(40, bos_id=100)  # the text begins with the BOS its vocabulary put there
    cut = {"context": 10, "windows": 2, "score_from": ScoreFrom.second_half}
    assert build_windows(whole, **cut).ids[:, 0].tolist() == [100, 100]  # type: ignore[arg-type]
    without = build_windows(whole, **cut, bos=Bos.never)  # type: ignore[arg-type]
    assert without.ids[:, 0].tolist() == [101, 111]
    assert (scored_bytes(whole, without, bos=Bos.never) == without.targets % 7).all()
    plain = tokens(40)
    assert build_windows(plain, **cut).ids[:, 0].tolist() == [100, 110]  # type: ignore[arg-type]
    assert build_windows(plain, **cut, bos=Bos.always).ids[:, 0].tolist() == [1, 1]  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="has no BOS"):
        build_windows(dataclasses.replace(plain, known_bos_id=None), **cut, bos=Bos.always)  # type: ignore[arg-type]
