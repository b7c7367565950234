"""Fitting prompts with a tokenizer: exact, with few questions, and honest where it cannot be."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bench.load.prompts import vocabulary
from bench.load.workloads.fit import FITTING_BUDGET_S, Estimate, Fitter


class Counted:
    """A token counter that knows how often, and for how long texts, it was asked."""

    def __init__(self, count: Callable[[str], int]) -> None:
        self._count = count
        self.asked: list[int] = []

    def __call__(self, text: str) -> int:
        self.asked.append(len(text))
        return self._count(text)


def words(number: int, start: int = 0) -> list[str]:
    return [vocabulary()[(start + i) % len(vocabulary())] for i in range(number)]


def regular(text: str) -> int:
    return 2 + len(text.split())


def clumsy(text: str) -> int:
    return 1 + sum(2 if len(word) > 5 else 1 for word in text.split())


def spelling(text: str) -> int:
    """Few words are one token: three letters are."""
    return sum(-(-len(word) // 3) for word in text.split())


@pytest.mark.parametrize("counter", [regular, clumsy, spelling])
def test_fitting_reaches_the_asked_length(counter: Callable[[str], int]) -> None:
    fitter = Fitter(counter, vocabulary())
    fitted = [fitter.fit([fitter.words[(7 * i + k) % len(fitter.words)] for k in range(40)], 40) for i in range(60)]
    assert {counter(text) for text in fitted} == {40}
    assert fitter.prompts().exact


def test_a_regular_tokenizer_is_asked_little_however_long_and_many_the_prompts() -> None:
    counter = Counted(regular)
    fitter = Fitter(counter, vocabulary())
    choosing = len(counter.asked)
    assert choosing < 20
    for number in range(300):
        assert regular(fitter.fit(words(2000, start=number), 2000)) == 2000
    assert len(counter.asked) - choosing < 25
    assert "by the rule that held" in fitter.prompts().how


def test_what_cannot_be_fitted_is_said() -> None:
    fitter = Fitter(lambda _: 5, vocabulary())
    fitter.fit(["one"], 3)
    fitter.fit(["two"], 3)
    assert not fitter.prompts().exact
    assert "2 could not be fitted" in fitter.prompts().how


def test_time_runs_out_and_it_is_said() -> None:
    now = [0.0]

    def slow(text: str) -> int:
        now[0] += 0.3
        return spelling(text)

    fitter = Fitter(slow, vocabulary(), clock=lambda: now[0])
    for number in range(100):
        fitter.fit(words(10, start=number), 20)
    assert now[0] < FITTING_BUDGET_S + 10
    told = fitter.prompts()
    assert not told.exact
    assert told.how.startswith("fitted ")
    assert told.how.endswith("of 100 with the tokenizer")


def test_a_tokenizer_that_stops_answering_stops_nothing() -> None:
    answers = iter([1, 2])

    def dying(text: str) -> int:
        if next(answers, None) is None:
            raise OSError("the tokenize route failed")
        return len(text.split())

    fitter = Fitter(dying, vocabulary())
    assert fitter.fit(words(9), 9) == " ".join(words(9))
    assert not fitter.prompts().exact
    assert "the tokenize route failed" in fitter.prompts().how


def test_estimates_learn_from_what_was_counted() -> None:
    now = [0.0]

    def slow(text: str) -> int:
        now[0] += FITTING_BUDGET_S / 2
        return len(text) // 5

    estimate = Estimate(slow, clock=lambda: now[0])
    assert [estimate.tokens("x" * 50) for _ in range(5)] == [10] * 5
    assert estimate.prompts().how == "3 counted, 2 guessed from 5.0 characters a token"
    assert Estimate(None).tokens("x" * 40) == 10
