"""The search on loads whose outcome is known, or drawn: it brackets the truth, ends, and says what it does not know."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from bench.load.capacity.bracket import Capacity, Outcome, Probe, capacity, next_level
from bench.load.capacity.config import EffortConfig


def search(
    outcome: Callable[[float], Outcome], effort: EffortConfig | None = None, *, whole: bool = False
) -> tuple[Capacity, list[Probe]]:
    effort = effort or EffortConfig()
    probes: list[Probe] = []
    while len(probes) < effort.max_probes:
        level = next_level(probes, effort, whole=whole)
        if level is None:
            break
        result = outcome(level)
        probes.append(Probe(level=level, outcome=result, reasons=("client_slip",) if result is Outcome.void else ()))
    return capacity(probes, effort, whole=whole), probes


def sharp(limit: float) -> Callable[[float], Outcome]:
    return lambda level: Outcome.held if level <= limit else Outcome.failed


@pytest.mark.parametrize("limit", [0.037, 0.9, 1.0, 7.3, 64, 5000])
def test_a_sharp_limit_is_bracketed_to_the_tolerance(limit: float) -> None:
    found, probes = search(sharp(limit))
    assert found.settled
    assert found.lo is not None
    assert found.hi is not None
    assert found.value == found.lo
    assert found.lo <= limit < found.hi <= found.lo * 1.05
    assert sum(probe.level == found.lo for probe in probes) == sum(probe.level == found.hi for probe in probes) == 3


@pytest.mark.parametrize(("factor", "tolerance"), [(1.05, 0.01), (10, 0.00001)])
def test_small_and_large_steps_end_too(factor: float, tolerance: float) -> None:
    effort = EffortConfig(factor=factor, tolerance=tolerance, start=5, max_probes=500)
    assert search(sharp(0.7), effort)[0].settled
    assert search(sharp(3), effort, whole=True)[0] == Capacity(value=3, lo=3, hi=4, settled=True, reasons=())


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 17, 100])
def test_users_are_whole_and_found_exactly(limit: int) -> None:
    found, probes = search(sharp(limit), EffortConfig(tolerance=0.001), whole=True)
    assert (found.value, found.lo, found.hi) == (limit, limit, limit + 1)
    assert found.settled
    assert all(probe.level == int(probe.level) for probe in probes)


def test_nothing_holds_or_everything_does() -> None:
    nothing, _ = search(sharp(0), EffortConfig(lowest=0.1))
    assert (nothing.value, nothing.lo, nothing.hi, nothing.settled) == (None, None, 0.1, True)
    everything, _ = search(sharp(math.inf), EffortConfig(highest=50))
    assert (everything.value, everything.lo, everything.hi, everything.settled) == (50, 50, None, True)
    no_user, probes = search(sharp(0), whole=True)
    assert (no_user.value, no_user.hi, len(probes)) == (None, 1, 3)


def test_an_interval_covers_a_limit_that_chance_blurs() -> None:
    # The chance to hold falls from 1 to 0 between 9 and 11 requests/s; 10 is the level where it is even.
    generator = np.random.default_rng(3)

    def blurred(level: float) -> Outcome:
        return Outcome.held if generator.uniform() < (11 - level) / 2 else Outcome.failed

    covered, lengths = 0, []
    for _ in range(200):
        found, probes = search(blurred)
        assert found.lo is not None
        assert found.hi is not None
        assert found.value is not None
        assert found.lo <= found.value < found.hi
        covered += found.lo <= 10 <= found.hi
        lengths.append(len(probes))
    assert covered >= 170  # what three repeats at either end are good for, see Capacity
    assert np.median(lengths) < 25


def test_what_the_client_cannot_ask_is_no_limit_of_the_server() -> None:
    def out_of_breath(level: float) -> Outcome:
        return Outcome.held if level <= 100 else Outcome.void

    found, probes = search(out_of_breath)
    assert found.settled
    assert found.lo is not None
    assert 95 <= found.lo <= 100
    assert found.hi is None
    assert found.reasons == ("client_slip",)
    voids = [probe.level for probe in probes if probe.outcome is Outcome.void]
    assert all(voids.count(level) == 2 for level in voids)


def test_a_void_is_asked_again_before_anything_else() -> None:
    probes = [Probe(level=1.0, outcome=Outcome.held), Probe(level=2.0, outcome=Outcome.void)]
    assert next_level(probes, EffortConfig(), whole=False) == 2.0


def test_unsettled_when_the_budget_ends() -> None:
    found, probes = search(sharp(7.3), EffortConfig(max_probes=5))
    assert len(probes) == 5
    assert not found.settled
    assert found.lo is not None
    assert found.hi is not None
    assert found.lo <= 7.3 < found.hi
