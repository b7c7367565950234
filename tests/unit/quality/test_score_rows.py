"""The scoring worker's arithmetic, on logits small enough to compute by hand."""

from __future__ import annotations

import importlib.util
import math
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import bench.engines.scoring
from bench.engines.workers.score_rows import Kept, likelihood

WORKER = Path(bench.engines.scoring.__file__).parent / "workers" / "llama_cpp_scorer.py"


@pytest.fixture(scope="module")
def worker() -> Any:
    """The worker's module; its toolchain is not needed for arithmetic."""
    held = sys.modules.get("llama_cpp")
    sys.modules["llama_cpp"] = types.ModuleType("llama_cpp")
    try:
        spec = importlib.util.spec_from_file_location("scorer_under_test", WORKER)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    finally:
        del sys.modules["llama_cpp"]
        if held is not None:
            sys.modules["llama_cpp"] = held


def test_by_hand(worker: Any) -> None:
    p, q = np.array([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]), np.array([[0.25, 0.5, 0.25], [0.1, 0.1, 0.8]])
    # Logits are log-probabilities up to a constant, which softmax removes, however large.
    scores, broken = worker.score_rows(np.array([0, 2]), np.log(q) + 700.0, np.log(p) - 3.0)
    assert broken == 0
    assert scores["nll"] == pytest.approx([math.log(4), -math.log(0.8)])
    assert scores["base_nll"] == pytest.approx([math.log(2), -math.log(0.8)])
    assert scores["divergence"] == pytest.approx([0.5 * math.log(2) + 0.25 * math.log(0.5), 0.0], abs=1e-12)
    assert scores["top1_match"].tolist() == [False, True]


def test_rows_that_are_not_finite_are_counted_and_missing(worker: Any) -> None:
    variant, base = np.zeros((4, 5)), np.zeros((4, 5))
    variant[1, 2], base[3, 0] = np.inf, np.nan
    scores, broken = worker.score_rows(np.zeros(4, dtype=np.int32), variant, base)
    assert broken == 2
    for name in ("nll", "base_nll", "divergence"):
        assert np.isnan(scores[name]).tolist() == [False, True, False, True]
        assert scores[name][0] == pytest.approx(math.log(5) if "nll" in name else 0.0)
    assert scores["top1_match"].tolist() == [True, False, True, False]
    alone, broken = worker.score_rows(np.zeros(4, dtype=np.int32), variant)
    assert broken == 1
    assert set(alone) == {"nll"}


@settings(max_examples=50, deadline=None)
@given(logits=hnp.arrays(np.float32, (2, 3, 7), elements=st.floats(-60, 60, width=32)))
def test_divergence_against_a_plain_sum(worker: Any, logits: np.ndarray[Any, np.dtype[np.float32]]) -> None:
    variant, base = logits.astype(np.float64)
    scores, _ = worker.score_rows(np.array([0, 3, 6]), variant, base)
    for row in range(3):
        p = np.exp(base[row] - base[row].max())
        q = np.exp(variant[row] - variant[row].max())
        p, q = p / p.sum(), q / q.sum()
        expected = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)
        assert scores["divergence"][row] == pytest.approx(expected, rel=1e-6, abs=1e-9)
        assert scores["divergence"][row] >= 0
        assert scores["nll"][row] == pytest.approx(-math.log(q[3 * row]), rel=1e-9, abs=1e-9)


class Recorded:
    """A model whose logits say which token it was asked at which position."""

    def __init__(self, vocabulary: int) -> None:
        self.vocabulary = vocabulary
        self.positions: list[int] = []

    def clear(self) -> None:
        self.positions.clear()

    def decode(self, tokens: Any, position: int, wanted: list[bool]) -> Any:
        assert position == len(self.positions), "batches must follow each other"
        self.positions += range(position, position + len(tokens))
        rows = [index for index, keep in enumerate(wanted) if keep]
        logits = np.zeros((len(rows), self.vocabulary), dtype=np.float32)
        for row, index in enumerate(rows):
            logits[row, (position + index) % self.vocabulary] = 5.0
        return logits


@pytest.mark.parametrize(("context", "first"), [(8, 4), (8, 0), (512, 256), (1300, 650), (1024, 0), (513, 256)])
def test_each_position_is_scored_against_the_token_after_it(worker: Any, context: int, first: int) -> None:
    vocabulary = 1500
    window = np.roll(np.arange(context, dtype=np.int32), 1)  # the token after position i is i
    model = Recorded(vocabulary)
    nll = np.full(context - 1 - first, np.nan)
    worker.score_window([model], window, first, {"nll": nll})
    assert model.positions == list(range(context))
    certain = math.log(math.exp(5.0) + vocabulary - 1) - 5.0
    assert nll == pytest.approx(np.full(len(nll), certain))


