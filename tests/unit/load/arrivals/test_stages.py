"""Stages: what is drawn follows the integral of the rate, and users are there when the number says so."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.load.arrivals.config import ClosedStagesConfig, Stage, StagesConfig
from bench.load.arrivals.stages import draw_times, invert, presence

RATES = st.one_of(st.just(0.0), st.floats(0.01, 500))
STAGES = st.lists(
    st.builds(Stage, level=RATES, to_level=RATES, duration_s=st.floats(0.05, 100)), min_size=1, max_size=5
).filter(lambda stages: sum(stage.area for stage in stages) > 1)


def integral(stages: list[Stage], seconds: float) -> float:
    """The expected number of requests in the first `seconds`, by trapezes."""
    total = 0.0
    for stage in stages:
        within = min(max(seconds, 0.0), stage.duration_s)
        reached = stage.level + (stage.to_level - stage.level) * within / stage.duration_s
        total += (stage.level + reached) / 2 * within
        seconds -= stage.duration_s
    return total


@settings(max_examples=200, deadline=None)
@given(stages=STAGES, share=st.lists(st.floats(0, 0.999), min_size=1, max_size=20))
def test_inversion_is_the_inverse_of_the_integral(stages: list[Stage], share: list[float]) -> None:
    total = sum(stage.area for stage in stages)
    expected = np.sort(np.array(share)) * total
    times = invert(stages, expected)
    assert (np.diff(times) >= 0).all()
    assert times.max() <= sum(stage.duration_s for stage in stages)
    for mark, time in zip(expected, times, strict=True):
        assert integral(stages, float(time)) == pytest.approx(mark, rel=1e-6, abs=1e-6 * total)


@pytest.mark.parametrize("burstiness", [0.5, 1.0, 4.0])
def test_each_stage_gets_as_many_requests_as_its_area(burstiness: float) -> None:
    config = StagesConfig(
        burstiness=burstiness,
        stages=[
            {"rate_per_s": 0, "to_rate_per_s": 200, "duration_s": 100},
            {"rate_per_s": 200, "duration_s": 50},
            {"rate_per_s": 0, "duration_s": 10},
            {"rate_per_s": 200, "to_rate_per_s": 20, "duration_s": 100},
        ],
    )
    times = draw_times(config.read(), burstiness, np.random.default_rng(5))
    counts = np.histogram(times, [0, 100, 150, 160, 260])[0]
    for count, area in zip(counts, [10_000, 10_000, 0, 11_000], strict=True):
        assert abs(count - area) <= 5 * (area / burstiness) ** 0.5
    first, second = np.histogram(times, [0, 50, 100])[0]
    assert first / second == pytest.approx(1 / 3, rel=0.1)


def test_users_are_there_while_the_number_is_at_least_theirs() -> None:
    config = ClosedStagesConfig(
        stages=[{"concurrency": 1, "to_concurrency": 4, "duration_s": 3}, {"concurrency": 2, "duration_s": 1}]
    )
    second = 1_000_000_000
    found = [presence(config.read(), user) for user in range(5)]
    assert found == [
        [(0, 4 * second)],
        [(second, 4 * second)],
        [(2 * second, 3 * second)],
        [],
        [],
    ]


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([], r"stages is empty; give one like \{rate_per_s: 2, duration_s: 30\}"),
        ([{"rate_per_s": 1}], r"stages\[0\] is .*; give rate_per_s, duration_s and, for a ramp, to_rate_per_s"),
        ([{"rate_per_s": 1, "duration_s": 1}, {"rate": 1, "duration_s": 1}], r"stages\[1\]"),
        ([{"rate_per_s": -1, "duration_s": 1}], r"stages\[0\].rate_per_s is -1"),
        ([{"rate_per_s": 1, "duration_s": 0}], r"stages\[0\].duration_s is 0; it must be greater than 0"),
        ([{"rate_per_s": "x", "duration_s": 1}], r"stages\[0\].rate_per_s is x; it must be a number"),
        ([{"rate_per_s": 0, "duration_s": 1}], "stages hold no request"),
    ],
)
def test_bad_stages_are_named(stages: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StagesConfig(stages=stages)
