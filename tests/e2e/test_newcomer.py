"""A newcomer's path as the README tells it: quickstart, its report, another price, the recommendation, a comparison."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.e2e.conftest import Quickstart
from tests.support import CHECKOUT
from tests.unit.report.page_reader import Page

pytestmark = pytest.mark.llama_cpp


def test_from_the_readme_to_a_decision(quickstart: Quickstart, tmp_path: Path) -> None:
    readme = (CHECKOUT / "README.md").read_text(encoding="utf-8")
    workspace, run = quickstart.workspace, "results/quickstart"
    for command in ("make quickstart", f"quantbench report {run}", f"quantbench recommend {run}", "quantbench compare"):
        assert command in readme, "the README does not tell this step"

    (line,) = [line for line in quickstart.answer.stdout.splitlines() if line.startswith("report: ")]
    page = Page((workspace.folder / line.removeprefix("report: ")).read_text(encoding="utf-8"))
    page.check_scripts()
    headline = next(text for level, text in page.headings if level == 2)
    assert {"plot-tradeoff", "plot-distribution", "plot-time", "plot-requests"} <= {plot["id"] for plot in page.plots}

    dearer = workspace.run("report", run, "price.per_hour=7", "--out", str(tmp_path / "dearer"))
    assert dearer.returncode == 0, dearer.stderr
    again = Page((tmp_path / "dearer" / "report.html").read_text(encoding="utf-8"))
    assert "$7.00 per hour" in again.own_text
    document = json.loads((tmp_path / "dearer" / "report.json").read_text(encoding="utf-8"))
    assert document["answer"]["headline"] == headline, "another price is no other order"

    advised = workspace.run("recommend", run)
    assert advised.returncode == 0, advised.stderr
    assert headline in advised.stdout

    compared = workspace.run("compare", run, run, "--out", str(tmp_path / "compared"))
    assert compared.returncode == 0, compared.stderr
    assert "worse" not in {row.split()[-1] for row in compared.stdout.splitlines() if row.split()}
    assert (tmp_path / "compared" / "compare.html").read_text(encoding="utf-8").startswith("<!doctype html>")
