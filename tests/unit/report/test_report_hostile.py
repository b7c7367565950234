"""Hostile text in every field is shown and never obeyed."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.analysis.config import PriceConfig, ReportConfig
from bench.analysis.table import COLUMNS
from bench.report.build import build_report
from bench.report.clean import clean, one_line, short, tail
from bench.report.markdown import escape
from bench.report.redact import HIDDEN, redact, redact_command, shown_command
from tests.unit.report.fake_runs import FakeRun, add_recordings, failed, write_json
from tests.unit.report.page_reader import Page

HOSTILE = {
    "script": "<script>alert(1)</script>",
    "closing": "</style></title></textarea></script></svg><img src=x onerror=alert(1)>",
    "attribute": '" onmouseover="alert(1)" x=\'',
    "template": "{{ 7 * 7 }} {% raw %} ${7*7} $x_1^2$",
    "markdown": "| ![x](http://example.invalid/a.png) | **b** `c` @someone #1 <b>",
    "formula": '=HYPERLINK("http://example.invalid")',
    "right to left": "abc\u202etxt.exe\u2066\u200f שלום",
    "control": "a\x00b\x07c\x1b[31mred\x1b]0;title\x07\x7f\x9b",
    "surrogate": "lone \ud800 and \uffff",
    "long": "n" * 10_240,
    "emoji": "模型 🤖 émigré",
}


def poison(value: Any, text: str) -> Any:
    """Every free text of a record replaced by `text`; structure, keys, paths and numbers are kept."""
    kept = {"path", "status", "schema_version", "unit", "key"}
    if isinstance(value, dict):
        return {name: entry if name in kept else poison(entry, text) for name, entry in value.items()}
    if isinstance(value, list):
        return [poison(entry, text) for entry in value]
    return text if isinstance(value, str) else value


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_text_in_every_field(tmp_path: Path, kind: str) -> None:
    text = HOSTILE[kind]
    run = FakeRun(tmp_path / "run")
    said = text.encode("utf-8", "replace").decode()
    for variant in ("F16", "Q8_0"):
        add_recordings(run.cell(variant), said=said)
    run.cell("Q4_0", scenarios=(), tasks=False, **failed(log_tail="x"))
    run.plan("x", reason="y")
    for path in [*run.directory.rglob("cell.json"), *run.directory.rglob("summary.json")]:
        record = poison(json.loads(path.read_text(encoding="utf-8")), text)
        if path.name == "cell.json":
            for child in ("scenarios", "tasks"):
                for name in list(record[child]):
                    record[child][f"{name}{text}"] = record[child].pop(name)
            record["engine"]["validity"] = [text]
            record["validity"] = [text]
        else:
            record["validity"] = [text]
            record["errors"] = {text: 3}
            record["metrics"][text] = {"unit": text, "value": 1.0, "validity": [text]}
        write_json(path, record)
    for name in ("run.json", "plan.json"):
        path = run.directory / name
        write_json(path, poison(json.loads(path.read_text(encoding="utf-8")), text))
    price = PriceConfig(name=text, currency="USD", per_hour=1.0, date="2026-11-01", source=text, note=text)

    report = build_report([run.directory], tmp_path / "report", ReportConfig(price=price))

    page = Page(report.read_text(encoding="utf-8"))
    assert page.problems == []
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"img", "b", "iframe", "object"}
    page.check_scripts()
    assert "49" not in "".join(heading for _, heading in page.headings)
    allowed = {"\n", "\t"}
    assert not [
        letter for letter in page.own_text if (letter < " " and letter not in allowed) or "\x7f" <= letter <= "\x9f"
    ]
    assert not set(page.own_text) & set("\u202a\u202b\u202d\u202e\u2066\u2067\u2068\u200f")
    assert {"plot-distribution", "plot-time", "plot-requests"} <= {plot["id"] for plot in page.plots}
    assert "of 40 changed" in page.own_text
    table = (tmp_path / "report/summary.csv").read_text(encoding="utf-8")
    assert not [letter for letter in table if (letter < " " and letter != "\n") or letter == "\u202e"]
    for row in csv.DictReader(io.StringIO(table)):
        assert not row["cell"].startswith(("=", "+", "-", "@"))
        assert tuple(row) == COLUMNS
    markdown = (tmp_path / "report/summary.md").read_text(encoding="utf-8")
    assert "<b>" not in markdown
    assert "<script" not in markdown
    assert "![x]" not in markdown
    heads = next(line for line in markdown.splitlines() if line.startswith("| Variant"))
    bodies = [line for line in markdown.splitlines() if line.startswith("| ") and line != heads and "---" not in line]
    assert len(bodies) == 4
    assert {body.replace("\\|", "").count("|") for body in bodies} == {heads.replace("\\|", "").count("|")}


@given(st.text(st.characters(codec=None), max_size=200))
def test_cleaned_text_can_be_written_and_steers_nothing(text: str) -> None:
    cleaned = clean(text)
    cleaned.encode()
    assert not [letter for letter in cleaned if letter < " " and letter not in "\n\t"]
    assert "\u202e" not in cleaned
    assert clean(cleaned) == cleaned
    assert "\n" not in one_line(text)
    assert "<" not in escape(text)


def test_short_and_tail_say_what_they_cut() -> None:
    assert short("x" * 5000) == "x" * 95 + "… (5,000 characters)"
    assert short("  a \n b ") == "a b"
    assert tail("a" * 5000 + "end", 100).endswith("aend")
    assert "4,903 characters before this" in tail("a" * 5000 + "end", 100)
    assert tail("first line\nsecond line\nthird", 20).endswith("this)\nsecond line\nthird")


def test_secrets_are_hidden_by_name() -> None:
    record = {
        "engine": {"api_key": "x", "threads": 1, "Authorization": "y"},
        "input_tokens": 5,
        "tokens": ["t"],
        "hf_token": "z",
    }
    assert redact(record) == {
        "engine": {"api_key": HIDDEN, "threads": 1, "Authorization": HIDDEN},
        "input_tokens": 5,
        "tokens": ["t"],
        "hf_token": HIDDEN,
    }
    command = ["server", "--api-key", "x", "--api-key=y", "-m", "model.gguf"]
    assert redact_command(command) == ["server", "--api-key", HIDDEN, f"--api-key={HIDDEN}", "-m", "model.gguf"]


def test_a_command_does_not_tell_who_ran_it() -> None:
    command = ["/home/ada/bin/server", "--model", "/root/m.gguf", "--lora=/Users/ada/l x", "/opt/home/ada/y", "a b"]
    assert shown_command(command) == "~/bin/server --model ~/m.gguf '--lora=~/l x' /opt/home/ada/y 'a b'"
