"""What all workloads share: words, the endpoint's token counter, and how exact the lengths of prompts are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

TokenCounter = Callable[[str], int]
"""Counts the tokens of a prompt as the endpoint does; raises OSError when the endpoint does not answer."""


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """How the lengths of a scenario's prompts are known. `exact`: every prompt has the length that was asked for."""

    exact: bool
    how: str


@cache
def vocabulary() -> tuple[str, ...]:
    """The shipped words; each is one token for SmolLM2, with and without a leading space."""
    return tuple(files("bench.load").joinpath("words.txt").read_text(encoding="utf-8").split())
