"""Where an open loop settles and whether it does, on series made by hand and on simulated queues."""

from __future__ import annotations

import numpy as np
import pytest

from bench.load.config import ConstantConfig, PoissonConfig
from bench.load.steady import backlog_growing, in_flight, mser
from bench.load.window import WindowKind, find_window
from tests.unit.load.queues import queue, recorded


def growing_share(load: float, requests: int, *, runs: int, poisson: bool = True) -> float:
    generator = np.random.default_rng(7)
    found = 0
    for _ in range(runs):
        table = recorded(*queue(generator, requests, load, poisson=poisson))
        found += backlog_growing(table, table.main)
    return found / runs


def test_in_flight_counts_what_is_sent_and_not_done() -> None:
    sent = np.array([0, 10, 20, 30])
    assert in_flight(sent, np.array([15, 100, 20, 100])).tolist() == [1, 2, 1, 2]


def test_mser_leaves_out_a_ramp_and_finds_no_level_in_a_slope() -> None:
    generator = np.random.default_rng(1)
    noise = generator.normal(0, 1, 400)
    ramp = np.minimum(np.arange(400), 60) / 2
    cut, settles = mser(ramp + noise)
    assert settles
    assert 45 <= cut <= 80
    assert mser(noise)[0] <= 60
    assert not mser(np.arange(400) / 2 + noise)[1]
    assert mser(noise[:7]) == (0, True)


@pytest.mark.parametrize("load", [0.5, 0.9])
def test_no_backlog_below_capacity(load: float) -> None:
    assert growing_share(load, 1000, runs=40) <= 0.05
    assert growing_share(load, 300, runs=40) <= 0.05


def test_a_backlog_above_capacity() -> None:
    assert growing_share(1.1, 3000, runs=20) >= 0.9
    assert growing_share(1.1, 1000, runs=40) >= 0.6
    assert growing_share(1.3, 300, runs=40) >= 0.85
    assert growing_share(1.1, 1000, runs=20, poisson=False) >= 0.75
    assert growing_share(2.0, 120, runs=40) >= 0.95


def test_the_window_of_an_open_loop_begins_when_the_queue_has_filled() -> None:
    table = recorded(*queue(np.random.default_rng(2), 2000, 0.8))
    window = find_window(table, PoissonConfig(rate_per_s=11, requests=2000))
    assert window.kind is WindowKind.steady
    assert 12 <= window.wave <= 18
    assert 0.6 * len(table) < window.measured.sum() < len(table)
    assert "MSER-5" in window.rule


def test_above_capacity_there_is_no_steady_window() -> None:
    table = recorded(*queue(np.random.default_rng(2), 2000, 1.3))
    window = find_window(table, ConstantConfig(rate_per_s=18, requests=2000))
    assert window.kind is WindowKind.unsteady
    assert "no steady part" in window.rule
