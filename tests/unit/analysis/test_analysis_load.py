"""Reading run directories: what is tolerated, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.analysis.load import load_results
from bench.base.errors import UsageError
from tests.unit.report.fake_runs import FakeRun, quickstart, write_json


def test_cells_come_in_the_plans_order_with_short_labels(tmp_path: Path) -> None:
    results = load_results([quickstart(tmp_path / "run")])
    assert [cell.label for cell in results.cells] == ["F16", "Q8_0", "Q4_K_M", "Q4_0"]
    assert {cell.engine_kind for cell in results.cells} == {"llama_cpp"}
    assert set(results.cells[0].scenarios) == {"c1", "c4"}
    assert results.cells[1].scenarios["c4"].metrics["output_throughput"].unit == "tokens/s"


def test_labels_stay_whole_when_engines_differ_and_are_unique_over_runs(tmp_path: Path) -> None:
    first, second = FakeRun(tmp_path / "a", name="monday"), FakeRun(tmp_path / "b", name="tuesday")
    first.cell("F16")
    second.cell("F16")
    second.cell("Q8_0", label="Q8_0 · vllm")
    labels = [cell.label for cell in load_results([first.directory, second.directory, first.directory]).cells]
    assert labels == ["F16 · llama_cpp (monday)", "F16 · llama_cpp (tuesday)", "Q8_0 · vllm"]


def test_missing_parts_are_tolerated(tmp_path: Path) -> None:
    run = FakeRun(tmp_path / "run")
    no_summary = run.cell("F16")
    (no_summary / "scenarios/c1-0123abcd/summary.json").unlink()
    damaged = run.cell("Q8_0")
    (damaged / "cell.json").write_text("{ not json", encoding="utf-8")
    run.plan("Q4_0 · llama_cpp", status="planned")
    run.plan("Q4_K_M · vllm", status="unsupported", reason="no GGUF")
    (run.directory / "cells" / "stray").mkdir()
    f16, q8, planned, refused = load_results([run.directory]).cells
    assert f16.scenarios["c1"].status == "missing"
    assert f16.scenarios["c4"].status == "complete"
    assert (q8.status, q8.failure is not None and q8.failure.kind) == ("failed", "unreadable")
    assert planned.status == "missing"
    assert (refused.status, refused.unsupported_reason) == ("unsupported", "no GGUF")


def test_of_earlier_plans_only_what_they_completed_is_shown(tmp_path: Path) -> None:
    run = FakeRun(tmp_path / "run")
    run.cell("F16")
    for label, status in (("Q8_0", "complete"), ("Q4_0", "failed"), ("Q4_K_M", "interrupted")):
        recorded = json.loads((run.directory / "cells" / run.cell(label).name / "cell.json").read_text())
        write_json(run.directory / "cells" / recorded["key"] / "cell.json", recorded | {"status": status})
    plan = json.loads((run.directory / "plan.json").read_text())
    write_json(run.directory / "plan.json", plan | {"cells": plan["cells"][:1]})
    labels = [cell.label for cell in load_results([run.directory]).cells]
    assert labels == ["F16", "Q8_0"]


def test_wrong_types_become_missing_values(tmp_path: Path) -> None:
    run = FakeRun(tmp_path / "run")
    run.cell("F16", variant=[1], engine="x", machine=None, validity="no list", failure=3)
    (cell,) = load_results([run.directory]).cells
    assert cell.size_bytes is None
    assert cell.failure is None
    assert cell.validity == ()


def test_what_was_observed_speaks_against_all_metrics_or_those_it_names(tmp_path: Path) -> None:
    run = FakeRun(tmp_path / "run")
    folder = run.cell("F16")
    recorded = json.loads((folder / "cell.json").read_text(encoding="utf-8"))
    recorded["scenarios"]["c1"] |= {"validity": ["busy_machine"], "spoiled": {"prefix_cached": ["ttft"]}}
    write_json(folder / "cell.json", recorded)
    (cell,) = load_results([run.directory]).cells
    metrics = cell.scenarios["c1"].metrics
    assert metrics["ttft"].validity == ("busy_machine", "prefix_cached")
    assert metrics["output_throughput"].validity == ("busy_machine",)


def test_a_summary_outside_the_cell_is_not_read(tmp_path: Path) -> None:
    run = FakeRun(tmp_path / "run")
    folder = run.cell("F16")
    write_json(tmp_path / "elsewhere/summary.json", {"metrics": {"ttft": {"unit": "ms", "p50": 1.0}}})
    recorded = json.loads((folder / "cell.json").read_text(encoding="utf-8"))
    recorded["scenarios"]["c1"]["path"] = "../../../elsewhere"
    write_json(folder / "cell.json", recorded)
    (cell,) = load_results([run.directory]).cells
    assert cell.scenarios["c1"].metrics == {}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "has no run.json"),
        ("", "not readable JSON"),
        ("[" * 100_000, "not readable JSON"),
        ("[]", "holds no object"),
        ('{"hello": 1}', "schema_version is None"),
        ('{"schema_version": 99}', "newer quantbench"),
    ],
)
def test_foreign_folders_are_one_clear_line(tmp_path: Path, content: str | None, said: str) -> None:
    if content is not None:
        (tmp_path / "run.json").write_text(content, encoding="utf-8")
    with pytest.raises(UsageError, match=said) as caught:
        load_results([tmp_path])
    assert "\n" not in str(caught.value)


def test_what_is_not_there_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        load_results([tmp_path / "nothing"])
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(UsageError, match="is a file"):
        load_results([tmp_path / "file"])
    with pytest.raises(UsageError, match="no run directory"):
        load_results([])
