"""What all figures share: palettes, style, labels. Drawn with matplotlib, which is imported when one is drawn.

A figure is drawn in one of two palettes: `PRINT` for files, and `ROLES`, whose colours stand for CSS variables, so that
the inlined drawing follows the page's light or dark theme.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from bench.analysis.candidates import Analysis, Candidate
from bench.analysis.estimate import Estimate
from bench.report.clean import short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKERS = ("o", "D", "^", "s", "v", "P", "X")
CHOSEN = 1
"""The recommended variant's place in `Palette.series` and MARKERS: it looks the same in every figure."""
DOTTED = (0, (1, 2))
DASHED = (0, (4, 3))
LABEL_LIMIT = 26
LOG_SPREAD = 30.0
"""An axis whose largest value is more than this many times its smallest is logarithmic."""


@dataclass(frozen=True, kw_only=True)
class Palette:
    """Colours by what they are for."""

    ink: str
    muted: str
    rule: str
    paper: str
    series: tuple[str, ...]


PRINT = Palette(
    ink="#1d2329",
    muted="#5a646e",
    rule="#d9dde1",
    paper="#fdfdfc",
    series=("#1f5f8b", "#b4540a", "#2f7d4f", "#8a3f8f", "#a8324a", "#5b6b1e", "#2b7f86"),
)
ROLES = Palette(
    ink="#0a0001",
    muted="#0a0002",
    rule="#0a0003",
    paper="#0a0004",
    series=("#0a0011", "#0a0012", "#0a0013", "#0a0014", "#0a0015", "#0a0016", "#0a0017"),
)


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A drawn figure: its file name, what it shows in words, and a hover text for each marked element.

    `section` is the part of the page it stands in, `tables` are those that hold its numbers.
    """

    name: str
    title: str
    description: str
    section: str
    tables: tuple[str, ...]
    figure: Figure
    tooltips: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is drawn and with which colours; `choice` is the recommended candidate."""

    analysis: Analysis
    choice: Candidate | None
    palette: Palette

    def chosen(self, candidate: Candidate) -> bool:
        """Whether `candidate` is the recommended one."""
        return self.choice is not None and candidate.cell.id == self.choice.cell.id


def chart_label(value: str) -> str:
    """A label that the figures' font can draw: other characters become «?»."""
    text = "".join(letter if " " <= letter < "\u0250" or letter in "–—·…−µ" else "?" for letter in short(value, 200))
    return text if len(text) <= LABEL_LIMIT else f"{text[: LABEL_LIMIT - 1]}…"


def new_figure(height: float = 3.5) -> Figure:
    """An empty figure of the report's width; `height` in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(9.2, height), layout="constrained")


def error_arms(estimates: Sequence[Estimate]) -> list[list[float]]:
    """The error bars' lengths below and above; none where there is no interval."""
    below = [0.0 if e.lo is None else max(0.0, e.value - e.lo) for e in estimates]
    above = [0.0 if e.hi is None else max(0.0, e.hi - e.value) for e in estimates]
    return [below, above]


def spread_widely(values: Sequence[float]) -> bool:
    """Whether an axis over these values must be logarithmic for the small ones to be told apart."""
    positive = [value for value in values if value > 0]
    return bool(positive) and max(positive) > LOG_SPREAD * min(positive)


def make_logarithmic(axes: Axes, which: Literal["x", "y"]) -> None:
    """A logarithmic axis with plain numbers at 1 and 3 of each power of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.set(**{f"{which}scale": "log"})
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def add_hover_target(axes: Axes, x: float, y: float, gid: str) -> None:
    """An invisible mark, larger than the visible one and on top of it, that takes the pointer."""
    axes.plot(x, y, marker="o", markersize=12, alpha=0, linestyle="none")[0].set_gid(gid)


def style(palette: Palette) -> Any:
    """Settings under which figures are drawn and saved."""
    return {
        "font.family": ["DejaVu Sans"],
        "font.size": 9,
        "text.parse_math": False,
        "axes.edgecolor": palette.muted,
        "axes.labelcolor": palette.ink,
        "axes.titlecolor": palette.ink,
        "axes.titlesize": 9.5,
        "axes.titlelocation": "left",
        "axes.titleweight": "bold",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.linewidth": 0.8,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": palette.rule,
        "grid.linewidth": 0.6,
        "xtick.color": palette.muted,
        "ytick.color": palette.muted,
        "text.color": palette.ink,
        "legend.frameon": False,
        "legend.fontsize": 8.5,
        "svg.fonttype": "none",
        "figure.facecolor": palette.paper,
        "axes.facecolor": palette.paper,
        "savefig.facecolor": palette.paper,
    }
