"""What a report leaves for programs: JSON that keeps its published schema, and the table as Parquet."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import jsonschema
import pandas as pd
import pytest

from bench.analysis.candidates import analyse
from bench.analysis.config import ApiPriceConfig, ConstraintConfig, PriceConfig, ReportConfig, TrafficConfig
from bench.analysis.document import schema
from bench.analysis.load import load_results
from bench.analysis.recommend import recommend
from bench.analysis.table import COLUMNS, tidy
from bench.load.slo import SloConfig
from bench.report.markdown import render_markdown
from bench.report.outputs import as_json, as_parquet
from tests.unit.report.fake_runs import FakeRun, failed, quickstart

GIVEN: dict[str, Any] = {"date": "2026-11-01", "source": "an invoice"}
CONFIG = ReportConfig(price=PriceConfig(name="a machine", per_hour=0.1, **GIVEN))
EVERYTHING = ReportConfig(
    price=CONFIG.price,
    slo=SloConfig(ttft_ms=40.0, percentile=50, success=0.9),
    traffic=TrafficConfig(users=30, lifetime_mtok=10.0),
    api=ApiPriceConfig(name="x", input_per_mtok=0.1, output_per_mtok=0.4, **GIVEN),
    constraints=ConstraintConfig(memory_gib=0.01),
)


def written(directory: Path, config: ReportConfig = CONFIG) -> tuple[dict[str, Any], pd.DataFrame]:
    """The document, held against its schema, and the table it goes with."""
    analysis = analyse(load_results([directory]), config)
    frame = tidy(analysis)
    document = json.loads(as_json(analysis, recommend(analysis), frame))
    jsonschema.Draft202012Validator(schema()).validate(document)
    return document, frame


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(schema())


@pytest.mark.parametrize("config", [CONFIG, EVERYTHING])
def test_a_finished_run_keeps_the_schema(tmp_path: Path, config: ReportConfig) -> None:
    document, frame = written(quickstart(tmp_path / "run"), config)
    assert [cell["label"] for cell in document["cells"]] == ["F16", "Q8_0", "Q4_K_M", "Q4_0"]
    assert len(document["figures"]) == len(frame)
    (figure,) = (
        row
        for row in document["figures"]
        if (row["cell"], row.get("source"), row.get("metric")) == ("Q8_0", "c4", "cost_per_request")
    )
    costs = next(row for row in document["costs"] if row["cell"] == document["cells"][1]["id"])
    load = next(load for load in costs["loads"] if load["load"] == "c4")
    assert figure["value"] == load["per_request"]["value"]


def test_failures_and_emptiness_keep_the_schema(tmp_path: Path) -> None:
    run = FakeRun(tmp_path / "run")
    document, _ = written(run.directory)
    assert document["cells"] == []
    run.cell("F16", scenarios=(), tasks=False, **failed())
    run.plan("Q3_K", reason="no kernel")
    document, _ = written(run.directory, EVERYTHING)
    assert [cell["failure"] and cell["failure"]["kind"] for cell in document["cells"]] == ["crashed", None]
    assert document["cells"][1]["unsupported_reason"] == "no kernel"


def test_published_figures_stand_apart_and_are_marked(tmp_path: Path) -> None:
    document, frame = written(quickstart(tmp_path / "run"))
    assert document["published"]["origin"] == "published, unsourced"
    assert len(document["published"]["figures"]) == 46
    models = {figure["model"] for figure in document["published"]["figures"]}
    assert not models & set(frame["model"])
    assert "Llama" not in json.dumps([document["costs"], document["frontiers"], document["figures"]])


def test_parquet_holds_the_tidy_table(tmp_path: Path) -> None:
    _, frame = written(quickstart(tmp_path / "run"))
    read = pd.read_parquet(io.BytesIO(as_parquet(frame)))
    assert list(read.columns) == list(COLUMNS)
    pd.testing.assert_frame_equal(read, frame, check_dtype=False)
    assert read["value"].dtype == "float64"
    assert read["value"].isna().any()


def test_the_pull_requests_summary_says_what_was_put_aside_and_what_differs(tmp_path: Path) -> None:
    run = FakeRun(tmp_path / "run")
    run.cell("F16")
    other = run.cell("Q8_0")
    path = other / "cell.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"windows": 8', '"windows": 4'), encoding="utf-8")
    analysis = analyse(load_results([run.directory]), EVERYTHING)
    text = render_markdown(analysis, recommend(analysis))
    assert "- Put aside: F16 does not fit 0.01 GiB: serving it took 0.361 GiB." in text
    assert "- Usual here: GGUF Q4\\_K\\_M (rule of thumb, not measured): there is no GPU." in text
    assert "## Not comparable" in text
    assert "- Q8\\_0 and F16 differ in the task data of divergence" in text
