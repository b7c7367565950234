"""The transformers scorer's worker without transformers: what it computes of prompts; arithmetic over rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from bench.engines.workers.score_rows import common_length, spread
from tests.support import worker_module


@pytest.fixture(scope="module")
def worker() -> Iterator[Any]:
    """The worker's module; of its toolchain nothing is needed here."""
    with worker_module("transformers_scorer", absent=("torch", "transformers")) as module:
        yield module


class Memory:
    """What a model remembers of the tokens it has seen; `cuts` False: it cannot forget."""

    def __init__(self, held: list[int], cuts: bool) -> None:
        self.held = held
        self.cuts = cuts

    def crop(self, tokens: int) -> None:
        assert tokens < 0, "a positive number means the length that stays, and goes away in transformers 5.18"
        if not self.cuts:
            raise RuntimeError("the current layer does not track past states")
        del self.held[tokens:]


class Remembering:
    """A model whose logits depend on every token that came before."""

    def __init__(self, memory: str = "cuts") -> None:
        self.memory = memory
        self.computed = 0

    def after(self, ids: Any, past: Any, *, remember: bool, rows: int = 1) -> tuple[Any, Any]:
        assert len(ids) >= rows
        self.computed += len(ids)
        held = [*(past.held if past else []), *ids.tolist()]
        seen = [held[: len(held) - rows + row + 1] for row in range(rows)]
        logits = np.array([[hash(tuple(each)) % 1000, len(each)] for each in seen], dtype=np.float32)
        return logits, Memory(held, self.memory == "cuts") if remember and self.memory != "none" else None


PROMPTS = [np.array([1, 2, 3, 4, 5, 6, *rest], dtype=np.int32) for rest in ([7], [8, 9, 10, 11, 12], [13, 14])]
WHOLE = sum(map(len, PROMPTS))


@pytest.mark.parametrize("memory", ["cuts", "stays", "none"])
@pytest.mark.parametrize("shared", [0, 1, 6])
def test_every_prompt_is_seen_whole_whatever_is_kept(worker: Any, shared: int, memory: str) -> None:
    model = Remembering(memory)
    found = list(worker.after_prompts(model, PROMPTS, shared))
    for prompt, (logits, _) in zip(PROMPTS, found, strict=True):
        assert logits.tolist() == Remembering().after(prompt, None, remember=False)[0][0].tolist()
    assert sum(computed for _, computed in found) == model.computed
    assert model.computed == (WHOLE - 2 * shared if memory == "cuts" else WHOLE)


def test_one_prompt_alone_remembers_nothing(worker: Any) -> None:
    class Forgetful(Remembering):
        def after(self, ids: Any, past: Any, *, remember: bool, rows: int = 1) -> tuple[Any, Any]:
            assert not remember
            return super().after(ids, past, remember=remember, rows=rows)

    ((_, computed),) = worker.after_prompts(Forgetful(), PROMPTS[:1], 6)
    assert computed == len(PROMPTS[0])


def test_what_prompts_have_in_common() -> None:
    ids = [np.array(found, dtype=np.int32) for found in ([1, 2, 3], [1, 2], [1, 9, 3], [])]
    assert [common_length(ids[0], other) for other in ids] == [3, 2, 1, 0]


def test_values_of_finite_rows_are_put_back_in_their_places() -> None:
    placed = spread(np.array([5.0, 6.0]), np.array([False, True, False, True]))
    assert np.isnan(placed).tolist() == [True, False, True, False]
    assert placed[[1, 3]].tolist() == [5.0, 6.0]


@pytest.mark.parametrize("memory", ["cuts", "stays"])
def test_every_token_of_a_continuation_gets_its_row(worker: Any, memory: str) -> None:
    found = list(worker.after_prompts(Remembering(memory), PROMPTS, 5, [1, 3, 2]))
    for prompt, (rows, _), wanted in zip(PROMPTS, found, [1, 3, 2], strict=True):
        assert rows.shape == (wanted, 2)
        assert rows[:, 1].tolist() == list(range(len(prompt) - wanted + 1, len(prompt) + 1))


def test_what_is_left_of_choices_begins_within_a_question() -> None:
    from bench.engines.workers.hf_tokens import remaining

    choices = [(np.array([1]), [np.array([10]), np.array([11])]), (np.array([2]), [np.array([12]), np.array([13])])]
    left = [[int(prompt[0]), *(int(ids[0]) for ids in own)] for prompt, own in remaining(choices, 3)]
    assert left == [[2, 13]]
    assert len(remaining(choices, 0)) == 2
    assert remaining(choices, 4) == []
