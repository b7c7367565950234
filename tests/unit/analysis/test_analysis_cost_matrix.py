"""One cell's row of the cost matrix, every figure recomputed by hand from its raw requests and the price."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bench.analysis.candidates import Analysis, analyse
from bench.analysis.config import (
    ApiPriceConfig,
    OwnedPriceConfig,
    PriceConfig,
    ReportConfig,
    SplitConfig,
    SplitRule,
    TrafficConfig,
)
from bench.analysis.cost_matrix import CostRow
from bench.analysis.economics import COST_PER_CORRECT, repaid_after_mtok
from bench.analysis.load import load_results
from bench.analysis.readings import Reading
from bench.analysis.service import Held
from bench.analysis.table import tidy
from bench.load.slo import SloConfig
from tests.unit.report.fake_runs import FakeRun, edit_summary, single, write_json

HOURLY = 1.8
GIVEN: dict[str, Any] = {"date": "2026-11-01", "source": "an invoice"}
CONFIG = ReportConfig(price=PriceConfig(name="a machine", per_hour=HOURLY, **GIVEN))


@dataclasses.dataclass(frozen=True)
class Raw:
    """What the requests of a load say, added up in plain Python."""

    requests: int
    input_tokens: int
    output_tokens: int
    seconds: float

    @property
    def spent(self) -> float:
        """Money spent while they ran."""
        return HOURLY * self.seconds / 3600


def raw_of(folder: Path, load: str) -> Raw:
    (path,) = folder.glob(f"scenarios/{load}-*/requests.parquet")
    rows = pq.read_table(path).to_pylist()
    return Raw(
        requests=len(rows),
        input_tokens=sum(row["prompt_tokens"] for row in rows),
        output_tokens=sum(row["output_tokens"] for row in rows),
        seconds=(max(row["last_token_ns"] for row in rows) - min(row["sent_ns"] for row in rows)) / 1e9,
    )


def row_of(directory: Path, **changes: Any) -> tuple[Analysis, CostRow]:
    analysis = analyse(load_results([directory]), dataclasses.replace(CONFIG, **changes))
    return analysis, analysis.costs[-1]


def value(reading: Reading) -> float:
    assert reading.estimate is not None, reading.missing
    return reading.estimate.value


@pytest.fixture
def cell(tmp_path: Path) -> Path:
    return FakeRun(tmp_path / "run").cell("Q8_0")


def test_costs_at_a_load(cell: Path) -> None:
    raw = raw_of(cell, "c4")
    _, row = row_of(cell.parents[1])
    at = row.at("c4")
    assert at is not None
    assert at.mix is not None
    assert at.mix.name == "32 in, 64 out"
    assert value(at.blended) == pytest.approx(1e6 * raw.spent / (raw.input_tokens + raw.output_tokens))
    assert value(at.output) == pytest.approx(1e6 * raw.spent / raw.output_tokens)
    assert value(at.request) == pytest.approx(raw.spent / raw.requests)
    assert at.blended.estimate is not None
    assert at.blended.estimate.lo is not None
    assert at.blended.estimate.lo < at.blended.estimate.value
    assert row.peak is not None
    assert row.peak.load == "c4"


@pytest.mark.parametrize("rule", list(SplitRule))
def test_a_split_gives_back_the_whole_hour(cell: Path, rule: SplitRule) -> None:
    raw = raw_of(cell, "c4")
    _, row = row_of(cell.parents[1], split=SplitConfig(rule=rule, output_weight=3.0))
    at = row.at("c4")
    assert at is not None
    split = value(at.split_input) * raw.input_tokens + value(at.split_output) * raw.output_tokens
    assert split / 1e6 == pytest.approx(raw.spent)
    times = {SplitRule.blended: 1.0, SplitRule.weighted: 3.0, SplitRule.output_only: float("inf")}[rule]
    assert value(at.split_input) == pytest.approx(value(at.split_output) / times)


def test_the_mix_is_what_the_endpoint_counted_rather_than_what_was_asked(cell: Path) -> None:
    def count(summary: dict[str, Any]) -> None:
        summary["requests"] = {"ok": 10}
        summary["tokens"] = {"main": {"prompt_tokens": 500, "output_tokens": 110}}

    edit_summary(cell, "c4", count)
    _, row = row_of(cell.parents[1])
    at = row.at("c4")
    assert at is not None
    assert at.mix is not None
    assert (at.mix.input_tokens, at.mix.output_tokens, at.mix.measured) == (50, 11, True)


def test_idle_capacity_is_paid_too(cell: Path) -> None:
    raw = raw_of(cell, "c4")
    capacity = raw.requests / raw.seconds
    _, row = row_of(cell.parents[1], traffic=TrafficConfig(headroom=0.2))
    assert row.capacity.rate is not None
    assert row.capacity.rate.value == pytest.approx(capacity)
    curve = row.curve
    assert curve[0].rate_per_s == pytest.approx(capacity / 100)
    assert curve[-1].rate_per_s == pytest.approx(capacity * 10)
    for point in curve:
        replicas = -(-point.rate_per_s // (0.8 * capacity))
        spent_a_second = replicas * HOURLY / 3600
        assert point.replicas == replicas
        assert point.per_request.value == pytest.approx(spent_a_second / point.rate_per_s)
        assert point.per_mtok.value == pytest.approx(1e6 * spent_a_second / point.rate_per_s / 96)
        assert point.beyond_measured == (point.rate_per_s > 0.8 * capacity)
    assert curve[0].per_mtok.value > 20 * curve[-1].per_mtok.value


def test_the_cost_at_the_objective_is_that_of_the_rate_that_holds_it(cell: Path) -> None:
    raw = raw_of(cell, "c1")
    # Between the two loads' medians: c1 holds it, c4 breaks it.
    _, row = row_of(cell.parents[1], slo=SloConfig(ttft_ms=30.0, percentile=50, success=0.9))
    assert row.capacity.interpolated
    assert row.capacity.load == "c1"
    assert row.capacity.rate is not None
    assert row.capacity.rate.value > raw.requests / raw.seconds
    assert value(row.request_at_slo) == pytest.approx(HOURLY / 3600 / row.capacity.rate.value)
    assert value(row.at_slo) == pytest.approx(HOURLY / 3600 / row.capacity.rate.value / 96 * 1e6)
    rows = pq.read_table(next(cell.glob("scenarios/c4-*/requests.parquet"))).to_pylist()
    good = sum((each["first_token_ns"] - each["sent_ns"]) / 1e6 <= 30 for each in rows)
    attainment = next(point for point in row.points if point.load == "c4").attainment
    assert attainment is not None
    assert attainment.value == pytest.approx(good / len(rows))


@pytest.mark.parametrize(("share", "held", "near"), [(1.2, True, False), (1.03, True, True), (0.98, False, True)])
def test_a_bound_within_the_error_of_a_tail_is_told(cell: Path, share: float, held: bool, near: bool) -> None:
    p90 = json.loads(next(cell.glob("scenarios/c4-*/summary.json")).read_text())["metrics"]["ttft"]["p90"]
    _, row = row_of(cell.parents[1], slo=SloConfig(ttft_ms=share * p90, percentile=90, success=0.9))
    found = next(point for point in row.points if point.load == "c4")
    assert (found.held is Held.YES, "within its interval of" in found.why) == (held, near)
    assert ("within its interval of" in row.capacity.why) == near


def test_a_correct_answer_costs_its_tokens_over_how_often_it_is_right(cell: Path) -> None:
    raw = raw_of(cell, "c4")
    add_generation(cell, accuracy=0.4, length=150.0, prompts=[100, 120, None])
    _, row = row_of(cell.parents[1])
    (reading,) = row.per_correct
    blended = raw.spent / (raw.input_tokens + raw.output_tokens)
    assert reading.tag == COST_PER_CORRECT
    assert reading.unit == "USD/correct answer"
    assert value(reading) == pytest.approx(blended * (110 + 150) / 0.4)


def test_no_right_answer_has_no_cost(cell: Path) -> None:
    add_generation(cell, accuracy=0.0, length=150.0, prompts=[100])
    _, row = row_of(cell.parents[1])
    assert row.per_correct[0].estimate is None
    assert row.per_correct[0].missing == "no answer is right"


def add_generation(cell: Path, *, accuracy: float, length: float, prompts: list[int | None]) -> None:
    """A task whose answers have the length the model chose."""
    relative = "tasks/gsm8k-00000000"
    metrics = {
        "exact_match": single("ratio", accuracy, 0.1),
        "base_exact_match": single("ratio", 0.5),
        "exact_match_change": single("ratio", accuracy - 0.5),
        "output_tokens_mean": single("tokens", length),
    }
    write_json(cell / relative / "summary.json", {"metrics": metrics, "errors": {}, "validity": []})
    pq.write_table(pa.table({"prompt_tokens": pa.array(prompts, type=pa.int64())}), cell / relative / "items.parquet")
    recorded = json.loads((cell / "cell.json").read_text(encoding="utf-8"))
    recorded["tasks"]["gsm8k"] = {"key": "00000000", "path": relative, "status": "complete", "failure": None}
    write_json(cell / "cell.json", recorded)


def test_energy_and_its_electricity(cell: Path) -> None:
    recorded = json.loads((cell / "cell.json").read_text(encoding="utf-8"))
    recorded["scenarios"]["c4"] |= {"server_latency": {}, "energy_per_output_token_j": {"gpu": 3.6}}
    write_json(cell / "cell.json", recorded)
    own = OwnedPriceConfig(
        name="mine", purchase=10_000, years=4, power_w=500, pue=1.5, electricity_per_kwh=0.2, **GIVEN
    )
    _, row = row_of(cell.parents[1], price=own)
    at = row.at("c4")
    assert at is not None
    joules, money = at.energy
    assert value(joules) == pytest.approx(3.6)
    # 3.6 J are a millionth of a kWh.
    assert money.unit == "USD/token"
    assert value(money) == pytest.approx(1e-6 * 1.5 * 0.2)


def test_making_a_variant_is_paid_back_by_what_it_saves(tmp_path: Path) -> None:
    run = FakeRun(tmp_path / "run")
    run.cell("F16")
    run.cell("Q8_0")
    analysis, row = row_of(run.directory, traffic=TrafficConfig(lifetime_mtok=50.0))
    assert row.making.amount == pytest.approx(1.42 / 3600 * HOURLY)
    assert row.making.per_mtok == pytest.approx(1.42 / 3600 * HOURLY / 50)
    base, made = (candidate.cost.estimate for candidate in analysis.candidates)
    assert base is not None
    assert made is not None
    saved = base.value - made.value
    assert repaid_after_mtok(row.making, made, base) == pytest.approx(1.42 / 3600 * HOURLY / saved)
    assert repaid_after_mtok(row.making, base, made) is None
    frame = tidy(analysis)
    (repaid,) = frame[frame["metric"] == "repaid_after_million_output_tokens"]["value"]
    assert repaid == pytest.approx(1.42 / 3600 * HOURLY / saved)


def test_where_an_api_breaks_even(cell: Path) -> None:
    raw = raw_of(cell, "c4")
    capacity = raw.requests / raw.seconds
    for each, reachable in ((1e-3, True), (1e-6, None)):
        # A price per million such that a request of 32 and 64 tokens costs `each`.
        api = ApiPriceConfig(name="x", input_per_mtok=0.0, output_per_mtok=each / 64 * 1e6, **GIVEN)
        _, row = row_of(cell.parents[1], api=api)
        assert row.api is not None
        assert row.api.api_per_request == pytest.approx(each)
        assert row.api.rate_per_s == pytest.approx(HOURLY / 3600 / each)
        assert row.api.utilisation == pytest.approx(HOURLY / 3600 / each / capacity)
        assert row.api.reachable is reachable  # beyond the highest measured load nothing is claimed


def test_the_tidy_table_has_the_matrix(cell: Path) -> None:
    analysis, row = row_of(cell.parents[1], traffic=TrafficConfig(peak_rate_per_s=100.0))
    frame = tidy(analysis).set_index(["kind", "source", "metric"])["value"]
    at = row.at("c1")
    assert at is not None
    assert frame["cost", "c1", "cost_per_million_blended_tokens"] == value(at.blended)
    assert row.replicas is not None
    assert frame["capacity", "c4", "replicas"] == row.replicas.count
    assert frame["cost", "slo", "cost_per_request_at_slo"] == value(row.request_at_slo)
