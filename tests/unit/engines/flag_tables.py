"""Recorded tables of command-line flags, as `tests/data/flags` and the evaluation data have them."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from tests.support import CHECKOUT

RECORDED = CHECKOUT / "tests" / "data" / "flags"


def read_table(path: Path) -> list[dict[str, str]]:
    """Rows of a tab-separated table by column; lines that begin with # say where it is from."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("# ")]
    return list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))


def given_flags(argv: Sequence[str]) -> list[tuple[str, str | None]]:
    """Each flag of a command line with the word after it, None where that is a flag again or nothing."""
    found: list[tuple[str, str | None]] = []
    for number, word in enumerate(argv):
        if word.startswith("--"):
            following = argv[number + 1] if number + 1 < len(argv) else "--"
            found.append((word, None if following.startswith("--") else following))
    return found
