"""A small reference set of published figures without sources: a table of its own, never charted beside measurements."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_FILE = Path(__file__).with_name("published.json")


@dataclass(frozen=True, kw_only=True)
class PublishedFigure:
    """One figure; `table` is the comparison it comes from, empty fields were not given."""

    table: str
    model: str
    hardware: str
    variant: str
    engine: str
    metric: str
    unit: str
    value: float
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Published:
    """The set. `origin` is to be shown with every one of its figures."""

    origin: str
    note: str
    figures: tuple[PublishedFigure, ...]


@cache
def published() -> Published:
    """The shipped set."""
    read = json.loads(_FILE.read_text(encoding="utf-8"))
    return Published(
        origin=read["origin"],
        note=read["note"],
        figures=tuple(PublishedFigure(**figure) for figure in read["figures"]),
    )
