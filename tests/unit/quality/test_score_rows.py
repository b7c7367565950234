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
    assert worker.score_window([model], window, first, {"nll": nll}) == 0
    assert model.positions == list(range(context))
    certain = math.log(math.exp(5.0) + vocabulary - 1) - 5.0
    assert nll == pytest.approx(np.full(len(nll), certain))
