"""Synthetic prompts: common English words, each about one token in the vocabularies of today's models."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from time import monotonic

import numpy as np
import numpy.typing as npt

from bench.load.config import SyntheticConfig

TokenCounter = Callable[[str], int]
"""Counts the tokens of a prompt as the endpoint does; raises OSError when the endpoint does not answer."""

FITTING_BUDGET_S = 10.0
_ATTEMPTS = 12


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """Prompts of a scenario. `exact`: every one was counted by the endpoint's tokenizer and has the asked length."""

    texts: list[str]
    exact: bool
    how: str


@cache
def vocabulary() -> tuple[str, ...]:
    """The shipped words; each is one token for SmolLM2, with and without a leading space."""
    return tuple(files("bench.load").joinpath("words.txt").read_text(encoding="utf-8").split())


def draw_prompts(workload: SyntheticConfig, number: int, *, name: str, repeat: int) -> list[str]:
    """`number` prompts of `input_tokens` words from (seed, scenario name, repeat).

    With `unique` the first words are the digits of a counter over the shuffled vocabulary: no two prompts share their
    first word as long as there are words enough, nor their first two when there are not (and so on).
    """
    words = vocabulary()
    generator = np.random.default_rng([workload.seed, repeat, zlib.crc32(name.encode())])
    order = generator.permutation(len(words))
    length = workload.input_tokens
    shared = None if workload.unique else generator.integers(len(words), size=length)
    prompts = []
    for index in range(number):
        picks = generator.integers(len(words), size=length) if shared is None else shared
        if workload.unique:
            _number_prefix(picks, index, number, order)
        prompts.append(" ".join(words[pick] for pick in picks))
    return prompts


def _number_prefix(picks: npt.NDArray[np.int64], index: int, number: int, order: npt.NDArray[np.int64]) -> None:
    """Write `index` into the first picks as digits of base len(order), lowest first, as many as `number` needs."""
    radix = len(order)
    for position in range(len(picks)):
        index, digit = divmod(index, radix)
        picks[position] = order[digit]
        number = -(-number // radix)
        if number <= 1:
            return


def fit_prompts(texts: list[str], wanted: int, counter: TokenCounter) -> Prompts:
    """Lengthen or shorten each prompt at its end until `counter` gives `wanted` tokens.

    Stops being exact, and says so, when a prompt cannot be fitted or FITTING_BUDGET_S is over.
    """
    words = vocabulary()
    deadline = monotonic() + FITTING_BUDGET_S
    fitted: list[str] = []
    misses = 0
    for number, text in enumerate(texts):
        if monotonic() > deadline:
            return Prompts(
                texts=fitted + texts[number:], exact=False, how=f"fitted {number} of {len(texts)} with the tokenizer"
            )
        parts = text.split(" ")
        for attempt in range(_ATTEMPTS):
            excess = counter(" ".join(parts)) - wanted
            if excess == 0 or attempt == _ATTEMPTS - 1 or (excess > 0 and len(parts) <= excess):
                misses += excess != 0
                break
            # Other words each time, or a tokenizer that splits some would lead round in circles.
            more = [words[(number + 7 * attempt + i) % len(words)] for i in range(-excess)]
            parts = parts[:-excess] if excess > 0 else parts + more
        fitted.append(" ".join(parts))
    how = "the endpoint's tokenize route" + (f"; {misses} could not be fitted" if misses else "")
    return Prompts(texts=fitted, exact=misses == 0, how=how)
