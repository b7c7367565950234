"""What all figures share: palettes, style, labels. Drawn with matplotlib, which is imported when one is drawn.

A figure is drawn in one of two palettes: `PRINT` for files, and `ROLES`, whose colours stand for CSS variables, so that
the inlined drawing follows the page's light or dark theme.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bench.analysis.candidates import Analysis, Candidate
from bench.report.clean import short

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DOTTED = (0, (1, 2))
DASHED = (0, (4, 3))
LABEL_LIMIT = 26


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
    """A drawn figure: its file name, what it shows in words, and a hover text for each marked element."""

    name: str
    title: str
    description: str
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


def new_figure() -> Figure:
    """An empty figure of the report's width."""
    from matplotlib.figure import Figure

    return Figure(figsize=(9.2, 3.5), layout="constrained")


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
