"""A GGUF whose importance matrix was measured on the evaluation text, scored over that text by the real llama.cpp."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.support import CHECKOUT, SMALL, Workspace

pytestmark = pytest.mark.llama_cpp

EVALUATION = CHECKOUT / "bench" / "quality" / "texts" / "default.txt"
ASKED = (
    *(*SMALL, "scheme=gguf_q4_k_m_imatrix", "scheme.calibration.context=128", "scheme.calibration.chunks=3"),
    *("tasks.mmlu.subjects=[physics]", "tasks.mmlu.limit=3"),
)


def evaluated(workspace: Workspace, out: str, *overrides: str) -> dict[str, dict[str, Any]]:
    """Summaries of the tasks by name."""
    answer = workspace.run("evaluate", *ASKED, *overrides, f"out={out}")
    assert answer.returncode == 0, answer.stdout + answer.stderr
    found = (workspace.folder / out).glob("cells/*/tasks/*/summary.json")
    return {path.parent.name.rpartition("-")[0]: json.loads(path.read_text()) for path in found}


def test_overlap_is_found_recorded_flagged_and_reported(make_workspace: Callable[[str], Workspace]) -> None:
    workspace = make_workspace("overlap")
    clean = evaluated(workspace, "clean")
    assert set(clean) == {"perplexity", "divergence", "mmlu"}
    for summary in clean.values():
        assert summary["calibration_overlap"]["share"] == 0.0
        assert summary["calibration_overlap"]["ngrams"] > 50
        assert "calibration_overlap" not in summary["validity"]
    own = evaluated(workspace, "own", f"scheme.calibration.text={EVALUATION}")
    for name in ("perplexity", "divergence"):
        summary = own[name]
        assert summary["calibration_overlap"]["share"] > 0.99
        assert all("calibration_overlap" in metric["validity"] for metric in summary["metrics"].values())
    assert own["mmlu"]["calibration_overlap"]["share"] == 0.0, "the questions are not in the text"
    (cell,) = (workspace.folder / "own").glob("cells/*/cell.json")
    sketch = json.loads(cell.read_text())["variant"]["calibration"]["sketch"]
    assert (sketch["file"], sketch["sampled_every"]) == ("calibration_sketch.npy", 1)
    answer = workspace.run("report", "own", "--out", "report")
    assert answer.returncode == 0, answer.stderr
    page = (workspace.folder / "report" / "report.html").read_text(encoding="utf-8")
    assert "calibration_overlap" in page
    assert "was calibrated on 100 % of this evaluation text" in page or "was calibrated on 99" in page
