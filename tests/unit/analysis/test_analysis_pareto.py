"""Who is on a frontier, who is dominated by whom and in what, and who cannot be told apart."""

from __future__ import annotations

import dataclasses
import tempfile
from functools import cache
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from bench.analysis import formatting as fmt
from bench.analysis.candidates import Candidate, analyse
from bench.analysis.config import PriceConfig, ReportConfig
from bench.analysis.estimate import Estimate
from bench.analysis.load import load_results
from bench.analysis.pareto import Axis, Standing, frontier
from bench.analysis.readings import Reading
from bench.load.slo import SloConfig
from tests.unit.report.fake_runs import VARIANTS, FakeRun, edit_summary, quickstart

CONFIG = ReportConfig(price=PriceConfig(name="a machine", per_hour=0.1, date="2026-11-01", source="an invoice"))
Values = dict[str, tuple[float, float]]


@cache
def template() -> Candidate:
    """A candidate as analysis makes it; what is compared are the axes of the tests."""
    with tempfile.TemporaryDirectory() as folder:
        return analyse(load_results([quickstart(Path(folder) / "run", ("F16",))]), CONFIG).candidates[0]


def axis(values: Values, place: int, half: float, *, higher: bool = False) -> Axis:
    def read(candidate: Candidate) -> Reading:
        value = values[candidate.cell.id][place]
        estimate = Estimate(value=value, lo=value - half, hi=value + half)
        return Reading(cell=candidate.cell.id, source="s", tag="t", statistic="value", unit="", estimate=estimate)

    return Axis(name="xy"[place], unit="", read=read, higher_is_better=higher, formatter=fmt.significant)


def candidates(model: Candidate, values: Values) -> list[Candidate]:
    cells = [dataclasses.replace(model.cell, id=name, label=name) for name in values]
    return [dataclasses.replace(model, cell=cell, excluded=None, is_baseline=False) for cell in cells]


POINTS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=9)


@settings(deadline=None)  # the first example makes the template
@given(points=POINTS, higher=st.booleans())
def test_standings_are_those_of_comparing_every_pair(points: list[tuple[int, int]], higher: bool) -> None:
    values: Values = {f"v{number}": (float(x), float(y)) for number, (x, y) in enumerate(points)}
    sign = -1 if higher else 1
    drawn = frontier(candidates(template(), values), axis(values, 0, 0.3, higher=higher), axis(values, 1, 0.3))
    for point in drawn.points:
        x, y = values[point.cell]
        beaten = [
            name
            for name, (other_x, other_y) in values.items()
            if sign * other_x <= sign * x and other_y <= y and (other_x, other_y) != (x, y)
        ]
        assert (point.standing is Standing.FRONTIER) == (not beaten)
        assert (point.by in beaten) == bool(beaten)


def test_overlapping_intervals_are_not_called_dominated() -> None:
    values: Values = {"good": (1.0, 1.0), "near": (1.1, 1.0), "far": (9.0, 1.2)}
    drawn = frontier(candidates(template(), values), axis(values, 0, 0.3), axis(values, 1, 0.3))
    told = {point.label: (point.standing, point.by) for point in drawn.points}
    assert told == {
        "good": (Standing.FRONTIER, ""),
        "near": (Standing.UNTOLD, "good"),
        "far": (Standing.DOMINATED, "good"),
    }
    far = drawn.points[-1]
    assert (
        far.why == "good dominates it: x 9.00 against 1.00 (intervals apart), y 1.20 against 1.00 (intervals overlap)"
    )


def test_four_frontiers_of_a_run_with_reasons_for_who_is_left_out(tmp_path: Path) -> None:
    run = FakeRun(tmp_path / "run")
    run.cell("F16")
    run.cell("Q8_0")
    slow = run.cell("Q4_K_M", figures={**VARIANTS["Q4_K_M"], "itl_ms": 14.0})
    spoilt = run.cell("Q4_0")

    def spoil(summary: dict[str, dict[str, dict[str, object]]]) -> None:
        summary["metrics"]["output_throughput"]["validity"] = ["client_slip"]

    edit_summary(spoilt, "c4", spoil)
    analysis = analyse(load_results([run.directory]), CONFIG)
    assert [each.x.name for each in analysis.frontiers] == [
        *("cost", "throughput", "end-to-end latency p50", "memory while serving")
    ]
    cost = analysis.frontiers[0]
    assert cost.left_out == (("Q4_0", "cost may not be believed: client_slip"),)
    marks = {point.label: (point.standing, point.by) for point in cost.points}
    assert marks["Q4_K_M"] == (Standing.DOMINATED, "Q8_0")
    assert marks["Q8_0"][0] is marks["F16"][0] is Standing.FRONTIER
    assert slow.exists()


def test_with_an_objective_cost_is_that_at_the_objective(tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, slo=SloConfig(ttft_ms=1000.0, percentile=50))
    analysis = analyse(load_results([quickstart(tmp_path / "run")]), config)
    assert analysis.frontiers[0].x.name == "cost at the SLO"
    first = analysis.frontiers[0].points[0]
    assert first.x.estimate == analysis.costs[0].at_slo.estimate


def test_without_perplexity_accuracy_lost_is_the_loss(tmp_path: Path) -> None:
    run = FakeRun(tmp_path / "run")
    for variant, change in (("F16", 0.0), ("Q4_0", -0.1)):
        folder = run.cell(variant)

        def only_answers(summary: dict[str, object], change: float = change) -> None:
            figure = {"unit": "ratio", "value": change, "lo": change - 0.02, "hi": change + 0.02, "validity": []}
            share = {"unit": "ratio", "value": 0.6 + change, "validity": []}
            summary["metrics"] = {"accuracy": share, "base_accuracy": share, "accuracy_change": figure}

        edit_summary(folder, "divergence", only_answers)
    analysis = analyse(load_results([run.directory]), CONFIG)
    y = analysis.frontiers[0].y
    assert y.name == "accuracy lost in divergence"
    lost = y.read(analysis.candidates[1]).estimate
    assert lost is not None
    assert (round(lost.value, 9), lost.lo and round(lost.lo, 9), lost.hi and round(lost.hi, 9)) == (0.1, 0.08, 0.12)
