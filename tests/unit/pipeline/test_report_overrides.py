"""Prices are read by the report only: they never enter a cell."""

from __future__ import annotations

from bench.pipeline.report import report_overrides


def test_a_runs_overrides_are_split() -> None:
    for_report, for_cells = report_overrides(
        ["price=lambda_a10", "scheme=gguf_f16", "report.load=c4", "price.per_hour=2", "engine.threads=1"]
    )
    assert for_report == ["price=lambda_a10", "load=c4", "price.per_hour=2"]
    assert for_cells == ["scheme=gguf_f16", "engine.threads=1"]
