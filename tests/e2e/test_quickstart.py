"""The main path on real parts: one command, then the same command again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.support import SMALL, Answer, Workspace

pytestmark = pytest.mark.llama_cpp


@pytest.fixture(scope="module")
def workspace(make_workspace: Callable[[str], Workspace]) -> Workspace:
    return make_workspace("quickstart")


@pytest.fixture(scope="module")
def first(workspace: Workspace) -> Answer:
    return workspace.run("run", *SMALL)


@pytest.fixture(scope="module")
def cells(workspace: Workspace, first: Answer) -> dict[str, dict[str, Any]]:
    assert first.returncode == 0, first.stdout + first.stderr
    found = (workspace.folder / "results" / "quickstart" / "cells").glob("*/cell.json")
    records = [json.loads(path.read_text()) | {"folder": path.parent} for path in found]
    return {record["label"]: record for record in records}


def summary(cell: dict[str, Any], kind: str, name: str) -> dict[str, Any]:
    folder: Path = cell["folder"]
    value: dict[str, Any] = json.loads((folder / cell[kind][name]["path"] / "summary.json").read_text())
    return value


def test_it_prints_the_path_of_a_report(workspace: Workspace, first: Answer) -> None:
    assert first.returncode == 0, first.stdout + first.stderr
    (line,) = [line for line in first.stdout.splitlines() if line.startswith("report: ")]
    assert (workspace.folder / line.removeprefix("report: ")).read_text().startswith("<!doctype html>")


def test_every_cell_scenario_and_task_is_complete(cells: dict[str, dict[str, Any]]) -> None:
    assert sorted(cells) == ["F16 · llama_cpp", "Q8_0 · llama_cpp"]
    for cell in cells.values():
        assert cell["status"] == "complete"
        assert cell["acceptance"]["verdict"] == "accepted"
        children = {**cell["scenarios"], **cell["tasks"]}
        assert {entry["status"] for entry in children.values()} == {"complete"}
        assert len(children) == 5


def test_output_tokens_equal_the_servers_own_counter(cells: dict[str, dict[str, Any]]) -> None:
    for cell in cells.values():
        for name, entry in cell["scenarios"].items():
            counted, server = entry["counted"]["output_tokens"], entry["server"]["generation_tokens"]
            assert counted == server, f"{cell['label']} {name}"
            assert counted >= 4 * 16


def test_the_recorded_requests_say_the_same_as_the_summary(cells: dict[str, dict[str, Any]]) -> None:
    for cell in cells.values():
        for name, entry in cell["scenarios"].items():
            folder = cell["folder"] / entry["path"]
            requests = pd.read_parquet(folder / "requests.parquet")
            events = pd.read_parquet(folder / "events.parquet")
            assert requests["status"].eq("ok").all(), name
            assert int(requests["output_tokens"].sum()) == entry["counted"]["output_tokens"]
            assert (requests["scheduled_ns"] <= requests["sent_ns"]).all()
            assert (requests["sent_ns"] < requests["first_token_ns"]).all()
            assert (requests["first_token_ns"] <= requests["last_token_ns"]).all()
            assert set(events["request_id"]) == set(requests["request_id"])


def test_q8_0_is_close_to_the_baseline_and_the_baseline_is_itself(cells: dict[str, dict[str, Any]]) -> None:
    itself = summary(cells["F16 · llama_cpp"], "tasks", "divergence")["metrics"]["mean_divergence"]["value"]
    close = summary(cells["Q8_0 · llama_cpp"], "tasks", "divergence")["metrics"]["mean_divergence"]["value"]
    assert itself == pytest.approx(0, abs=1e-9)
    assert 0 < close < 0.02


def test_no_secret_and_no_other_environment_is_recorded(workspace: Workspace, first: Answer) -> None:
    text = "".join(
        path.read_text(errors="replace")
        for path in workspace.folder.rglob("*")
        if path.is_file() and path.suffix in {".json", ".log", ".html", ".md", ".csv"} and "cache" not in path.parts
    )
    assert "LLAMA_API_KEY=" not in text
    assert "Bearer " not in text


def test_the_same_command_again_measures_nothing(workspace: Workspace, cells: dict[str, dict[str, Any]]) -> None:
    before = {path: path.stat().st_mtime_ns for path in workspace.folder.rglob("*.parquet")}
    again = workspace.run("run", *SMALL)
    assert again.returncode == 0, again.stdout + again.stderr
    assert again.stderr.count("already measured, reused") == 10
    assert "is ready after" not in again.stderr, "a fully cached cell starts no server"
    assert {path: path.stat().st_mtime_ns for path in workspace.folder.rglob("*.parquet")} == before


def test_a_changed_scenario_is_measured_and_the_rest_reused(
    workspace: Workspace, cells: dict[str, dict[str, Any]]
) -> None:
    changed = workspace.run("run", *SMALL, "scenarios.c1.requests=5")
    assert changed.returncode == 0, changed.stdout + changed.stderr
    assert changed.stderr.count("already measured, reused") == 8
    folders = list((cells["Q8_0 · llama_cpp"]["folder"] / "scenarios").glob("c1-*"))
    assert len(folders) == 2, "the earlier measurement is kept beside the new one"


def test_quantize_and_evaluate_print_their_figures(workspace: Workspace, first: Answer) -> None:
    made = workspace.run("quantize", "scheme=gguf_q8_0")
    assert made.returncode == 0, made.stderr
    assert made.stdout.splitlines()[1].split()[0] == "Q8_0"
    assert "accepted" in made.stdout
    scored = workspace.run("evaluate", *SMALL, "scheme=gguf_q8_0")
    assert scored.returncode == 0, scored.stderr
    assert "mean_divergence" in scored.stdout


def test_report_again_from_the_recorded_run_at_another_price(workspace: Workspace, first: Answer) -> None:
    made = workspace.run("report", "results/quickstart", "price.per_hour=7", "--out", "elsewhere")
    assert made.returncode == 0, made.stderr
    assert (workspace.folder / "elsewhere" / "report.html").is_file()
