"""Stages: arrival times of a changing rate by inversion, and when the users of a changing number are there."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from bench.base.clock import NS_PER_S
from bench.load.arrivals.config import Stage

Floats = npt.NDArray[np.float64]


def invert(stages: Sequence[Stage], expected: Floats) -> Floats:
    """Seconds at which the expected number of requests since the start reaches `expected` (ascending, >= 0).

    The expected number is the integral of the rate, piecewise quadratic. Within a stage from rate a to b over d
    seconds, x = a t + (b - a) t^2 / (2 d) gives t = 2 x / (a + sqrt(a^2 + 2 x (b - a) / d)), which is stable for a = b
    too. Values beyond the last stage are left out.
    """
    areas = np.array([stage.area for stage in stages])
    ends = np.cumsum(areas)
    begins = ends - areas
    seconds = np.cumsum([0.0, *(stage.duration_s for stage in stages)])[:-1]
    inside = expected[expected < ends[-1]]
    index = np.searchsorted(ends, inside, side="right")
    a = np.array([stage.level for stage in stages])[index]
    b = np.array([stage.to_level for stage in stages])[index]
    d = np.array([stage.duration_s for stage in stages])[index]
    x = inside - begins[index]
    root = a + np.sqrt(np.maximum(a * a + 2 * x * (b - a) / d, 0.0))
    within = np.divide(2 * x, root, out=np.zeros_like(x), where=root > 0)
    return np.asarray(seconds[index] + np.minimum(within, d), dtype=np.float64)


def draw_times(stages: Sequence[Stage], burstiness: float, generator: np.random.Generator) -> Floats:
    """Arrival times in seconds over all stages: gamma gaps of mean 1 and shape `burstiness`, put through `invert`."""
    total = sum(stage.area for stage in stages)
    block = int(total + 4 * np.sqrt(total / burstiness) + 16)
    marks: list[Floats] = []
    reached = 0.0
    while reached < total:
        gaps = generator.gamma(burstiness, 1 / burstiness, block)
        marks.append(reached + np.cumsum(gaps))
        reached = float(marks[-1][-1])
    return invert(stages, np.concatenate(marks))


def presence(stages: Sequence[Stage], user: int) -> list[tuple[int, int]]:
    """The intervals (ns from the start) in which `user` (from 0) is there: the number of users is at least user + 1."""
    level = user + 1
    found: list[tuple[int, int]] = []
    start_s = 0.0
    for stage in stages:
        begin_s, end_s = _above(stage, level)
        if end_s > begin_s:
            begin, end = round((start_s + begin_s) * NS_PER_S), round((start_s + end_s) * NS_PER_S)
            if found and found[-1][1] >= begin:
                found[-1] = (found[-1][0], end)
            else:
                found.append((begin, end))
        start_s += stage.duration_s
    return found


def _above(stage: Stage, level: int) -> tuple[float, float]:
    """The part of a stage, in seconds from its start, in which its level is at least `level`; (0, 0): none."""
    a, b, d = stage.level, stage.to_level, stage.duration_s
    if a >= level and b >= level:
        return 0.0, d
    if a < level and b < level:
        return 0.0, 0.0
    crossing = d * (level - a) / (b - a)
    return (0.0, crossing) if a >= level else (crossing, d)
