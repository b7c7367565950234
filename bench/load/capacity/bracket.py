"""Which load to probe next, and what the probes say of the capacity. Pure: the same probes give the same answer.

Levels are assumed to be monotone: what holds at a load holds at a lighter one. Near the capacity chance decides, so
every level may hold in one repeat and fail in another; the answer is then an interval.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from bench.load.capacity.config import EffortConfig

_VOIDS = 2
"""So many probes of a level that cannot be believed, and it counts as out of reach."""


class Outcome(StrEnum):
    """`void`: the probe cannot be believed, for a reason that lies with the client or with what was asked."""

    held = "held"
    failed = "failed"
    void = "void"


@dataclass(frozen=True, kw_only=True)
class Probe:
    """One load at one level, and how it went; `reasons` are those of a void, or why it failed."""

    level: float
    outcome: Outcome
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """`value` is the largest level that held in most of its probes. At `lo` and every level below all probes held, at
    `hi` and every level above none did (None: no such level was found). `settled`: both ends are as near and as often
    probed as asked.

    Had a level an even chance, three probes alike would come up once in eight times: of loads whose outcome is drawn,
    the interval with three repeats has the level of an even chance in it nine times of ten.
    """

    value: float | None
    lo: float | None
    hi: float | None
    settled: bool
    reasons: tuple[str, ...]
    """Why levels from `hi` on cannot be judged, where that is what bounds the search."""


@dataclass(kw_only=True)
class _Level:
    level: float
    held: int = 0
    failed: int = 0
    void: int = 0

    @property
    def broken(self) -> bool:
        return self.failed > 0 or self.unreachable

    @property
    def unreachable(self) -> bool:
        return not self.held and self.void >= _VOIDS

    @property
    def open(self) -> bool:
        """Nothing is known of it but a void."""
        return not self.held and not self.broken


@dataclass(frozen=True, kw_only=True)
class _Bracket:
    """`low` to `first_broken` and `last_held` to `high` are the gaps in which nothing was probed."""

    low: _Level | None
    first_broken: _Level | None
    last_held: _Level | None
    high: _Level | None


def next_level(probes: Sequence[Probe], effort: EffortConfig, *, whole: bool) -> float | None:
    """The level to probe next; None when there is nothing more to learn. `whole`: only whole numbers are levels."""
    levels = _levels(probes)
    if not levels:
        return _round(effort.start, whole)
    for level in levels:
        if level.open:
            return level.level
    bracket = _bracket(levels)
    for step in (_below(bracket, effort, whole), _above(bracket, effort, whole)):
        if step is not None:
            return step
    for end, known in ((bracket.low, "held"), (bracket.high, "failed")):
        if end is not None and not end.unreachable and getattr(end, known) < effort.repeats:
            return end.level
    return None


def capacity(probes: Sequence[Probe], effort: EffortConfig, *, whole: bool) -> Capacity:
    """What is known after these probes."""
    bracket = _bracket(_levels(probes))
    mostly = [level.level for level in _levels(probes) if level.held > level.failed]
    broken = bracket.high or bracket.first_broken
    reasons = [
        reason
        for probe in probes
        if probe.outcome is Outcome.void and broken is not None and broken.unreachable and probe.level >= broken.level
        for reason in probe.reasons
    ]
    return Capacity(
        value=max(mostly, default=None),
        lo=None if bracket.low is None else bracket.low.level,
        hi=None if bracket.high is None or bracket.high.unreachable else bracket.high.level,
        settled=bool(probes) and next_level(probes, effort, whole=whole) is None,
        reasons=tuple(dict.fromkeys(reasons)),
    )


def _levels(probes: Sequence[Probe]) -> list[_Level]:
    found: dict[float, _Level] = {}
    for probe in probes:
        level = found.setdefault(probe.level, _Level(level=probe.level))
        setattr(level, probe.outcome.value, getattr(level, probe.outcome.value) + 1)
    return sorted(found.values(), key=lambda level: level.level)


def _bracket(levels: Sequence[_Level]) -> _Bracket:
    known = [level for level in levels if not level.open]
    first_broken = next((level for level in known if level.broken), None)
    last_held = next((level for level in reversed(known) if level.held), None)
    below = [level for level in known if first_broken is None or level.level < first_broken.level]
    above = [level for level in known if last_held is None or level.level > last_held.level]
    return _Bracket(
        low=below[-1] if below else None,
        first_broken=first_broken,
        last_held=last_held,
        high=above[0] if above else None,
    )


def _below(bracket: _Bracket, effort: EffortConfig, whole: bool) -> float | None:
    """A level between the last that surely holds and the first that does not, or below all."""
    if bracket.first_broken is None:
        return None
    if bracket.low is not None:
        return _between(bracket.low.level, bracket.first_broken.level, effort, whole)
    lowest = max(effort.lowest, 1.0) if whole else effort.lowest
    broken = bracket.first_broken.level
    if broken <= lowest:
        return None
    return max(min(_round(broken / effort.factor, whole), broken - 1 if whole else broken), lowest)


def _above(bracket: _Bracket, effort: EffortConfig, whole: bool) -> float | None:
    """A level between the last that may hold and the first that surely does not, or above all."""
    if bracket.last_held is None:
        return None
    if bracket.high is not None:
        return _between(bracket.last_held.level, bracket.high.level, effort, whole)
    if bracket.last_held.level >= effort.highest:
        return None
    return min(_round(bracket.last_held.level * effort.factor, whole, up=True), effort.highest)


def _between(low: float, high: float, effort: EffortConfig, whole: bool) -> float | None:
    """The middle on a log scale, or None where the two are near enough."""
    if high <= low * (1 + effort.tolerance) or (whole and high - low <= 1):
        return None
    middle = math.sqrt(low * high)
    if whole:
        return min(max(_round(middle, whole), low + 1), high - 1)
    return rounded if low < (rounded := _round(middle, whole)) < high else middle


def _round(level: float, whole: bool, *, up: bool = False) -> float:
    """Four significant digits, or a whole number from 1."""
    if whole:
        return float(max(1, math.ceil(level) if up else round(level)))
    return float(f"{level:.4g}")
