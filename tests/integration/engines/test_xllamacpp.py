"""The portable wheel serves for real, and the report's raw material says that another build scored."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.support import SMALL, Workspace

pytestmark = pytest.mark.toolchains


def test_a_variant_is_served_by_the_wheel_and_scored_by_the_native_build(
    make_workspace: Callable[[str], Workspace],
) -> None:
    workspace = make_workspace("xllamacpp")
    answer = workspace.run("run", *SMALL, "scheme=gguf_q8_0", "engine=xllamacpp", "engine.threads=1")
    assert answer.returncode == 0, answer.stdout + answer.stderr
    (path,) = workspace.folder.glob("results/quickstart/cells/*/cell.json")
    cell = json.loads(path.read_text())
    assert cell["engine"]["toolchain"]["name"] == "xllamacpp"
    for name, entry in cell["scenarios"].items():
        assert entry["counted"]["output_tokens"] == entry["server"]["generation_tokens"], name
    for entry in cell["tasks"].values():
        summary = json.loads((path.parent / entry["path"] / "summary.json").read_text())
        assert summary["scored_by"]["build"].startswith("llama_cpp@")
        assert all("scoring_build_differs" in metric["validity"] for metric in summary["metrics"].values())
