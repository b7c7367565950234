"""The notebook's API: the same figures as the report's, and raw rows of every run."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

import bench.results
from bench.analysis.table import COLUMNS
from bench.base.errors import UsageError
from tests.unit.report.fake_runs import FakeRun, quickstart


def test_figures_and_answer(tmp_path: Path) -> None:
    run = quickstart(tmp_path / "run")
    frame = bench.results.load(str(run), "price.per_hour=2")
    assert list(frame.columns) == list(COLUMNS)
    cheap = bench.results.load(run, "price.per_hour=1")
    costs = frame["metric"] == "cost_per_million_output_tokens"
    pd.testing.assert_series_equal(frame[costs]["value"], 2 * cheap[costs]["value"])
    assert bench.results.recommend(run, "max_perplexity_increase=0.3").headline == "Deploy Q4_0."
    assert len(bench.results.analysis(run).costs) == 4


def test_requests_and_items_of_several_runs(tmp_path: Path) -> None:
    first, second = quickstart(tmp_path / "a", ("F16",)), FakeRun(tmp_path / "b", name="other")
    cell = second.cell("Q8_0", scenarios=(4,))
    pq.write_table(
        pq.read_table(next(cell.glob("scenarios/*/requests.parquet"))).slice(0, 3).drop_columns(["prompt_tokens"]),
        next(cell.glob("scenarios/*")) / "requests.parquet",
    )
    frame = bench.results.requests([first, second.directory])
    counts = frame.groupby(["run", "cell", "load"], observed=True).size().to_dict()
    assert counts == {
        ("quickstart", "F16", "c1"): 24,
        ("quickstart", "F16", "c4"): 24,
        ("other", "Q8_0", "c4"): 3,
    }
    assert frame[frame["run"] == "other"]["prompt_tokens"].isna().all()
    assert list(bench.results.items(first).columns) == ["run", "cell", "cell_key", "task"]


def test_what_is_not_a_run_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a run"):
        bench.results.load(tmp_path)
    with pytest.raises(UsageError, match="did you mean"):
        bench.results.load(quickstart(tmp_path / "run"), "lode=c4")
