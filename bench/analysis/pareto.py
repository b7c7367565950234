"""Pareto frontiers of what a variant costs against what it loses, with intervals on both axes, and why others lose.

By values, a variant is dominated when another is no worse on both axes and better on one. It is called dominated only
where the intervals are apart on an axis; else the two cannot be told apart, which is said.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from bench.analysis import formatting as fmt
from bench.analysis.readings import Reading

if TYPE_CHECKING:
    from bench.analysis.candidates import Candidate


MEMORY_VARIES = 0.05
"""Peaks of memory differ by no more than this share from run to run; below it two are not told apart."""


class Standing(StrEnum):
    """Where a variant stands to the frontier."""

    FRONTIER = "on the frontier"
    DOMINATED = "dominated"
    UNTOLD = "not distinguishable"


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One axis: the reading of a candidate, which way is better, and how its values are written."""

    name: str
    unit: str
    read: Callable[[Candidate], Reading]
    higher_is_better: bool
    formatter: fmt.Formatter


@dataclass(frozen=True, kw_only=True)
class FrontierPoint:
    """A variant's place. `by` is the label of the one that beats it (empty on the frontier), `why` in what."""

    cell: str
    label: str
    x: Reading
    y: Reading
    standing: Standing
    by: str = ""
    why: str = ""


@dataclass(frozen=True, kw_only=True)
class Frontier:
    """`left_out` are labels with the reason why a variant has no place here."""

    x: Axis
    y: Axis
    points: tuple[FrontierPoint, ...]
    left_out: tuple[tuple[str, str], ...]


def frontier(candidates: Sequence[Candidate], x: Axis, y: Axis) -> Frontier:
    """The frontier over comparable candidates with valid figures; sorted once, so the work grows as n log n."""
    left_out, placed = [], []
    for candidate in candidates:
        why = _why_not(candidate, x, y)
        if why is None:
            placed.append(candidate)
        elif candidate.cell.scenarios or candidate.cell.tasks:
            left_out.append((candidate.cell.label, why))
    points: dict[str, FrontierPoint] = {}
    best: Candidate | None = None
    for candidate in sorted(placed, key=lambda each: (_badness(each, x), _badness(each, y))):
        beaten = best is not None and _badness(best, y) <= _badness(candidate, y)
        same = best is not None and all(_badness(best, axis) == _badness(candidate, axis) for axis in (x, y))
        if best is not None and beaten and not same:
            points[candidate.cell.id] = _beaten(candidate, best, x, y)
        else:
            points[candidate.cell.id] = _point(candidate, x, y, Standing.FRONTIER)
            best = candidate
    return Frontier(x=x, y=y, points=tuple(points[each.cell.id] for each in placed), left_out=tuple(left_out))


def _why_not(candidate: Candidate, x: Axis, y: Axis) -> str | None:
    if candidate.excluded is not None:
        return candidate.excluded
    for axis in (x, y):
        reading = axis.read(candidate)
        if reading.estimate is None:
            return f"{axis.name}: {reading.missing or 'not measured'}"
        if reading.validity:
            return f"{axis.name} may not be believed: {', '.join(reading.validity)}"
    return None


def _badness(candidate: Candidate, axis: Axis) -> float:
    estimate = axis.read(candidate).estimate
    assert estimate is not None
    return -estimate.value if axis.higher_is_better else estimate.value


def _point(candidate: Candidate, x: Axis, y: Axis, standing: Standing, *, by: str = "", why: str = "") -> FrontierPoint:
    cell = candidate.cell
    return FrontierPoint(
        cell=cell.id, label=cell.label, x=x.read(candidate), y=y.read(candidate), standing=standing, by=by, why=why
    )


def _beaten(candidate: Candidate, best: Candidate, x: Axis, y: Axis) -> FrontierPoint:
    parts = []
    told = False
    for axis in (x, y):
        apart = _apart(candidate, best, axis)
        told = told or apart
        own, other = axis.read(candidate).estimate, axis.read(best).estimate
        assert own is not None
        assert other is not None
        how = "intervals apart" if apart else "equal" if own.value == other.value else "intervals overlap"
        parts.append(f"{axis.name} {axis.formatter(own.value)} against {axis.formatter(other.value)} ({how})")
    standing = Standing.DOMINATED if told else Standing.UNTOLD
    lead = f"{best.cell.label} dominates it" if told else f"not distinguishable from {best.cell.label}"
    return _point(candidate, x, y, standing, by=best.cell.label, why=f"{lead}: {', '.join(parts)}")


def _apart(candidate: Candidate, best: Candidate, axis: Axis) -> bool:
    """Whether `best` is better on the axis by the whole of both intervals."""
    own, other = _bounds(candidate, axis), _bounds(best, axis)
    if own is None or other is None:
        return False
    return other[0] > own[1] if axis.higher_is_better else other[1] < own[0]


def _bounds(candidate: Candidate, axis: Axis) -> tuple[float, float] | None:
    """The interval; the baseline's own loss of nothing is exact, and memory, read once, is told apart beyond 5 %."""
    reading = axis.read(candidate)
    estimate = reading.estimate
    assert estimate is not None
    if estimate.lo is not None and estimate.hi is not None:
        return estimate.lo, estimate.hi
    if reading.unit == "bytes":
        return estimate.value * (1 - MEMORY_VARIES / 2), estimate.value * (1 + MEMORY_VARIES / 2)
    return (estimate.value, estimate.value) if candidate.is_baseline and estimate.value == 0 else None
