"""Bytes of tokens, as scoring workers count them; without transformers."""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support import worker_module


@pytest.fixture(scope="module")
def worker() -> Iterator[Any]:
    """The shared module; of its toolchain nothing is needed here."""
    with worker_module("hf_tokens", absent=("transformers",)) as module:
        yield module


class Vocabulary:
    """Pieces by number; `special` are special tokens, `added` were added to the vocabulary as plain text."""

    all_special_ids = (0,)
    added_tokens_decoder = types.MappingProxyType({0: "<s>", 5: "[é]"})
    pieces = ("<s>", "Ġthe", "ÃĬ", "▁the", "<0x0A>", "[é]", "é")

    def convert_ids_to_tokens(self, token: int) -> str:
        return self.pieces[token]


@pytest.mark.parametrize(
    ("token", "byte_level", "expected"),
    [
        (0, True, 0),  # special
        (1, True, 4),  # a space and three letters
        (2, True, 2),  # one letter stands for one byte
        (5, True, 4),  # an added token is written as it reads
        (0, False, 0),
        (3, False, 4),
        (4, False, 1),  # a byte by its number
        (6, False, 2),
    ],
)
def test_bytes_of_a_token(worker: Any, token: int, byte_level: bool, expected: int) -> None:
    assert worker.piece_bytes(Vocabulary(), token, byte_level) == expected
