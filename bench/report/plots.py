"""Interactive charts as plain values: what the page's script draws, and what stands behind each as a table.

A plot has one or more views, one for each combination of its choices; a view has one or more panels over the same
axis x; a panel has series. Numbers are embedded as they are drawn, so a reader's browser shows exactly these.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from bench.analysis.candidates import Analysis, Candidate
from bench.report.clean import one_line, short
from bench.report.tables import in_order

COLOURS = 7
"""How many colours the page's theme has for series."""
CHOSEN, BASELINE = 1, 0
"""The colours of the recommended variant and of the baseline, in every chart."""
SHOWN_AT_FIRST = 8
"""Of more variants than this the rest is drawn when the reader asks for it."""
DIGITS = 6


class Draw(StrEnum):
    """How a series is drawn."""

    LINE = "line"
    STEP = "step"
    POINTS = "points"
    LINE_POINTS = "line_points"
    BARS = "bars"
    RULE = "rule"


@dataclass(frozen=True, kw_only=True)
class Series:
    """One line, set of marks or bars. `x` and `y` have equal length; nan and None are gaps.

    `lo` and `hi` are the interval of y, `x_lo` and `x_hi` that of x; of BARS, `x_lo` and `x_hi` are a bar's ends and
    `y` its row. `name` is what the legend switches: series of one name go together; `part` tells them apart. `told` is
    a further line of each point's hover text; `labelled`: the name stands beside the point.
    """

    name: str
    x: Sequence[float | None]
    y: Sequence[float | None]
    draw: Draw = Draw.LINE
    part: str = ""
    colour: int = 0
    faint: bool = False
    shown: bool = True
    labelled: bool = False
    lo: Sequence[float | None] | None = None
    hi: Sequence[float | None] | None = None
    x_lo: Sequence[float | None] | None = None
    x_hi: Sequence[float | None] | None = None
    told: Sequence[str] | None = None


@dataclass(frozen=True, kw_only=True)
class Axis:
    """`log`: logarithmic at first; `may_be_log`: readers may switch; `zero`: begins at 0; `ticks`: named places."""

    label: str
    log: bool = False
    may_be_log: bool = True
    zero: bool = False
    ticks: Mapping[float, str] | None = None


@dataclass(frozen=True, kw_only=True)
class Panel:
    """Series over one axis y; `height` in pixels."""

    y: Axis
    series: Sequence[Series]
    height: int = 320


@dataclass(frozen=True, kw_only=True)
class View:
    """What is drawn for one combination of choices; `at` has an index into each choice's options."""

    at: tuple[int, ...]
    x: Axis
    panels: Sequence[Panel]
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A list the reader picks from."""

    name: str
    options: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A chart of the page: `id` is its element's, `section` where it stands, `title` and `note` are in words."""

    id: str
    section: str
    title: str
    note: str
    views: Sequence[View]
    choices: Sequence[Choice] = ()


@dataclass(frozen=True, kw_only=True)
class Look:
    """How one cell looks in every chart."""

    colour: int
    shown: bool


@dataclass(frozen=True, kw_only=True)
class Cast:
    """The cells in the order in which charts have them, the recommended and the baseline first, each with its look."""

    analysis: Analysis
    candidates: tuple[Candidate, ...]
    looks: Mapping[str, Look] = field(default_factory=dict)

    def look(self, candidate: Candidate) -> Look:
        """The look of a cell."""
        return self.looks[candidate.cell.id]

    @property
    def compared(self) -> list[Candidate]:
        """The cells that may stand in one chart with the baseline."""
        return [candidate for candidate in self.candidates if candidate.excluded is None]


def cast_of(analysis: Analysis, choice: Candidate | None) -> Cast:
    """Order and looks: the recommended cell, the baseline, then the cheapest; colours repeat after COLOURS."""

    def rank(candidate: Candidate) -> tuple[bool, bool]:
        chosen = choice is not None and candidate.cell.id == choice.cell.id
        return not chosen, not candidate.is_baseline

    ordered = sorted(in_order(analysis), key=rank)
    taken: set[int] = {CHOSEN, BASELINE}
    others = [colour for colour in range(COLOURS) if colour not in taken]
    looks: dict[str, Look] = {}
    placed = 0
    for index, candidate in enumerate(ordered):
        if choice is not None and candidate.cell.id == choice.cell.id:
            colour = CHOSEN
        elif candidate.is_baseline:
            colour = BASELINE
        else:
            colour = others[placed % len(others)]
            placed += 1
        looks[candidate.cell.id] = Look(colour=colour, shown=index < SHOWN_AT_FIRST)
    return Cast(analysis=analysis, candidates=tuple(ordered), looks=looks)


def as_json(plots: Iterable[Plot]) -> list[dict[str, Any]]:
    """The plots as the page's script reads them: short keys, cleaned texts, numbers of `DIGITS` digits."""
    return [
        {
            "id": plot.id,
            "title": short(plot.title, 200),
            "choices": [
                {"name": one_line(choice.name), "options": [short(option) for option in choice.options]}
                for choice in plot.choices
            ],
            "views": [_view(view) for view in plot.views],
        }
        for plot in plots
    ]


def _view(view: View) -> dict[str, Any]:
    panels = [
        {"y": _axis(panel.y), "h": panel.height, "s": [_series(series) for series in panel.series]}
        for panel in view.panels
    ]
    return {"at": list(view.at), "x": _axis(view.x), "panels": panels, "note": one_line(view.note)}


def _axis(axis: Axis) -> dict[str, Any]:
    told: dict[str, Any] = {"l": one_line(axis.label), "log": axis.log, "may": axis.may_be_log, "zero": axis.zero}
    if axis.ticks is not None:
        told["t"] = [[place, short(name, 40)] for place, name in axis.ticks.items()]
    return told


def _series(series: Series) -> dict[str, Any]:
    told: dict[str, Any] = {
        "n": short(series.name),
        "p": short(series.part, 60),
        "c": series.colour,
        "d": series.draw.value,
        "x": numbers(series.x),
        "y": numbers(series.y),
    }
    if not series.shown:
        told["off"] = True
    if series.faint:
        told["f"] = True
    if series.labelled:
        told["lab"] = True
    for key, values in (("lo", series.lo), ("hi", series.hi), ("xl", series.x_lo), ("xh", series.x_hi)):
        if values is not None and any(value is not None for value in values):
            told[key] = numbers(values)
    if series.told is not None:
        told["t"] = [short(text, 300) for text in series.told]
    return told


def numbers(values: Iterable[float | None]) -> list[float | int | None]:
    """Finite numbers to `DIGITS` significant digits, whole ones without a point; everything else is null."""
    return [_rounded(value) for value in values]


def _rounded(value: float | None) -> float | int | None:
    if value is None or not math.isfinite(value):
        return None
    rounded = float(f"{value:.{DIGITS}g}")
    return int(rounded) if rounded.is_integer() and abs(rounded) < 1e15 else rounded
