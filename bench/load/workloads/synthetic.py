"""Synthetic prompts: common English words, each about one token in the vocabularies of today's models."""

from __future__ import annotations

import zlib
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from bench.load.arrivals.trace import BLOCK_TOKENS, Demand
from bench.load.config import SyntheticConfig
from bench.load.prompts import Prompts, vocabulary
from bench.load.workloads.draft import Draft
from bench.load.workloads.fit import Fitter
from bench.load.workloads.lengths import Lengths

_LENGTHS, _PREFIXES, _BLOCKS = 1, 2, 3
"""Streams of randomness beside that of the words."""

_BLOCKS_KEPT = 4096


class SyntheticSource:
    """Draws from (seed, scenario name, repeat). `number` bounds how many prompts there will be.

    With `unique` the first words of a prompt's own part are the digits of a counter over the shuffled vocabulary: no
    two begin with the same word as long as there are words enough, nor with the same two when there are not, and so on.
    """

    def __init__(
        self, workload: SyntheticConfig, number: int, *, name: str, repeat: int, fitter: Fitter | None
    ) -> None:
        self._workload = workload
        self._number = number
        self._fitter = fitter
        self._words = vocabulary() if fitter is None else fitter.words
        self._seeds = [workload.seed, repeat, zlib.crc32(name.encode())]
        self._generator = np.random.default_rng(self._seeds)
        self._order = self._generator.permutation(len(self._words))
        lengths = np.random.default_rng([*self._seeds, _LENGTHS])
        self._inputs = Lengths(workload.input_lengths, workload.input_tokens, lengths, where="workload.input_lengths")
        self._outputs = Lengths(
            workload.output_lengths, workload.output_tokens, lengths, where="workload.output_lengths"
        )
        self._turns = Lengths(workload.turn_lengths, workload.turns, lengths, where="workload.turn_lengths")
        self._choices = np.random.default_rng([*self._seeds, _PREFIXES])
        self._prefixes = [self._drawn(self._choices, workload.prefix_tokens) for _ in range(workload.prefix_groups)]
        self._shared = None if workload.unique else self._drawn(self._generator, workload.input_tokens)
        self._block = lru_cache(_BLOCKS_KEPT)(self._make_block)
        self._index = 0

    def session(self, demand: Demand | None) -> list[Draft]:
        """The next session; a trace's demand replaces the lengths of its first turn."""
        drafts = []
        for turn in range(self._turns.draw()):
            heeded = demand if turn == 0 else None
            wanted = heeded.input_tokens if heeded else self._inputs.draw()
            answered = heeded.output_tokens if heeded else self._outputs.draw()
            parts = self._parts(wanted, heeded.blocks if heeded else (), first=turn == 0)
            text = " ".join(parts) if self._fitter is None else self._fitter.fit(parts, wanted)
            drafts.append(Draft(prompt=text, input_tokens=wanted, output_tokens=answered))
            self._index += 1
        return drafts

    def prompts(self) -> Prompts:
        """How exact the lengths are."""
        if self._fitter is None:
            return Prompts(exact=False, how="one word counted as one token")
        return self._fitter.prompts()

    def close(self) -> None:
        """There is nothing to close."""

    def _parts(self, wanted: int, blocks: tuple[int, ...], *, first: bool) -> list[str]:
        """The words of a prompt: what it shares with others, then its own."""
        parts = [word for name in blocks for word in self._block(name)][:wanted]
        if not blocks and first and self._prefixes and self._choices.random() < self._workload.prefix_share:
            parts = self._prefixes[self._choices.integers(len(self._prefixes))][:wanted]
        missing = wanted - len(parts)
        if missing <= 0:
            return parts
        if self._shared is not None:
            more = self._drawn(self._generator, missing - len(self._shared)) if missing > len(self._shared) else []
            return parts + self._shared[:missing] + more
        picks = self._generator.integers(len(self._words), size=missing)
        self._count_in(picks)
        return parts + [self._words[pick] for pick in picks.tolist()]

    def _count_in(self, picks: npt.NDArray[np.int64]) -> None:
        """Write the prompt's number into the first picks as digits of base len(order), lowest first, as needed."""
        radix, index, number = len(self._order), self._index, self._number
        for position in range(len(picks)):
            index, digit = divmod(index, radix)
            picks[position] = self._order[digit]
            number = -(-number // radix)
            if number <= 1:
                return

    def _drawn(self, generator: np.random.Generator, length: int) -> list[str]:
        return [self._words[pick] for pick in generator.integers(len(self._words), size=length).tolist()]

    def _make_block(self, name: int) -> list[str]:
        return self._drawn(np.random.default_rng([*self._seeds, _BLOCKS, name]), BLOCK_TOKENS)
