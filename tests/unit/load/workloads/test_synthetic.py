"""Synthetic prompts: drawn from a seed, told apart by their first words, sharing what they should and nothing else."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import numpy as np
import pytest

from bench.load.arrivals.trace import BLOCK_TOKENS, Demand
from bench.load.config import LengthConfig, LengthKind, SyntheticConfig
from bench.load.prompts import vocabulary
from bench.load.workloads.draft import Draft
from bench.load.workloads.fit import Fitter
from bench.load.workloads.synthetic import SyntheticSource


def source(number: int, *, name: str = "c1", repeat: int = 0, **workload: Any) -> SyntheticSource:
    config = SyntheticConfig(**{"input_tokens": 16, **workload})
    return SyntheticSource(config, number, name=name, repeat=repeat, fitter=None)


def drafts(number: int, **settings: Any) -> list[Draft]:
    made = source(number, **settings)
    return [made.session(None)[0] for _ in range(number)]


def texts(number: int, **settings: Any) -> list[str]:
    return [str(draft.prompt) for draft in drafts(number, **settings)]


def test_words_are_distinct_and_plain() -> None:
    words = vocabulary()
    assert len(words) == len(set(words)) > 1000
    assert all(word.isalpha() and word.islower() for word in words)


def test_drawn_from_seed_scenario_and_repeat() -> None:
    assert texts(5) == texts(5)
    others = [texts(5, seed=1), texts(5, name="c4"), texts(5, repeat=1)]
    assert all(set(texts(5)).isdisjoint(other) for other in others)


def test_first_words_differ_until_there_are_none_left_then_first_pairs() -> None:
    first = len(vocabulary())
    prompts = texts(first + 500)
    assert len({prompt.split()[0] for prompt in prompts[:first]}) == first
    assert len({tuple(prompt.split()[:2]) for prompt in prompts}) == len(prompts)


def test_length_in_words_and_sharing() -> None:
    assert {len(prompt.split()) for prompt in texts(20, input_tokens=33)} == {33}
    assert len(set(texts(20, unique=False))) == 1


def test_groups_share_a_prefix_and_nothing_behind_it() -> None:
    prompts = [text.split() for text in texts(400, prefix_groups=3, prefix_tokens=10, prefix_share=0.75)]
    counts = Counter(" ".join(words[:10]) for words in prompts)
    shared = {prefix: count for prefix, count in counts.items() if count > 1}
    assert len(shared) == 3
    assert sum(shared.values()) == pytest.approx(300, abs=5 * (400 * 0.75 * 0.25) ** 0.5)
    assert min(shared.values()) > 60
    assert len({words[10] for words in prompts if " ".join(words[:10]) in shared}) == sum(shared.values())


def test_blocks_of_a_trace_are_shared_exactly_as_they_are_named() -> None:
    made = source(10)
    demands = [Demand(1100, 3, (7, 8, 9)), Demand(1300, 3, (7, 8, 10)), Demand(1100, 3, (7, 8, 9)), Demand(600, 1)]
    prompts = [str(made.session(demand)[0].prompt).split() for demand in demands]
    assert [len(words) for words in prompts] == [1100, 1300, 1100, 600]
    assert prompts[0] == prompts[2]
    common = [a == b for a, b in zip(prompts[0], prompts[1], strict=False)].index(False)
    assert 2 * BLOCK_TOKENS <= common < 2 * BLOCK_TOKENS + 4
    assert prompts[3][0] != prompts[0][0]
    assert str(source(10).session(demands[0])[0].prompt).split() == prompts[0]
    assert str(source(10, repeat=1).session(demands[0])[0].prompt).split() != prompts[0]


def test_lengths_of_a_trace_go_before_the_workloads() -> None:
    draft = source(3).session(Demand(40, 7))[0]
    assert (draft.input_tokens, draft.output_tokens, len(str(draft.prompt).split())) == (40, 7, 40)


def test_lengths_spread_and_do_not_change_with_the_words() -> None:
    spread = LengthConfig(distribution=LengthKind.uniform, minimum=5, maximum=30)
    drawn = drafts(300, input_lengths=spread, output_lengths=spread)
    assert [draft.input_tokens for draft in drawn] == [len(str(draft.prompt).split()) for draft in drawn]
    assert {draft.input_tokens for draft in drawn} == {draft.output_tokens for draft in drawn} == set(range(5, 31))
    pairs = np.array([(draft.input_tokens, draft.output_tokens) for draft in drawn])
    assert abs(np.corrcoef(pairs.T)[0, 1]) < 5 / 300**0.5


def test_sessions_have_turns_of_their_own() -> None:
    made = source(1000, turns=3, turn_lengths=LengthConfig(distribution=LengthKind.uniform, minimum=1, maximum=5))
    sessions = [made.session(None) for _ in range(100)]
    assert {len(turns) for turns in sessions} == {1, 2, 3, 4, 5}
    said = [str(draft.prompt) for draft in itertools.chain(*sessions)]
    assert len({text.split()[0] for text in said}) == len(said)
    assert {len(turns) for turns in (source(9, turns=3).session(None) for _ in range(9))} == {3}


def clumsy(text: str) -> int:
    """A tokenizer with a beginning-of-sequence token that needs two tokens for long words."""
    return 1 + sum(2 if len(word) > 5 else 1 for word in text.split())


def test_prompts_are_exact_by_the_tokenizer_and_prefixes_stay_shared() -> None:
    config = SyntheticConfig(
        input_tokens=60,
        prefix_groups=1,
        prefix_tokens=20,
        input_lengths=LengthConfig(distribution=LengthKind.uniform, minimum=30, maximum=90),
    )
    made = SyntheticSource(config, 100, name="x", repeat=0, fitter=Fitter(clumsy, vocabulary()))
    drawn = [made.session(None)[0] for _ in range(100)]
    assert [clumsy(str(draft.prompt)) for draft in drawn] == [draft.input_tokens for draft in drawn]
    assert len({" ".join(str(draft.prompt).split()[:20]) for draft in drawn}) == 1
    assert made.prompts().exact


def test_a_long_prompt_is_drawn_whole() -> None:
    text = str(source(2, input_tokens=131_072).session(None)[0].prompt)
    assert len(text.split()) == 131_072
