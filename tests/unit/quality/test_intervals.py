from __future__ import annotations

import math

import numpy as np
import pytest

from bench.quality.intervals import share_interval, token_standard_error, window_interval
from bench.quality.statistics.student import t_quantile


@pytest.mark.parametrize(
    ("degrees", "expected"), [(1, 12.7062), (7, 2.3646), (11, 2.2010), (30, 2.0423), (120, 1.9799), (10**6, 1.9600)]
)
def test_t_quantile_against_tables(degrees: int, expected: float) -> None:
    assert t_quantile(degrees) == pytest.approx(expected, abs=2e-4)


def test_window_interval_by_hand() -> None:
    values = np.array([[1.0, 3.0], [2.0, 4.0], [4.0, 6.0]])  # window means 2, 3, 5: mean 10/3, sd sqrt(7/3)
    half = 4.3027 * math.sqrt(7 / 3) / math.sqrt(3)
    assert window_interval(values) == pytest.approx((10 / 3 - half, 10 / 3 + half), abs=1e-3)
    assert window_interval(values[:1]) is None


def test_window_interval_covers_when_tokens_of_a_window_belong_together() -> None:
    generator = np.random.default_rng(5)
    covered, too_narrow = 0, 0
    for _ in range(600):
        values = generator.normal(0, 1, (8, 1)) + generator.normal(0, 1, (8, 50))
        interval = window_interval(values)
        assert interval is not None
        covered += interval[0] <= 0 <= interval[1]
        error = token_standard_error(values)
        assert error is not None
        too_narrow += abs(float(values.mean())) <= 1.96 * error
    assert 0.92 < covered / 600 < 0.98
    assert too_narrow / 600 < 0.7, "treating tokens as independent must be seen to fail here"


def test_token_standard_error_is_llama_perplexitys() -> None:
    values = np.array([[1.0, 2.0], [3.0, 6.0]])
    mean, square = values.mean(), (values**2).mean()
    assert token_standard_error(values) == pytest.approx(math.sqrt((square - mean**2) / 3))
    assert token_standard_error(values[:1, :1]) is None


def test_wilson() -> None:
    assert share_interval(45, 50) == pytest.approx((0.7864, 0.9565), abs=1e-4)
    low, high = share_interval(50, 50) or (0.0, 0.0)
    assert high == 1.0
    assert 0.9 < low < 1.0
    assert share_interval(0, 0) is None
