"""The servers' own figures in the report, the Markdown and the tidy table; and a report without any."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.unit.analysis.test_analysis_server import entry
from tests.unit.report.fake_runs import quickstart, write_json
from tests.unit.report.test_report_page import build, check_numbers, rows


def told(directory: Path, **more: Any) -> Path:
    """A run whose servers told of themselves."""
    for path in quickstart(directory).glob("cells/*/cell.json"):
        record = json.loads(path.read_text(encoding="utf-8"))
        for name in record["scenarios"]:
            record["scenarios"][name] |= {**entry(200.0, 150.0, queue=100.0), **more}
        record["engine"] |= {"weights_bytes": 143_000_000, "kv_cache_bytes": 188_743_680}
        write_json(path, record)
    return directory


def test_both_means_stand_side_by_side_with_what_lies_between(tmp_path: Path) -> None:
    page = build(told(tmp_path / "run"))
    assert (3, "What the servers measured themselves") in page.headings
    text = (tmp_path / "report/report.html").read_text(encoding="utf-8")
    assert "50.0 ms outside what the server times" in text
    assert "queue 100 ms" in text
    assert "189 MB" in text, "the KV cache is among the facts of a cell"
    table = rows(tmp_path / "report")
    assert check_numbers(page, table) > 100
    server = [row for row in table if row["kind"] == "server" and row["metric"] == "server_ttft"]
    assert len(server) == 8
    assert {(row["mean"], row["p50"], row["lo"], row["hi"], row["unit"]) for row in server} == {
        ("150.0", "135.0", "100.0", "250.0", "ms")
    }
    memory = {row["metric"]: row["value"] for row in table if row["kind"] == "engine"}
    assert float(memory["kv_cache_bytes"]) == 188_743_680
    assert set(memory) == {"peak_memory_bytes", "weights_bytes", "kv_cache_bytes"}
    markdown = (tmp_path / "report/summary.md").read_text(encoding="utf-8")
    assert "| TTFT mean ms | Server's TTFT mean ms |" in markdown
    assert "| 200 | 150 |" in markdown


def test_means_that_are_not_exact_are_struck_through(tmp_path: Path) -> None:
    why = {"energy_cpu_package": "RAPL: energy_uj: permission denied"}
    build(told(tmp_path / "run", quiescent=False, unavailable=why))
    text = (tmp_path / "report/report.html").read_text(encoding="utf-8")
    assert "not_quiescent" in text
    assert 'title="RAPL: energy_uj: permission denied"' in text
    assert "read while nothing ran, where possible" in text
    assert "Whole processor package" in text
    assert "Use a server of its own." in text


def test_a_run_without_them_is_reported_as_before(tmp_path: Path) -> None:
    page = build(quickstart(tmp_path / "run"))
    assert (3, "What the servers measured themselves") not in page.headings
    assert "server" not in {row["kind"] for row in rows(tmp_path / "report")}
    assert "Server's TTFT" not in (tmp_path / "report/summary.md").read_text(encoding="utf-8")
