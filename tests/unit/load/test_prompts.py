"""Prompts: drawn from a seed, told apart by their first words, fitted by a tokenizer."""

from __future__ import annotations

import pytest

from bench.load.config import SyntheticConfig
from bench.load.prompts import draw_prompts, fit_prompts, vocabulary


def draw(
    number: int, *, name: str = "c1", repeat: int = 0, tokens: int = 16, seed: int = 0, unique: bool = True
) -> list[str]:
    return draw_prompts(
        SyntheticConfig(input_tokens=tokens, seed=seed, unique=unique), number, name=name, repeat=repeat
    )


def test_words_are_distinct_and_plain() -> None:
    words = vocabulary()
    assert len(words) == len(set(words)) > 1000
    assert all(word.isalpha() and word.islower() for word in words)


def test_drawn_from_seed_scenario_and_repeat() -> None:
    assert draw(5) == draw(5)
    others = [draw(5, seed=1), draw(5, name="c4"), draw(5, repeat=1)]
    assert all(set(draw(5)).isdisjoint(other) for other in others)


def test_first_words_differ_until_there_are_none_left_then_first_pairs() -> None:
    first = len(vocabulary())
    prompts = draw(first + 500)
    assert len({prompt.split()[0] for prompt in prompts[:first]}) == first
    assert len({tuple(prompt.split()[:2]) for prompt in prompts}) == len(prompts)


def test_length_in_words_and_sharing() -> None:
    assert {len(prompt.split()) for prompt in draw(20, tokens=33)} == {33}
    assert len(set(draw(20, unique=False))) == 1


def clumsy(text: str) -> int:
    """A tokenizer with a beginning-of-sequence token that needs two tokens for long words."""
    return 1 + sum(2 if len(word) > 5 else 1 for word in text.split())


def test_fitting_reaches_the_asked_length() -> None:
    fitted = fit_prompts(draw(60, tokens=40), 40, clumsy)
    assert {clumsy(text) for text in fitted.texts} == {40}
    assert fitted.exact


def test_fitting_is_exact_with_a_regular_tokenizer() -> None:
    fitted = fit_prompts(draw(60, tokens=40), 40, lambda text: 2 + len(text.split()))
    assert fitted.exact
    assert {len(text.split()) for text in fitted.texts} == {38}


def test_what_cannot_be_fitted_is_said() -> None:
    fitted = fit_prompts(["one", "two"], 3, lambda _: 5)
    assert not fitted.exact
    assert "2 could not be fitted" in fitted.how


def test_no_answer_is_the_callers_problem() -> None:
    def broken(_: str) -> int:
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        fit_prompts(["one"], 3, broken)
