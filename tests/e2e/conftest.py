"""One quickstart for all end-to-end tests, as it stood when it ended."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support import QUICKSTART, Answer, Workspace


@dataclass(frozen=True)
class Quickstart:
    """An undisturbed run in a workspace of its own: what it answered, the seconds it took, its cells by label."""

    workspace: Workspace
    answer: Answer
    seconds: float
    cells: dict[str, dict[str, Any]]


def read_cells(run: Path) -> dict[str, dict[str, Any]]:
    """The recorded cells of a run by label; `folder` is where each lies."""
    records = [json.loads(path.read_text()) | {"folder": path.parent} for path in run.glob("cells/*/cell.json")]
    by_label = {record["label"]: record for record in records}
    assert len(by_label) == len(records), "a cell is recorded twice"
    return by_label


@pytest.fixture(scope="session")
def quickstart(make_workspace: Callable[[str], Workspace]) -> Quickstart:
    """The quickstart run to its end."""
    workspace = make_workspace("quickstart")
    started = time.monotonic()
    answer = workspace.run("run", *QUICKSTART, timeout_s=1200)
    seconds = time.monotonic() - started
    assert answer.returncode == 0, answer.stdout + answer.stderr
    cells = read_cells(workspace.folder / "results" / "quickstart")
    return Quickstart(workspace=workspace, answer=answer, seconds=seconds, cells=cells)
