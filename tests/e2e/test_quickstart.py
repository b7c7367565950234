"""The main path on real parts: one command, then the same command again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.e2e.conftest import Quickstart
from tests.support import ONE_LOAD, QUICKSTART, Workspace

pytestmark = pytest.mark.llama_cpp

VARIANTS = ("F16", "Q8_0", "Q4_K_M", "Q4_0")
CHILDREN = ("c1", "c4", "poisson", "divergence", "perplexity", "mmlu")


@pytest.fixture
def workspace(quickstart: Quickstart) -> Workspace:
    return quickstart.workspace


@pytest.fixture
def cells(quickstart: Quickstart) -> dict[str, dict[str, Any]]:
    return quickstart.cells


def summary(cell: dict[str, Any], kind: str, name: str) -> dict[str, Any]:
    folder: Path = cell["folder"]
    value: dict[str, Any] = json.loads((folder / cell[kind][name]["path"] / "summary.json").read_text())
    return value


def test_it_prints_the_path_of_a_report(quickstart: Quickstart, workspace: Workspace) -> None:
    (line,) = [line for line in quickstart.answer.stdout.splitlines() if line.startswith("report: ")]
    assert (workspace.folder / line.removeprefix("report: ")).read_text().startswith("<!doctype html>")


def test_every_cell_scenario_and_task_is_complete(cells: dict[str, dict[str, Any]]) -> None:
    assert set(cells) == {f"{variant} · llama_cpp" for variant in VARIANTS}
    for cell in cells.values():
        assert cell["status"] == "complete"
        assert cell["acceptance"]["verdict"] == "accepted"
        children = {**cell["scenarios"], **cell["tasks"]}
        assert {entry["status"] for entry in children.values()} == {"complete"}
        assert tuple(children) == CHILDREN


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


def test_variants_diverge_from_the_baseline_in_the_order_of_their_bits(cells: dict[str, dict[str, Any]]) -> None:
    divergence = [
        summary(cells[f"{variant} · llama_cpp"], "tasks", "divergence")["metrics"]["mean_divergence"]["value"]
        for variant in VARIANTS
    ]
    assert divergence[0] == pytest.approx(0, abs=1e-9), "the baseline is itself"
    assert divergence == sorted(divergence)
    assert divergence[1] < 0.02


def test_types_that_llama_cpp_fell_back_from_are_warned_of(cells: dict[str, dict[str, Any]]) -> None:
    mixed = cells["Q4_K_M · llama_cpp"]["variant"]
    assert mixed["effective_bits_per_weight"] > 6, "a width of 576 does not divide by 256: Q4_K is not what it is"
    assert any("fell back" in warning for warning in mixed["warnings"]), mixed["warnings"]
    types = {row["type"] for row in mixed["tensor_types"]}
    assert len(types) > 2
    assert cells["Q8_0 · llama_cpp"]["variant"]["warnings"] == []


@pytest.mark.parametrize("cached", [False, True])
def test_the_chat_route_of_the_real_server(workspace: Workspace, cached: bool) -> None:
    """The chat template is the same in every prompt: answered from the server's cache it flatters TTFT."""
    chat = (
        *("+workload@workloads.chat=synthetic", "workloads.chat.api=chat", "workloads.chat.output_tokens=16"),
        *(f"+workloads.chat.extra.cache_prompt={cached}", "scenarios.c1.workload=chat", f"out=chat-{cached}"),
    )
    answer = workspace.run("run", *ONE_LOAD, *chat)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    (path,) = workspace.folder.glob(f"chat-{cached}/cells/*/cell.json")
    entry = json.loads(path.read_text())["scenarios"]["c1"]
    assert entry["counted"]["output_tokens"] == entry["server"]["generation_tokens"] == (4 + 2) * 16
    assert (entry["cached_share"] > 0.1) is cached, entry
    assert ("prefix_cached" in entry["spoiled"]) is cached


def test_no_secret_and_no_other_environment_is_recorded(workspace: Workspace) -> None:
    text = "".join(
        path.read_text(errors="replace")
        for path in workspace.folder.rglob("*")
        if path.is_file() and path.suffix in {".json", ".log", ".html", ".md", ".csv"} and "cache" not in path.parts
    )
    assert "LLAMA_API_KEY=" not in text
    assert "Bearer " not in text


def test_the_same_command_again_measures_nothing(workspace: Workspace, cells: dict[str, dict[str, Any]]) -> None:
    before = {path: path.stat().st_mtime_ns for path in (workspace.folder / "results").rglob("*.parquet")}
    again = workspace.run("run", *QUICKSTART)
    assert again.returncode == 0, again.stdout + again.stderr
    assert again.stderr.count("already measured, reused") == 24
    assert "is ready after" not in again.stderr, "a fully cached cell starts no server"
    assert {path: path.stat().st_mtime_ns for path in (workspace.folder / "results").rglob("*.parquet")} == before


def test_a_changed_scenario_is_measured_and_the_rest_reused(
    workspace: Workspace, cells: dict[str, dict[str, Any]]
) -> None:
    changed = workspace.run("run", *QUICKSTART, "scenarios.c1.requests=5")
    assert changed.returncode == 0, changed.stdout + changed.stderr
    assert changed.stderr.count("already measured, reused") == 20
    folders = list((cells["Q8_0 · llama_cpp"]["folder"] / "scenarios").glob("c1-*"))
    assert len(folders) == 2, "the earlier measurement is kept beside the new one"


def test_quantize_and_evaluate_print_their_figures(workspace: Workspace) -> None:
    made = workspace.run("quantize", "scheme=gguf_q8_0")
    assert made.returncode == 0, made.stderr
    assert made.stdout.splitlines()[1].split()[0] == "Q8_0"
    assert "accepted" in made.stdout
    scored = workspace.run("evaluate", *QUICKSTART, "scheme=gguf_q8_0")
    assert scored.returncode == 0, scored.stderr
    assert "mean_divergence" in scored.stdout


def test_report_again_from_the_recorded_run_at_another_price(workspace: Workspace) -> None:
    made = workspace.run("report", "results/quickstart", "price.per_hour=7", "--out", "elsewhere")
    assert made.returncode == 0, made.stderr
    assert (workspace.folder / "elsewhere" / "report.html").is_file()
