"""Adding an engine: one module, one YAML, and this test. Nothing of the harness names it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import CHECKOUT, SMALL, Workspace, quantbench

PLUGINS = CHECKOUT / "tests" / "plugins"
EXTENDED = ["--plugin", "imaginary_engine", "--config-dir", str(PLUGINS / "conf")]


def test_an_engine_from_outside_is_planned_and_shown_like_any_other(tmp_path: Path) -> None:
    env = {"PYTHONPATH": str(PLUGINS)}
    planned = quantbench("run", "engine=imaginary", "--dry-run", *EXTENDED, cwd=tmp_path, env=env)
    assert planned.returncode == 0, planned.stderr
    assert "Q8_0 · imaginary" in planned.stdout
    printed = quantbench(
        "serve", "engine=imaginary", "engine.behaviour=slow", "--print", *EXTENDED, cwd=tmp_path, env=env
    )
    assert printed.stdout.startswith("IMAGINARY_KEY=$API_KEY ")
    assert printed.stdout.strip().endswith("slow")
    unknown = quantbench("run", "engine=imaginary", "--dry-run", cwd=tmp_path)
    assert unknown.returncode == 2


def test_an_engine_from_outside_answers_for_itself(tmp_path: Path) -> None:
    shown = quantbench(
        "engines", "imaginary", "--json-lines", *EXTENDED, cwd=tmp_path, env={"PYTHONPATH": str(PLUGINS)}
    )
    assert shown.returncode == 0, shown.stderr
    records = [json.loads(line) for line in shown.stdout.splitlines()]
    told = {record["format"]: record["answer"] for record in records if record["event"] == "support"}
    assert (told["gguf"], told["load_fp8"]) == ("yes", "no")


@pytest.mark.llama_cpp
def test_an_engine_from_outside_goes_through_every_stage(
    make_workspace: Callable[[str], Workspace], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(PLUGINS))
    workspace = make_workspace("imaginary")
    cut = ("~tasks.divergence", "~tasks.mmlu", "scheme=gguf_q8_0", "engine=imaginary", "tasks.perplexity.windows=1")
    small = [override for override in SMALL if "divergence" not in override and "mmlu" not in override]
    # The quickstart names llama.cpp's own engine and threads; what an imaginary one lacks is not asked of it.
    answer = workspace.run("run", *small, *cut, *EXTENDED)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    (path,) = workspace.folder.glob("results/quickstart/cells/*/cell.json")
    cell = json.loads(path.read_text())
    assert cell["status"] == "complete"
    for entry in cell["scenarios"].values():
        assert entry["counted"]["output_tokens"] == entry["server"]["generation_tokens"]
