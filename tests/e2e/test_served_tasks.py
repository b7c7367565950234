"""Tasks that ask the measured server, from the command line: paired with the baseline, resumed, and asked once."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from bench.base.progress import Progress
from bench.engines.base import ServedModel, engine_of
from bench.engines.launch import launched
from bench.engines.llama_cpp import LlamaCppConfig
from quantize.schemes.gguf import GgufType
from tests.integration.quantize.real_llama_cpp import artefact, toolchain
from tests.support import Answer, Workspace, command_line

pytestmark = pytest.mark.llama_cpp

CAPITALS = {"France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Japan": "Tokyo", "Peru": "Lima", "Egypt": "Cairo"}
ASKED = (
    *("experiment=quickstart", "~scenarios.c1", "~scenarios.c4", "~scenarios.poisson"),
    *("~tasks.perplexity", "~tasks.divergence", "~tasks.mmlu", "out=out"),
    *("+task@tasks.capitals=exact_match", "tasks.capitals.data=capitals.jsonl", "tasks.capitals.api=completions"),
    *("tasks.capitals.max_tokens=12", r"tasks.capitals.pattern='\b([A-Z]\w+)'", "tasks.capitals.last=false"),
    *("+task@tasks.code=humaneval", "tasks.code.data=nowhere.jsonl"),
)


@pytest.fixture(scope="module")
def workspace(make_workspace: Callable[[str], Workspace]) -> Workspace:
    made = make_workspace("served-tasks")
    rows = [{"prompt": f"The capital of {c} is", "answer": n} for c, n in CAPITALS.items()]
    (made.folder / "capitals.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return made


@pytest.fixture(scope="module")
def first(workspace: Workspace) -> Answer:
    answer = workspace.run("run", *ASKED, "scheme=gguf_q4_0")
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return answer


def cell(workspace: Workspace, label: str) -> tuple[Path, dict[str, Any]]:
    found = [(path.parent, json.loads(path.read_text())) for path in workspace.folder.glob("out/cells/*/cell.json")]
    (one,) = [entry for entry in found if entry[1]["label"].startswith(label)]
    return one


def test_variant_and_baseline_answer_the_same_questions(workspace: Workspace, first: Answer) -> None:
    folder, record = cell(workspace, "Q4_0")
    task = folder / record["tasks"]["capitals"]["path"]
    summary = json.loads((task / "summary.json").read_text())
    items = pq.read_table(task / "items.parquet").to_pydict()
    assert len(items["correct"]) == len(CAPITALS)
    assert summary["metrics"]["base_exact_match"]["value"] == sum(items["base_correct"]) / len(CAPITALS)
    assert sum(items["base_correct"]) > 0
    assert summary["scored_by"]["path"] == "what_serves"
    assert summary["baseline"]["label"] == "F16"
    assert items["output"] != items["base_output"]
    assert sorted(path.name for path in (folder / "logs").iterdir()) == ["engine-baseline.log", "engine.log"]


def test_code_that_nobody_asked_to_run_is_not_generated(workspace: Workspace, first: Answer) -> None:
    _, record = cell(workspace, "Q4_0")
    assert record["tasks"]["code"]["status"] == "unsupported"
    assert "off unless you ask for that" in record["tasks"]["code"]["failure"]["message"]


def test_a_lost_result_is_graded_again_without_a_server(workspace: Workspace, first: Answer) -> None:
    folder, record = cell(workspace, "Q4_0")
    task = folder / record["tasks"]["capitals"]["path"]
    before = json.loads((task / "summary.json").read_text())
    shutil.rmtree(task)
    again = workspace.run("run", *ASKED, "scheme=gguf_q4_0")
    assert again.returncode == 0, again.stderr
    assert json.loads((task / "summary.json").read_text())["metrics"] == before["metrics"]
    assert not (folder / "logs" / "engine-2.log").exists()


def test_the_baselines_own_cell_has_answered_already(workspace: Workspace, first: Answer) -> None:
    answer = workspace.run("run", *ASKED, "scheme=gguf_f16")
    assert answer.returncode == 0, answer.stdout + answer.stderr
    folder, record = cell(workspace, "F16")
    summary = json.loads((folder / record["tasks"]["capitals"]["path"] / "summary.json").read_text())
    assert summary["metrics"]["exact_match_change"]["value"] == 0
    assert summary["metrics"]["exact_match"]["value"] == summary["metrics"]["base_exact_match"]["value"]
    assert not (folder / "logs" / "engine.log").exists()


def test_a_server_that_runs_already_is_asked_without_a_baseline(workspace: Workspace, tmp_path: Path) -> None:
    config = LlamaCppConfig(max_model_len=512, max_sequences=2, threads=1)
    model = ServedModel(format="gguf", path=artefact(GgufType.Q8_0).model_path, name="theirs")
    with launched(
        engine_of(config), config, model, toolchain=toolchain(), log=tmp_path / "log", progress=Progress()
    ) as endpoint:
        words = ("scheme=as_served", "model=local", "model.path=nowhere", "model.name=theirs", "engine=openai")
        attach = (f"engine.base_url={endpoint.url}/v1", "engine.api_key_env=THEIR_KEY", "out=attached")
        asked = [word for word in ASKED if word != "out=out"]
        answer = subprocess.run(
            command_line(["run", *asked, *words, *attach]),
            cwd=workspace.folder,
            env={**os.environ, **workspace.env, "THEIR_KEY": endpoint.api_key},
            capture_output=True,
            text=True,
            check=False,
        )
        assert answer.returncode == 0, answer.stdout + answer.stderr
    (path,) = workspace.folder.glob("attached/cells/*/cell.json")
    entry = json.loads(path.read_text())["tasks"]["capitals"]
    summary = json.loads((path.parent / entry["path"] / "summary.json").read_text())
    assert summary["metrics"]["exact_match"]["n"] == len(CAPITALS)
    assert summary["metrics"]["exact_match_change"]["validity"] == ["no_baseline"]
    files = [found for found in workspace.folder.rglob("*") if found.is_file()]
    assert not [found for found in files if endpoint.api_key.encode() in found.read_bytes()]
