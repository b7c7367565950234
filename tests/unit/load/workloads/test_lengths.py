"""Distributions of lengths: their moments, bounds, and files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.base.errors import UsageError
from bench.load.config import LengthConfig, LengthKind
from bench.load.workloads.lengths import Lengths

N = 20_000


def drawn(mean: int = 400, **config: Any) -> np.ndarray[Any, Any]:
    lengths = Lengths(LengthConfig(**config), mean, np.random.default_rng(1), where="workload.input_lengths")
    return np.array([lengths.draw() for _ in range(N)])


@pytest.mark.parametrize("kind", [LengthKind.normal, LengthKind.lognormal])
def test_mean_and_deviation_are_those_of_the_lengths(kind: LengthKind) -> None:
    values = drawn(distribution=kind, deviation=100)
    assert values.mean() == pytest.approx(400, abs=5 * 100 / N**0.5)
    assert values.std() == pytest.approx(100, rel=0.05)
    skew = ((values - values.mean()) ** 3).mean() / values.std() ** 3
    expected = 0 if kind is LengthKind.normal else 3 * 0.25 + 0.25**3  # of a log-normal: 3 v + v^3, v = s / m
    assert skew == pytest.approx(expected, abs=0.12)


def test_bounds_hold() -> None:
    values = drawn(distribution=LengthKind.normal, deviation=300, minimum=100, maximum=500)
    assert (values.min(), values.max()) == (100, 500)
    assert set(drawn(distribution=LengthKind.uniform, minimum=3, maximum=6)) == {3, 4, 5, 6}
    assert set(drawn()) == {400}
    assert drawn(mean=2, distribution=LengthKind.lognormal, deviation=50).min() >= 1


def test_empirical_lengths_come_as_often_as_they_are_there(tmp_path: Path) -> None:
    path = tmp_path / "lengths.txt"
    path.write_text("10\n20\n\n20\n20\n")
    for values in (
        drawn(distribution=LengthKind.empirical, path=str(path)),
        drawn(distribution=LengthKind.empirical, values=[10] + [20] * 3),
    ):
        assert (values == 20).mean() == pytest.approx(0.75, abs=0.02)
        assert set(values) == {10, 20}


def test_bad_files_are_named_by_line(tmp_path: Path) -> None:
    path = tmp_path / "lengths.txt"
    path.write_text("10\n0\n")
    with pytest.raises(
        UsageError, match=r"workload.input_lengths.path: .*lengths.txt, line 2: '0' is not a whole number"
    ):
        drawn(distribution=LengthKind.empirical, path=str(path))
    with pytest.raises(UsageError, match="cannot be read"):
        drawn(distribution=LengthKind.empirical, path=str(tmp_path / "gone"))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"distribution": LengthKind.uniform}, "uniform lengths need a maximum"),
        ({"distribution": LengthKind.empirical}, "empirical lengths need values or a path"),
        ({"minimum": 5, "maximum": 4}, "maximum is 4; it must be at least the minimum, 5"),
        ({"distribution": LengthKind.empirical, "values": [3, 0]}, "values must all be at least 1"),
        ({"deviation": -1}, "deviation is -1"),
    ],
)
def test_what_makes_no_distribution_is_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LengthConfig(**config)
