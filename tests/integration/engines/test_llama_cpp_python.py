"""llama-cpp-python's own server serves for real, on the native build that scored."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.support import SMALL, Workspace

pytestmark = pytest.mark.toolchains


def test_a_variant_is_served_by_the_python_server_and_scored_by_the_build_under_it(
    make_workspace: Callable[[str], Workspace],
) -> None:
    workspace = make_workspace("llama_cpp_python")
    chat = (
        *("+workload@workloads.chat=synthetic", "workloads.chat.api=chat", "workloads.chat.output_tokens=16"),
        *("scenarios.poisson.workload=chat", "scenarios.c4.requests=8"),
    )
    settings = ("scheme=gguf_q8_0", "engine=llama_cpp_python", "engine.threads=1")
    answer = workspace.run("run", *SMALL, *chat, *settings)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    (path,) = workspace.folder.glob("results/quickstart/cells/*/cell.json")
    cell = json.loads(path.read_text())
    assert cell["engine"]["toolchain"]["name"] == "llama_cpp_python"
    for name, entry in cell["scenarios"].items():
        summary = json.loads((path.parent / entry["path"] / "summary.json").read_text())
        assert summary["errors"] == {}, name
        assert "no_usage" in summary["metrics"]["output_throughput"]["validity"], "its streams carry no usage"
        assert summary["metrics"]["ttft"]["p50"] > 0
        assert entry["server"] == {"prompt_tokens": None, "generation_tokens": None}
    for entry in cell["tasks"].values():
        summary = json.loads((path.parent / entry["path"] / "summary.json").read_text())
        assert summary["scored_by"]["build"].startswith("llama_cpp@")
        assert all("scoring_build_differs" not in metric["validity"] for metric in summary["metrics"].values())
