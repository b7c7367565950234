"""A server that runs already, measured from the command line: figures and a report, nothing claimed of its weights."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.base.progress import Progress
from bench.engines.base import ServedModel, engine_of
from bench.engines.launch import Endpoint, launched
from bench.engines.llama_cpp import LlamaCppConfig
from quantize.schemes.gguf import GgufType
from tests.integration.quantize.real_llama_cpp import artefact, toolchain
from tests.support import Answer, Workspace, command_line

pytestmark = pytest.mark.llama_cpp

#: The default experiment, shorter: two loads and two tasks.
ASKED = (
    *("scheme=as_served", "model=local", "model.path=nowhere", "model.name=their-model"),
    *("scenarios.c1.requests=4", "scenarios.c4.requests=8"),
    *("workloads.default.input_tokens=16", "workloads.default.output_tokens=8"),
)


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    config = LlamaCppConfig(max_model_len=512, max_sequences=4, threads=1)
    model = ServedModel(format="gguf", path=artefact(GgufType.Q8_0).model_path, name="their-alias")
    log = tmp_path_factory.mktemp("attach") / "engine.log"
    with launched(engine_of(config), config, model, toolchain=toolchain(), log=log, progress=Progress()) as started:
        yield started


@pytest.fixture(scope="module")
def workspace(make_workspace: Callable[[str], Workspace]) -> Workspace:
    return make_workspace("attach")


def run(workspace: Workspace, endpoint: Endpoint, *words: str) -> Answer:
    attach = (f"engine.base_url={endpoint.url}/v1", "engine.api_key_env=THEIR_KEY")
    return subprocess.run(
        command_line(["run", *words, *attach]),
        cwd=workspace.folder,
        env={**os.environ, **workspace.env, "THEIR_KEY": endpoint.api_key},
        capture_output=True,
        text=True,
        check=False,
    )


def cells(out: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in out.glob("cells/*/cell.json")]


def test_load_is_measured_and_what_needs_weights_says_why_not(workspace: Workspace, endpoint: Endpoint) -> None:
    answer = run(workspace, endpoint, *ASKED, "engine=openai", "out=plain")
    assert answer.returncode == 0, answer.stdout + answer.stderr
    (cell,) = cells(workspace.folder / "plain")
    assert (cell["label"], cell["status"]) == ("as served · openai", "complete")
    assert cell["acceptance"]["verdict"] == "skipped"
    assert {entry["status"] for entry in cell["scenarios"].values()} == {"complete"}
    assert {entry["status"] for entry in cell["tasks"].values()} == {"unsupported"}
    assert "the weights are with the server" in cell["tasks"]["perplexity"]["failure"]["message"]
    assert (cell["engine"]["mode"], cell["engine"]["command"], cell["engine"]["ready_s"]) == ("attached", [], None)
    assert cell["variant"]["model"]["name"] == "their-model"
    assert cell["variant"]["size_bytes"] is None
    (report,) = workspace.folder.glob("reports/*/report.html")
    assert "as served" in report.read_text()
    files = [path for path in workspace.folder.rglob("*") if path.is_file()]
    assert not [path for path in files if endpoint.api_key.encode() in path.read_bytes()]

    again = run(workspace, endpoint, *ASKED, "engine=openai", "out=plain")
    assert again.returncode == 0, again.stderr
    assert "already measured" not in again.stderr
    assert len(cells(workspace.folder / "plain")) == 2, "no measurement of it is taken for another"
    status = workspace.run("status", "plain", "--json-lines")
    assert json.loads(status.stdout.splitlines()[-1])["reused"] == 0


def test_of_a_server_whose_make_is_known_the_counters_are_read(workspace: Workspace, endpoint: Endpoint) -> None:
    answer = run(workspace, endpoint, *ASKED, "engine=llama_cpp", "out=known")
    assert answer.returncode == 0, answer.stdout + answer.stderr
    (cell,) = cells(workspace.folder / "known")
    entry = cell["scenarios"]["c1"]
    assert entry["server"]["generation_tokens"] == entry["counted"]["output_tokens"]
    assert "token_mismatch" not in entry["validity"]


def test_a_server_that_is_not_there_is_one_line_and_exit_code_2(workspace: Workspace) -> None:
    answer = workspace.run(
        "run", "engine=openai", "scheme=as_served", "engine.base_url=http://127.0.0.1:1/v1", "out=nobody"
    )
    assert answer.returncode == 2, answer.stdout
    assert "Traceback" not in answer.stderr
    line = answer.stderr.splitlines()[-1]
    assert line.startswith("quantbench: engine.base_url http://127.0.0.1:1/v1: ")
