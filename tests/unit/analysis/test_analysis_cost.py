"""Cost, recomputed by hand from raw requests."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from bench.analysis.config import PriceConfig
from bench.analysis.cost import cost_per_mtok, cost_per_request
from bench.analysis.load import load_results
from bench.analysis.prices import MachinePrice
from tests.unit.report.fake_runs import FakeRun, edit_summary

PRICE = MachinePrice(
    price=PriceConfig(name="a machine", per_hour=1.25, date="2026-11-01", source="an invoice"), own=True
)


def test_cost_equals_price_over_what_the_raw_requests_delivered(tmp_path: Path) -> None:
    run = FakeRun(tmp_path / "run")
    folder = run.cell("Q8_0")
    requests = pq.read_table(folder / "scenarios/c4-0123abcd/requests.parquet").to_pylist()
    (cell,) = load_results([run.directory]).cells

    tokens = sum(row["output_tokens"] for row in requests)
    seconds = (max(row["last_token_ns"] for row in requests) - min(row["sent_ns"] for row in requests)) / 1e9
    dollars_spent = 1.25 * seconds / 3600
    cost = cost_per_mtok(cell, "c4", PRICE)
    assert cost.estimate is not None
    assert cost.estimate.value == pytest.approx(dollars_spent / tokens * 1e6, rel=1e-9)
    assert cost.unit == "USD/Mtok"
    each = cost_per_request(cell, "c4", PRICE)
    assert each.estimate is not None
    assert each.estimate.value == pytest.approx(dollars_spent / len(requests), rel=1e-9)


def test_the_interval_is_the_throughputs_turned_over(tmp_path: Path) -> None:
    run = FakeRun(tmp_path / "run")
    folder = run.cell("Q8_0")

    def fix(summary: dict[str, dict[str, object]]) -> None:
        summary["metrics"]["output_throughput"] = {"unit": "tokens/s", "value": 100.0, "lo": 80.0, "hi": 125.0}

    edit_summary(folder, "c1", fix)
    (cell,) = load_results([run.directory]).cells
    estimate = cost_per_mtok(cell, "c1", PRICE).estimate
    assert estimate is not None
    assert estimate.value == pytest.approx(1.25e6 / 360_000)
    assert estimate.lo == pytest.approx(1.25e6 / 450_000)
    assert estimate.hi == pytest.approx(1.25e6 / 288_000)


def test_an_invalid_throughput_makes_an_invalid_cost(tmp_path: Path) -> None:
    run = FakeRun(tmp_path / "run")
    folder = run.cell("Q8_0")

    def spoil(summary: dict[str, dict[str, dict[str, object]]]) -> None:
        summary["metrics"]["output_throughput"]["validity"] = ["under_delivered"]

    edit_summary(folder, "c1", spoil)
    (cell,) = load_results([run.directory]).cells
    cost = cost_per_mtok(cell, "c1", PRICE)
    assert cost.estimate is not None
    assert cost.validity == ("under_delivered",)
    assert not cost.usable


def test_nothing_measured_costs_nothing_known_rather_than_zero(tmp_path: Path) -> None:
    run = FakeRun(tmp_path / "run")
    run.cell("Q8_0")
    (cell,) = load_results([run.directory]).cells
    cost = cost_per_mtok(cell, "c64", PRICE)
    assert cost.estimate is None
    assert cost.missing == "not measured"