class Remembering(Recorded):
    """A model that also keeps the tokens it was given; the logits after a prompt depend on all of them."""

    def __init__(self, *, batch_size: int = 4, cuts: bool = True) -> None:
        super().__init__(vocabulary=50)
        self.batch_size = batch_size
        self.cuts = cuts
        self.held: list[int] = []
        self.decoded = 0

    def clear(self) -> None:
        super().clear()
        self.held.clear()

    def forget_from(self, position: int) -> bool:
        if self.cuts or position == 0:
            del self.held[position:], self.positions[position:]
            return True
        return False

    def decode(self, tokens: Any, position: int, wanted: list[bool]) -> Any:
        assert len(tokens) <= self.batch_size
        logits = super().decode(tokens, position, wanted)
        self.held += tokens.tolist()
        self.decoded += len(tokens)
        return logits + np.float32(hash(tuple(self.held)) % 1000)


@pytest.mark.parametrize("cuts", [True, False])
@pytest.mark.parametrize("shared", [0, 1, 6])
def test_after_a_shared_prefix_every_prompt_is_seen_whole(worker: Any, shared: int, cuts: bool) -> None:
    prompts = [np.array([1, 2, 3, 4, 5, 6, *rest], dtype=np.int32) for rest in ([7], [8, 9, 10, 11, 12], [13, 14])]
    model = Remembering(cuts=cuts)
    found = list(worker.after_prompts(model, prompts, shared))
    for prompt, (logits, _) in zip(prompts, found, strict=True):
        fresh = worker.decode_all(Remembering(), prompt, 0)
        assert logits.tolist() == fresh.tolist()
    assert sum(computed for _, computed in found) == model.decoded
    whole = sum(len(prompt) for prompt in prompts)
    assert model.decoded == (whole - 2 * shared if cuts or not shared else whole)


def words(text: str) -> Any:
    """A vocabulary of the test: two line breaks are one token only at the very end, a letter after a space is one."""
    ids = [ord(character) for character in text.replace(" A", "\x01").replace(" B", "\x02")]
    if text.endswith("\n\n"):
        ids[-2:] = [3]
    return np.array([0, *ids], dtype=np.int32)


def test_a_token_over_the_seam_is_not_shared(worker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "prompt_tokens", lambda _vocab, text: words(text))
    prompts, shared = worker.tokenized_group(None, "ab\n\n", ["why:", "who:"])
    assert [prompt.tolist() for prompt in prompts] == [words("ab\n\nwhy:").tolist(), words("ab\n\nwho:").tolist()]
    assert shared == 3
    assert worker.tokenized_group(None, "", ["why:"])[1] == 0
    _, shared = worker.tokenized_group(None, "ab", ["", "c"])
    assert shared == 2, "the last token of a prompt is always decoded, for its logits"


def test_letters_must_be_one_different_token_each(worker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "prompt_tokens", lambda _vocab, text: words(text))
    assert worker.single_tokens(None, "Answer:", [" A", " B"]) == (1, 2)
    for texts in ([" A", " C"], [" A", " A"]):
        with pytest.raises(worker.ScorerError) as caught:
            worker.single_tokens(None, "Answer:", texts)
        assert caught.value.kind == "not_one_token"
    with pytest.raises(worker.ScorerError):
        worker.single_tokens(None, "two\n\n", [" A"])


def test_log_probabilities_of_chosen_tokens(worker: Any) -> None:
    logits = np.log(np.array([0.5, 0.25, 0.125, 0.125])) + 80.0
    assert worker.log_probabilities(logits, (2, 0)) == pytest.approx([math.log(0.125), math.log(0.5)])
    logits[3] = np.inf
    assert np.isnan(worker.log_probabilities(logits, (2, 0))).all()


def test_rows_on_disk_go_on_where_a_killed_worker_left_them(tmp_path: Path) -> None:
    first = Kept(str(tmp_path))
    for row in range(3):
        first.add(nll=np.array([row, np.nan]), tokens=row)
    first.write()
    first.add(nll=np.array([9.0, 9.0]), tokens=9)  # in memory when the worker is killed
    (tmp_path / "unfinished.npz").write_bytes(b"cut short")
    second = Kept(str(tmp_path))
    assert (second.done, len(second)) == (3, 3)
    second.add(nll=np.array([3.0, 3.0]), tokens=3)
    columns = second.columns()
    assert columns["nll"][:, 0].tolist() == [0.0, 1.0, 2.0, 3.0]
    assert np.isnan(columns["nll"][:3, 1]).all()
    assert columns["tokens"].tolist() == [0, 1, 2, 3]
    assert Kept(str(tmp_path)).done == 4
    assert Kept(None).columns() == {}


def test_a_likelihood_is_the_sum_and_says_whether_it_is_greedy() -> None:
    rows = np.log(np.array([[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]]))
    found, greedy = likelihood(rows, np.array([0, 2]))
    assert (found, greedy) == pytest.approx((math.log(0.35), True))
    found, greedy = likelihood(rows, np.array([0, 1]))
    assert (found, greedy) == pytest.approx((math.log(0.1), False))
    found, greedy = likelihood(np.array([[np.inf, 0.0]]), np.array([0]))
    assert math.isnan(found)
    assert not greedy
