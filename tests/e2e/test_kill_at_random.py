"""kill -9 at random moments of the quickstart, each followed by the same command: as if nothing had happened."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from bench.base.files import read_json
from bench.base.process import wait_until
from tests.e2e.conftest import Quickstart, read_cells
from tests.support import QUICKSTART, WHOLE, Workspace, command_line, started_from

pytestmark = pytest.mark.llama_cpp

#: Ten over the whole quickstart; of the short one, as many as CI has time for.
KILLS = 10 if WHOLE else 3
SEED = 20261125
GONE_WITHIN_S = 20.0


def what_was_measured(cells: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What of a run must not depend on how often it was killed: its cells, their children, every quality figure."""
    found: dict[str, Any] = {}
    for label, cell in cells.items():
        children = {}
        for kind in ("scenarios", "tasks"):
            for name, entry in cell[kind].items():
                summary = read_json(cell["folder"] / entry["path"] / "summary.json")
                figures = {tag: metric["value"] for tag, metric in summary["metrics"].items() if kind == "tasks"}
                children[name] = (entry["key"], entry["path"], entry["status"], figures)
        found[label] = (cell["key"], cell["status"], cell["variant"]["key"], cell["acceptance"]["verdict"], children)
    return found


def killed_after(workspace: Workspace, delay_s: float) -> bool:
    """Run the command, kill it after a while; False when it had ended by then. Nothing may be left running."""
    process = subprocess.Popen(
        command_line(["run", *QUICKSTART, "--quiet"]),
        cwd=workspace.folder,
        env={**os.environ, **workspace.env},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        process.wait(delay_s)
    except subprocess.TimeoutExpired:
        below = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGKILL)
        process.wait()
        _, alive = psutil.wait_procs(below, timeout=GONE_WITHIN_S)
        assert not alive, [orphan.cmdline() for orphan in alive]
        assert wait_until(lambda: not started_from(workspace), timeout_s=GONE_WITHIN_S), started_from(workspace)
        return True
    assert process.returncode == 0
    return False


def test_kills_at_random_moments_change_nothing(
    quickstart: Quickstart, make_workspace: Callable[[str], Workspace]
) -> None:
    workspace = make_workspace("killed")
    run = workspace.folder / "results" / "quickstart"
    moments = random.Random(SEED)
    kills, began = 0, time.monotonic()
    while kills < KILLS:
        if killed_after(workspace, moments.uniform(0.2, 2 * quickstart.seconds / KILLS)):
            kills += 1
        else:
            shutil.rmtree(run)
    answer = workspace.run("run", *QUICKSTART, timeout_s=1200)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    print(f"{kills} kills in {time.monotonic() - began:.0f} s; undisturbed {quickstart.seconds:.0f} s")
    assert what_was_measured(read_cells(run)) == what_was_measured(quickstart.cells)
    assert_nothing_twice(run)


def assert_nothing_twice(run: Path) -> None:
    """Beside the partial results of killed scenarios, each cell has one folder for each of its children."""
    for cell in read_cells(run).values():
        for kind in ("scenarios", "tasks"):
            whole = sorted(path.name for path in (cell["folder"] / kind).iterdir() if ".partial-" not in path.name)
            assert whole == sorted(Path(entry["path"]).name for entry in cell[kind].values())
