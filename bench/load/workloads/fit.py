"""Prompts of exact lengths, by the endpoint's own tokenizer, asking it as little as can be.

First the words that the tokenizer takes for more than one token are put aside. A prompt of n of the others then has
n tokens and a constant (a beginning-of-sequence token, say), which the first prompts show; once enough of them came out
as foretold, the rest is not counted. Where hardly any word is one token, every prompt is counted and fitted at its end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from time import monotonic

from bench.load.prompts import Prompts, TokenCounter

FITTING_BUDGET_S = 10.0
_CHOOSING_BUDGET_S = 3.0
_CHUNK = 128
_ENOUGH_WORDS = 256
_ENOUGH_COUNTED = 16
_ATTEMPTS = 12
_CHARACTERS_PER_TOKEN = 4.0


class Fitter:
    """Lengthens or shortens prompts at their end until they have the tokens they should.

    `words` are those to make prompts of. When the tokenizer stops answering, the rest stays as it is, and is said to.
    """

    def __init__(self, counter: TokenCounter, words: Sequence[str], *, clock: Callable[[], float] = monotonic) -> None:
        self._counter = counter
        self._clock = clock
        self._failure = ""
        single: list[str] = []
        try:
            single = _single(counter, words, clock)
        except OSError as error:
            self._failure = str(error)
        self._regular = len(single) >= _ENOUGH_WORDS
        self.words: tuple[str, ...] = tuple(single) if self._regular else tuple(words)
        self._fillers = single or words
        self._spent_s = 0.0
        self._constant = 0
        self._foretold = 0
        self._fitted = self._by_rule = self._missed = self._uncounted = 0

    def fit(self, parts: list[str], wanted: int) -> str:
        """The prompt of `wanted` tokens that begins as `parts`, as many words as tokens are wanted."""
        if self._constant and wanted > self._constant:
            parts = self._resized(parts, wanted - self._constant)
        if self._regular and self._foretold >= _ENOUGH_COUNTED:
            self._by_rule += 1
            return " ".join(parts)
        if not self._failure and self._spent_s <= FITTING_BUDGET_S:
            began = self._clock()
            try:
                return self._search(parts, wanted)
            except OSError as error:
                self._failure = str(error)
            finally:
                self._spent_s += self._clock() - began
        self._uncounted += 1
        return " ".join(parts)

    def _search(self, parts: list[str], wanted: int) -> str:
        for attempt in range(_ATTEMPTS):
            text = " ".join(parts)
            count = self._counter(text)
            if count == wanted:
                self._fitted += 1
                self._foretold += attempt == 0
                return text
            if attempt == 0:
                self._constant += count - wanted if self._regular else 0
                self._foretold = 0
            if count > wanted and len(parts) == 1:
                break
            # Words of several tokens are cut off by their mean length, and the rest filled up with those of one token.
            each = max(1.0, count / len(parts)) if count > wanted else 1.0
            change = math.ceil(abs(wanted - count) / each)
            parts = self._resized(parts, max(1, len(parts) + (change if count < wanted else -change)), salt=attempt)
        self._missed += 1
        return text

    def _resized(self, parts: list[str], length: int, *, salt: int = 0) -> list[str]:
        if length <= len(parts):
            return parts[:length]
        first = 7 * salt + self._fitted
        return parts + [self._fillers[(first + i) % len(self._fillers)] for i in range(length - len(parts))]

    def prompts(self) -> Prompts:
        """How exact what was fitted so far is."""
        total = self._fitted + self._by_rule + self._missed + self._uncounted
        if self._uncounted:
            why = f" ({self._failure})" if self._failure else ""
            return Prompts(exact=False, how=f"fitted {total - self._uncounted} of {total} with the tokenizer{why}")
        how = "the endpoint's tokenize route"
        if self._by_rule:
            how += f"; {self._fitted} counted, {self._by_rule} by the rule that held for those: one token a word"
        if self._missed:
            how += f"; {self._missed} could not be fitted"
        return Prompts(exact=not self._missed, how=how)


def _single(counter: TokenCounter, words: Sequence[str], clock: Callable[[], float]) -> list[str]:
    """The words that are one token each behind another word; those not reached in time are left out."""
    deadline = clock() + _CHOOSING_BUDGET_S
    anchor = words[0]
    base = counter(anchor)
    found: list[str] = []
    pending = [words[start : start + _CHUNK] for start in range(0, len(words), _CHUNK)][::-1]
    while pending and clock() < deadline:
        chunk = pending.pop()
        if counter(" ".join([anchor, *chunk])) - base == len(chunk):
            found += chunk
        elif len(chunk) > 1:
            middle = len(chunk) // 2
            pending += [chunk[middle:], chunk[:middle]]
    return found


class Estimate:
    """Token counts of given texts: by the tokenizer while its time lasts, else by the characters a token had so far."""

    def __init__(self, counter: TokenCounter | None, *, clock: Callable[[], float] = monotonic) -> None:
        self._counter = counter
        self._clock = clock
        self._spent_s = 0.0
        self._characters = self._tokens = 0
        self._counted = self._guessed = 0

    def tokens(self, text: str) -> int:
        """Tokens of `text`, at least 1."""
        if self._counter is not None and self._spent_s <= FITTING_BUDGET_S:
            began = self._clock()
            try:
                count = self._counter(text)
            except OSError:
                self._counter = None
            else:
                self._spent_s += self._clock() - began
                self._counted += 1
                self._characters += len(text)
                self._tokens += count
                return max(1, count)
        self._guessed += 1
        each = self._characters / self._tokens if self._tokens else _CHARACTERS_PER_TOKEN
        return max(1, round(len(text) / each))

    def prompts(self) -> Prompts:
        """How the counts so far are known."""
        if not self._guessed:
            return Prompts(exact=True, how="the endpoint's tokenize route")
        each = self._characters / self._tokens if self._tokens else _CHARACTERS_PER_TOKEN
        return Prompts(
            exact=False, how=f"{self._counted} counted, {self._guessed} guessed from {each:.1f} characters a token"
        )
