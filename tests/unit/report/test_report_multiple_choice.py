"""Multiple choice in the report: accuracy with its interval, changed answers, the label that goes with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.analysis.config import PriceConfig, ReportConfig
from bench.report.build import build_report
from tests.unit.report.fake_runs import FakeRun, write_json
from tests.unit.report.page_reader import Page
from tests.unit.report.test_report_page import check_numbers, rows

CONFIG = ReportConfig(price=PriceConfig(name="a machine", per_hour=0.1, date="2026-11-01", source="an invoice"))
NOTE = "plumbing only: 60 shipped questions tell an accuracy to about ±12 points"


def metric(unit: str, value: float, lo: float | None = None, hi: float | None = None) -> dict[str, Any]:
    return {"unit": unit, "value": value, "lo": lo, "hi": hi, "n": 60, "validity": []}


def add_task(cell: Path, hits: int, gained: int, lost: int) -> None:
    """A multiple choice task in a recorded cell."""
    relative = "tasks/mmlu-00ff00ff"
    metrics = {
        "accuracy_micro": metric("ratio", hits / 60, hits / 60 - 0.1, hits / 60 + 0.1),
        "accuracy_macro": metric("ratio", hits / 60, hits / 60 - 0.1, hits / 60 + 0.1),
        "accuracy_change": metric("ratio", (gained - lost) / 60, -0.1, 0.1),
        "wrong_to_right": metric("questions", gained),
        "right_to_wrong": metric("questions", lost),
        "mcnemar_p": metric("1", 0.21875),
    }
    summary = {"schema_version": 1, "metrics": metrics, "errors": {}, "validity": [], "notes": [NOTE]}
    write_json(cell / relative / "summary.json", {**summary, "protocol": {"questions": 60}})
    recorded = json.loads((cell / "cell.json").read_text(encoding="utf-8"))
    recorded["tasks"]["mmlu"] = {"key": "00ff00ff", "path": relative, "status": "complete", "failure": None}
    write_json(cell / "cell.json", recorded)


@pytest.fixture
def report(tmp_path: Path) -> Path:
    run = FakeRun(tmp_path / "run")
    add_task(run.cell("F16"), 31, 0, 0)
    add_task(run.cell("Q8_0"), 27, 1, 5)
    run.cell("Q4_0")
    return build_report([run.directory], tmp_path / "report", CONFIG).parent


def test_the_page_shows_accuracy_with_interval_and_label(report: Path) -> None:
    page = Page((report / "report.html").read_text(encoding="utf-8"))
    assert page.problems == []
    assert (3, "Multiple choice") in page.headings
    assert f"mmlu: {NOTE}" in page.text
    check_numbers(page, rows(report))
    shown = {number.metric: number.text for number in page.numbers if number.source == "mmlu"}
    assert shown["accuracy_micro"] in {"0.517", "0.450"}
    assert {"wrong_to_right", "right_to_wrong", "mcnemar_p", "accuracy_change", "accuracy_macro"} <= set(shown)
    (table,) = [table for table in page.tables if table[0][1] == "Task"]
    by_variant = {row[0].split("baseline")[0].split("the answer")[0]: row for row in table[2:]}
    assert set(by_variant) == {"F16", "Q8_0"}, "Q4_0 was not asked"
    assert "0.4500.350 to 0.550" in by_variant["Q8_0"]
    assert by_variant["Q8_0"][5:] == ["1", "5", "0.219", "60"]


def test_the_summaries_have_it_too(report: Path) -> None:
    text = (report / "summary.md").read_text(encoding="utf-8")
    assert "Accuracy in mmlu" in text
    assert "plumbing only" in text
    lines = [line.split("|") for line in text.splitlines() if line.startswith("|")]
    assert {len(line) for line in lines} == {len(lines[0])}
    by_variant = {line[1].strip(): line[-2].strip() for line in lines[2:]}
    assert by_variant["F16"] == "0.517 (0.417 to 0.617)"
    assert by_variant["Q4\\_0"] == "—"
    table = {(row["variant"], row["metric"]): row for row in rows(report)}
    assert float(table["F16", "accuracy_micro"]["value"]) == pytest.approx(31 / 60)
    assert table["Q8_0", "right_to_wrong"]["value"] == "5.0"


def test_a_report_without_the_task_does_not_speak_of_it(tmp_path: Path) -> None:
    run = FakeRun(tmp_path / "run")
    run.cell("F16")
    run.cell("Q8_0")
    folder = build_report([run.directory], tmp_path / "report", CONFIG).parent
    page = Page((folder / "report.html").read_text(encoding="utf-8"))
    assert (3, "Multiple choice") not in page.headings
    assert "Accuracy" not in (folder / "summary.md").read_text(encoding="utf-8")
