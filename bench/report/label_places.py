"""Where a mark's name can stand in a figure without lying on another name or mark."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

PIXELS_PER_LETTER = 6.5
LINE_HEIGHT = 13.0
POINTS_PER_PIXEL = 0.72
"""Figures are laid out at matplotlib's 100 dots an inch."""


class Box(NamedTuple):
    """A rectangle in pixels, y upwards."""

    left: float
    bottom: float
    right: float
    top: float

    @classmethod
    def around(cls, x: float, y: float, reach: float) -> Box:
        """The square whose sides are `reach` away from a point."""
        return cls(x - reach, y - reach, x + reach, y + reach)

    def overlaps(self, other: Box) -> bool:
        """Whether the two share a point."""
        apart = self.right <= other.left or other.right <= self.left
        return not (apart or self.top <= other.bottom or other.top <= self.bottom)

    def within(self, other: Box) -> bool:
        """Whether all of it lies in `other`."""
        sideways = other.left <= self.left and self.right <= other.right
        return sideways and other.bottom <= self.bottom and self.top <= other.top


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a text stands: its box, and the same as an offset from the mark with the alignment it goes with."""

    box: Box
    offset_points: tuple[float, float]
    horizontal: Literal["left", "center", "right"]
    vertical: Literal["bottom", "top"]


def free_place(
    mark: tuple[float, float], text: str, inside: Box, taken: Sequence[Box], lines: Sequence[Box] = ()
) -> Place | None:
    """The first place around `mark` where `text` is inside and overlaps nothing; None when there is none.

    Where it must, a text lies on `lines`.
    """
    places = [
        place
        for place in _places(mark, text)
        if place.box.within(inside) and not any(place.box.overlaps(box) for box in taken)
    ]
    clear = [place for place in places if not any(place.box.overlaps(box) for box in lines)]
    return next(iter([*clear, *places]), None)


def along(corners: Sequence[tuple[float, float]]) -> list[Box]:
    """Small boxes that cover a line through `corners`."""
    boxes = []
    for (x, y), (next_x, next_y) in itertools.pairwise(corners):
        steps = max(1, math.ceil(math.hypot(next_x - x, next_y - y) / 4))
        shares = [step / steps for step in range(steps + 1)]
        boxes += [Box.around(x + (next_x - x) * share, y + (next_y - y) * share, 2.0) for share in shares]
    return boxes


def _places(mark: tuple[float, float], text: str) -> list[Place]:
    """Beside the mark first, then centred: there an interval may cross the text."""
    x, y = mark
    width = PIXELS_PER_LETTER * len(text)
    horizontals: tuple[tuple[Literal["left", "center", "right"], float, float], ...] = (
        ("left", 8.0, x + 8.0),
        ("right", -8.0, x - 8.0 - width),
        ("center", 0.0, x - width / 2),
    )
    verticals: tuple[tuple[Literal["bottom", "top"], float, float], ...] = (
        ("bottom", 6.5, y + 6.5),
        ("top", -6.5, y - 6.5 - LINE_HEIGHT),
    )
    return [
        Place(
            box=Box(left, bottom, left + width, bottom + LINE_HEIGHT),
            offset_points=(dx * POINTS_PER_PIXEL, dy * POINTS_PER_PIXEL),
            horizontal=horizontal,
            vertical=vertical,
        )
        for horizontal, dx, left in horizontals
        for vertical, dy, bottom in verticals
    ]
