"""kill -9 of the harness in any stage: nothing of ours is left, and the same command then completes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.support import SMALL, Workspace, command_line

pytestmark = pytest.mark.llama_cpp

ONE_CELL = (
    *(*SMALL, "scheme=gguf_q8_0", "scenarios.c1.requests=12", "tasks.perplexity.windows=1"),
    *("~scenarios.c4", "~scenarios.poisson", "~tasks.divergence", "~tasks.mmlu"),
)
GONE_WITHIN_S = 20.0


def started(workspace: Workspace) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command_line(["run", *ONE_CELL, "--json-lines"]),
        cwd=workspace.folder,
        env={**os.environ, **workspace.env},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def wait_for(process: subprocess.Popen[str], stage: str, contains: str, done: int = 0) -> list[psutil.Process]:
    """Read progress until a stage says something and has done so much; returns every process below the harness then."""
    assert process.stdout is not None
    for line in process.stdout:
        event = json.loads(line)
        if (
            event.get("stage") == stage
            and contains in (event.get("message") or "")
            and (event.get("done") or 0) >= done
        ):
            deadline = time.monotonic() + 10
            while time.monotonic() < deadline:
                below = psutil.Process(process.pid).children(recursive=True)
                if len(below) >= 2:  # a supervisor and its tool
                    return below
                time.sleep(0.005)
    raise AssertionError(f"the run ended before {stage} said {contains!r}")


def assert_gone(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=GONE_WITHIN_S)
    assert not alive, [process.cmdline() for process in alive]


@pytest.fixture
def workspace(make_workspace: Callable[[str], Workspace]) -> Workspace:
    return make_workspace("kill")


STAGES = (
    ("quantize", "quantizing", 0),
    ("accept", "accepting", 0),
    ("serve", "is ready", 0),
    ("load", "in flight", 3),
    ("evaluate perplexity", "scoring", 0),
)


def test_nothing_is_left_after_kill_9_in_any_stage_and_the_same_command_completes(workspace: Workspace) -> None:
    """The same command again and again, killed one stage later each time: what was done before is not done again."""
    for stage, contains, done in STAGES:
        with started(workspace) as process:
            below = wait_for(process, stage, contains, done)
            os.kill(process.pid, signal.SIGKILL)
        assert_gone(below)
        artefacts = (workspace.cache / "artefacts").glob("*/model.gguf")
        assert not [path for path in artefacts if not _finished(path.parent)], stage

    resumed = workspace.run("run", *ONE_CELL)
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    records = [json.loads(path.read_text()) for path in workspace.folder.glob("results/*/cells/*/cell.json")]
    assert [record["status"] for record in records] == ["complete"]
    children = [entry for record in records for kind in ("scenarios", "tasks") for entry in record[kind].values()]
    assert [entry["status"] for entry in children] == ["complete"] * 2
    kept = list(workspace.folder.glob("results/*/cells/*/scenarios/*.partial-*/manifest.json"))
    assert kept, "what a killed run had measured is kept"
    assert {json.loads(path.read_text())["status"] for path in kept} == {"partial"}
    assert all((path.parent / "requests.parquet").is_file() for path in kept)


def test_ctrl_c_keeps_what_was_measured_and_exits_130(workspace: Workspace) -> None:
    with started(workspace) as process:
        below = wait_for(process, "load", "in flight", 3)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=90) == 130
    assert_gone(below)
    (run,) = workspace.folder.glob("results/*/run.json")
    assert json.loads(run.read_text())["status"] == "interrupted"
    (cell,) = workspace.folder.glob("results/*/cells/*/cell.json")
    record = json.loads(cell.read_text())
    assert record["status"] == "interrupted"
    partial = [entry for entry in record["scenarios"].values() if entry["status"] == "partial"]
    assert len(partial) == 1
    kept = cell.parent / partial[0]["path"]
    assert json.loads((kept / "manifest.json").read_text())["status"] == "partial"
    assert (kept / "requests.parquet").is_file()

    plan = json.loads(run.with_name("plan.json").read_text())
    assert [(entry["key"], entry["status"]) for entry in plan["cells"]] == [(record["key"], "interrupted")]
    shown = workspace.run("report", str(run.parent))
    assert shown.returncode == 0, shown.stderr

    resumed = workspace.run("run", *ONE_CELL)
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert list(kept.parent.glob("*.partial-1/requests.parquet")), "the interrupted scenario is kept beside the rerun"


def _finished(artefact: Path) -> bool:
    return (artefact / "manifest.json").is_file()
