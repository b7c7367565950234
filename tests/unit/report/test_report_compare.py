"""The side by side as Markdown, HTML and CSV: the same figures in each, and inert whatever names say."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from bench.analysis.compare import SideBySide, compare
from bench.analysis.config import MarginConfig
from bench.analysis.load import load_results
from bench.report.compare_page import headline, lines_of, points, render_csv, render_html, render_markdown
from tests.unit.report.fake_runs import FakeRun, write_json
from tests.unit.report.page_reader import Page

HOSTILE = "<script>alert(1)</script></style>\"'`|\n\x1b[31m\u202e=cmd()"


def side_of(tmp_path: Path, name: str = "new") -> SideBySide:
    for folder, run_name in (("a", "old"), ("b", name)):
        run = FakeRun(tmp_path / folder, name=run_name)
        cell = run.cell("F16")
        recorded = json.loads((cell / "cell.json").read_text(encoding="utf-8"))
        recorded["engine"]["build"] = run_name
        write_json(cell / "cell.json", recorded)
        run.cell("Q8_0", seed=7 if folder == "a" else 9)
    FakeRun(tmp_path / "c")
    return compare(load_results([tmp_path / "a"]), load_results([tmp_path / "b"]), MarginConfig())


def test_every_form_has_every_figure(tmp_path: Path) -> None:
    side = side_of(tmp_path)
    lines = lines_of(side)
    page, markdown = render_html(side), render_markdown(side)
    rows = list(csv.DictReader(io.StringIO(render_csv(side))))
    assert len(rows) == len(lines) == len(side.changes)
    assert page.count('<th scope="row">') == len(lines)
    assert markdown.count("\n| ") == len(lines) + 2
    for row, change in zip(rows, side.changes, strict=True):
        assert row["verdict"] == change.verdict.value
        assert change.change is not None
        assert float(row["change"]) == change.change.value
    assert headline(side) in page


@pytest.mark.parametrize("render", [render_html, render_markdown, render_csv])
def test_hostile_names_are_inert(tmp_path: Path, render: object) -> None:
    assert callable(render)
    text = render(side_of(tmp_path, HOSTILE))
    assert "\x1b" not in text
    assert "\u202e" not in text
    if render is not render_csv:
        assert "<script" not in text
    if render is render_html:
        assert "http" not in text.replace("http-equiv", "")
        assert Page(text).problems == []
    if render is render_csv:
        assert not any(cell.startswith("=") for row in csv.reader(io.StringIO(text)) for cell in row)


def test_shares_change_by_points() -> None:
    assert points(-0.0213) == "−2.1 points"
    assert points(0.5) == "+50 points"
    assert points(0.0) == "±0 points"
