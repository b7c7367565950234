"""A variant that was calibrated on the evaluation text: shown with the reason, told in words, never ranked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.analysis.candidates import analyse
from bench.analysis.config import PriceConfig, ReportConfig
from bench.analysis.load import load_results
from bench.analysis.recommend import recommend
from bench.base.validity import Reason
from bench.report.build import build_report
from tests.unit.report.fake_runs import FakeRun, edit_summary
from tests.unit.report.page_reader import Page

CONFIG = ReportConfig(price=PriceConfig(name="a machine", per_hour=0.1, date="2026-11-01", source="an invoice"))
NOTE = "calibration overlap: Q8_0 was calibrated on 37 % of this evaluation text"


def flag(summary: dict[str, Any]) -> None:
    for metric in summary["metrics"].values():
        metric["validity"] = [Reason.CALIBRATION_OVERLAP.value]
    summary["validity"] = [Reason.CALIBRATION_OVERLAP.value]
    summary["calibration_overlap"] = {"share": 0.37, "ngrams": 900, "sampled_every": 1}
    summary["notes"] = [NOTE]


def flagged_run(directory: Path) -> Path:
    run = FakeRun(directory)
    for variant in ("F16", "Q8_0", "Q4_K_M", "Q4_0"):
        cell = run.cell(variant)
        if variant == "Q8_0":
            edit_summary(cell, "divergence", flag)
    return directory


def test_it_is_not_ranked(tmp_path: Path) -> None:
    analysis = analyse(load_results([flagged_run(tmp_path / "run")]), CONFIG)
    (flagged,) = (c for c in analysis.candidates if c.cell.variant_label == "Q8_0")
    assert flagged.loss.perplexity_change.validity == ("calibration_overlap",)
    assert not flagged.loss.perplexity_change.usable
    assert flagged.quality.reason == "the figure is not valid"
    assert (flagged.on_frontier, flagged.dominated_by) == (False, None)
    answer = recommend(analysis)
    assert answer.choice is not None
    assert answer.choice.cell.variant_label == "F16", "without the flag it is Q8_0"


def test_the_page_names_the_reason_what_to_do_and_how_much(tmp_path: Path) -> None:
    path = build_report([flagged_run(tmp_path / "run")], tmp_path / "report", CONFIG)
    page = Page(path.read_text(encoding="utf-8"))
    assert page.problems == []
    assert f"divergence: {NOTE}" in page.text
    assert Reason.CALIBRATION_OVERLAP.advice in page.text
    assert "calibration_overlap" in page.text
    assert "37" in (path.parent / "summary.md").read_text(encoding="utf-8")
    assert "calibration_overlap" in (path.parent / "summary.csv").read_text(encoding="utf-8")
