"""The report over realistic runs: what is on the page, and that its numbers are those of the tidy table."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.analysis.config import PriceConfig, ReportConfig
from bench.base.errors import UsageError
from bench.base.progress import Progress, ProgressEvent
from bench.report.build import build_report
from tests.unit.report.fake_runs import FakeRun, edit_summary, failed, quickstart, write_json
from tests.unit.report.page_reader import Page, parse_number, shown_value

CONFIG = ReportConfig(price=PriceConfig(name="a machine", per_hour=0.1, date="2026-11-01", source="an invoice"))


def build(directory: Path, config: ReportConfig = CONFIG) -> Page:
    """The report of one run, read back; its structure is checked on the way."""
    path = build_report([directory], directory.parent / "report", config)
    page = Page(path.read_text(encoding="utf-8"))
    assert page.problems == []
    assert len(page.ids) == len(set(page.ids)), "ids repeat"
    page.check_scripts()
    return page


def rows(directory: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((directory / "summary.csv").read_text(encoding="utf-8"))))


def check_numbers(page: Page, table: list[dict[str, str]]) -> int:
    """Every marked number equals its row of the tidy table to the last digit shown."""
    known = {(row["cell_key"], row["source"], row["metric"]): row for row in table}
    for number in page.numbers:
        value = float(known[number.cell, number.source, number.metric][number.statistic])
        shown, half_unit = parse_number(number.text)
        assert shown == pytest.approx(shown_value(number, value), abs=half_unit * 1.0001), number
    return len(page.numbers)


def test_everything_a_reader_needs_is_there(tmp_path: Path) -> None:
    page = build(quickstart(tmp_path / "run"))
    assert (tmp_path / "report/summary.md").is_file()
    assert [level for level, _ in page.headings][:2] == [1, 2]
    assert (2, "Deploy Q8_0.") in page.headings
    assert {"Comparison", "Cost", "Quality", "Validity", "Provenance", "Methods"} <= {text for _, text in page.headings}
    for level, following in zip(page.headings, page.headings[1:], strict=False):
        assert following[0] <= level[0] + 1, f"heading level jumps at {following}"
    tags = [tag for tag, _ in page.tags]
    assert {"main", "nav", "header", "footer"} <= set(tags)
    assert tags.count("table") == tags.count("caption")
    assert all(attrs.get("scope") for tag, attrs in page.tags if tag == "th")
    for wanted in ("Apache-2.0", "Q4_1 grid", "180 of 272 tensors fell back", "llama-quantize", "Example CPU", "0.41"):
        assert wanted in page.text


def test_the_numbers_on_the_page_are_the_tables(tmp_path: Path) -> None:
    page = build(quickstart(tmp_path / "run"))
    assert check_numbers(page, rows(tmp_path / "report")) > 150
    metrics = {number.metric for number in page.numbers}
    assert {"cost_per_million_output_tokens", "ttft", "itl", "perplexity", "mean_divergence", "size_bytes"} <= metrics


def test_nothing_is_fetched(tmp_path: Path) -> None:
    page = build(quickstart(tmp_path / "run"))
    loading = {"src", "srcset", "href", "xlink:href", "data", "poster", "action", "background"}
    for tag, attrs in page.tags:
        for name in loading & set(attrs):
            assert str(attrs[name]).startswith(("#", "data:")), (tag, name, attrs[name])
    assert "url(http" not in page.text
    assert "@import" not in page.text
    policy = next(attrs["content"] for tag, attrs in page.tags if tag == "meta" and "http-equiv" in attrs)
    assert policy is not None
    assert policy.startswith("default-src 'none'")


def test_figures_have_names_words_and_files(tmp_path: Path) -> None:
    page = build(quickstart(tmp_path / "run"))
    charts = [attrs for tag, attrs in page.tags if tag == "svg"]
    assert len(charts) == 3
    for attrs in charts:
        assert attrs["role"] == "img"
        assert all(name in page.ids for name in str(attrs["aria-labelledby"]).split())
    assert "Q8_0; cost" in page.text, "hover texts are missing"
    assert "var(--s1)" in page.text
    files = sorted(path.name for path in (tmp_path / "report/figures").iterdir())
    assert files == [
        "latency-against-load.pdf",
        "latency-against-load.png",
        "latency-against-load.svg",
        "quality-against-cost.pdf",
        "quality-against-cost.png",
        "quality-against-cost.svg",
        "quality-with-intervals.pdf",
        "quality-with-intervals.png",
        "quality-with-intervals.svg",
    ]
    assert "var(--" not in (tmp_path / "report/figures/quality-against-cost.svg").read_text(encoding="utf-8")


def test_the_same_runs_give_the_same_bytes(tmp_path: Path) -> None:
    directory = quickstart(tmp_path / "run", ("F16", "Q8_0"))
    first = build_report([directory], tmp_path / "a", CONFIG)
    second = build_report([directory], tmp_path / "b", CONFIG)
    assert first.read_bytes() == second.read_bytes()
    assert (tmp_path / "a/summary.csv").read_bytes() == (tmp_path / "b/summary.csv").read_bytes()


def test_invalid_and_missing_numbers_look_it(tmp_path: Path) -> None:
    run = FakeRun(tmp_path / "run")
    run.cell("F16")
    spoilt = run.cell("Q8_0")
    run.cell("Q4_0", scenarios=(), tasks=False, **failed(log_tail="loading\nSegmentation fault"))
    run.plan("Q4_K_M · llama_cpp", reason="no kernel for this type")

    def spoil(summary: dict[str, dict[str, dict[str, object]]]) -> None:
        summary["metrics"]["output_throughput"]["validity"] = ["under_delivered"]

    edit_summary(spoilt, "c4", spoil)
    page = build(run.directory)
    assert "Less load was delivered than asked" in page.text
    assert "Segmentation fault" in page.text
    assert "no kernel for this type" in page.text
    assert "(the cell failed (crashed))" in page.text
    comparison = {row[0].split("failed")[0].split("baseline")[0].split("unsupported")[0]: row for row in page.tables[0]}
    assert "not valid: under_delivered" in " ".join(comparison["Q8_0"])
    assert [text.startswith("—") for text in comparison["Q4_0"][3:]] == [True] * (len(comparison["Q4_0"]) - 3)
    check_numbers(page, rows(tmp_path / "report"))


def test_secrets_in_records_are_not_shown(tmp_path: Path) -> None:
    build(quickstart(tmp_path / "run", ("F16", "Q8_0")))
    for path in (tmp_path / "report").rglob("*"):
        if path.is_file():
            assert b"-secret" not in path.read_bytes(), path


@pytest.mark.parametrize(
    "case", ["empty", "one", "no scenarios", "no tasks", "all failed", "all unsupported", "interrupted"]
)
def test_incomplete_runs_still_make_a_report(tmp_path: Path, case: str) -> None:
    run = FakeRun(tmp_path / "run", status="interrupted" if case == "interrupted" else "complete")
    if case in {"one", "interrupted"}:
        run.cell("Q8_0")
    if case == "no scenarios":
        run.cell("F16", scenarios=())
        run.cell("Q8_0", scenarios=())
    if case == "no tasks":
        run.cell("F16", tasks=False)
        run.cell("Q8_0", tasks=False)
    if case == "all failed":
        run.cell("F16", scenarios=(), tasks=False, variant={}, engine=None, machine={}, **failed())
        run.cell("Q8_0", scenarios=(), tasks=False, config={}, provenance=None, **failed(kind="out_of_memory"))
    if case == "all unsupported":
        run.plan("F16 · llama_cpp", reason="no")
        run.plan("Q8_0 · llama_cpp", status="error", reason="scheme.type is unknown")
    page = build(run.directory)
    wanted = {
        "empty": "Nothing was measured",
        "one": "nothing to compare it with",
        "no scenarios": "No recommendation",
        "no tasks": "what the variants lose is unknown",
        "all failed": "every cell failed",
        "all unsupported": "failed or is unsupported",
        "interrupted": "run quickstart interrupted",
    }[case]
    assert wanted in page.text
    check_numbers(page, rows(tmp_path / "report"))


def test_five_hundred_cells(tmp_path: Path) -> None:
    run = FakeRun(tmp_path / "run")
    run.cell("F16", scenarios=(1,))
    template = run.cell("Q8_0", scenarios=(1,))
    texts = {part.relative_to(template): part.read_text(encoding="utf-8") for part in template.rglob("*.json")}
    for number in range(498):
        folder = run.directory / "cells" / f"{number:016d}"
        for name, text in texts.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            own = text.replace(template.name, folder.name).replace("Q8_0 · llama_cpp", f"Q8_0-{number} · llama_cpp")
            (folder / name).write_text(
                own.replace('"value": 1.0026', f'"value": {1 + number / 9000}'), encoding="utf-8"
            )
    page = build(run.directory)
    assert len(page.tables[0]) == 2 + 500
    assert check_numbers(page, rows(tmp_path / "report")) > 5_000
    assert len(page.text) < 10_000_000


def test_latency_curves_join_only_loads_over_the_same_workload(tmp_path: Path) -> None:
    run = FakeRun(tmp_path / "run")
    folder = run.cell("F16", scenarios=(1, 4, 16))
    recorded = json.loads((folder / "cell.json").read_text(encoding="utf-8"))
    recorded["config"]["scenarios"]["c16"]["workload"] = "chat"
    recorded["config"]["workloads"]["chat"] = {"kind": "synthetic", "api": "chat"}
    write_json(folder / "cell.json", recorded)
    build(run.directory, dataclasses.replace(CONFIG, load="c4"))
    page = (tmp_path / "report/report.html").read_text(encoding="utf-8")
    assert "Loads c1 and c4. Solid lines" in page
    assert page.count(": median ") == 4


def test_a_percentile_that_few_requests_cannot_give_says_so(tmp_path: Path) -> None:
    run = FakeRun(tmp_path / "run")
    folder = run.cell("F16")

    def cut(summary: dict[str, dict[str, dict[str, object]]]) -> None:
        summary["metrics"]["ttft"] |= {"p99": None, "n": 12}

    edit_summary(folder, "c4", cut)
    assert "12 values are too few for p99" in build(run.directory).text


def test_an_earlier_reports_figures_do_not_linger(tmp_path: Path) -> None:
    directory = quickstart(tmp_path / "run", ("F16", "Q8_0"))
    build_report([directory], tmp_path / "report", CONFIG)
    build_report([FakeRun(tmp_path / "empty").directory], tmp_path / "report", CONFIG)
    assert list((tmp_path / "report/figures").iterdir()) == []


def test_progress_and_bad_targets(tmp_path: Path) -> None:
    directory = quickstart(tmp_path / "run", ("F16",))
    heard: list[ProgressEvent] = []
    path = build_report([directory], tmp_path / "out", CONFIG, Progress(sink=heard.append, stage="report"))
    assert heard[-1].message == f"wrote {path}"
    with pytest.raises(UsageError, match="is a file; name a folder"):
        build_report([directory], path, CONFIG)


def test_importing_the_report_is_light() -> None:
    code = "import bench.report.build, sys; print({'matplotlib', 'pandas', 'jinja2', 'pyarrow'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": "."}
    )
    assert done.stdout.strip() == "set()"
