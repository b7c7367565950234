"""The table of variants: what is measured goes before what acceptance saw, and what is missing is a dash."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from bench.cli.variants import VARIANT_COLUMNS, number, quality_rows, variant_row, variant_rows

VARIANT = {
    "label": "GPTQ W4A16 g64",
    "size_bytes": 116_700_000,
    "effective_bits_per_weight": 6.94321987,
    "wall_s": 41.25,
    "cpu_s": None,
    "peak_rss_bytes": 2_100_000_000,
    "key": "abc",
}
ACCEPTANCE = {"verdict": "accepted", "perplexity": 31.5, "mean_divergence": 0.25}
METRICS = {"perplexity": {"value": 30.0, "lo": 29.0, "hi": None}, "mean_divergence": {"value": 0.125}}


def cell(tmp_path: Path, tasks: dict[str, str], **record: Any) -> Any:
    """A cell with tasks of a status; `broken` ones have no summary."""
    entries = {}
    for name, status in tasks.items():
        folder = tmp_path / "cells" / "key" / "tasks" / name
        folder.mkdir(parents=True)
        if status != "broken":
            metrics = METRICS if status == "complete" else {"perplexity": {"value": 1.0}}
            (folder / "summary.json").write_text(json.dumps({"metrics": metrics}))
        entries[name] = {"status": status.replace("broken", "complete"), "path": f"tasks/{name}"}
    return SimpleNamespace(label="the cell", record={"key": "key", "tasks": entries, **record})


def row(tmp_path: Path, tasks: dict[str, str], **record: Any) -> dict[str, str]:
    found = variant_row(cell(tmp_path, tasks, **record), tmp_path)
    return dict(zip(VARIANT_COLUMNS, found, strict=True))


def test_what_tasks_measured_is_shown(tmp_path: Path) -> None:
    tasks = {"cut": "partial", "lost": "broken", "whole": "complete"}
    assert row(tmp_path, tasks, variant=VARIANT, acceptance=ACCEPTANCE) == {
        "variant": "GPTQ W4A16 g64",
        "size MB": "116.7",
        "bits/weight": "6.94322",
        "made in s": "41.25",
        "CPU s": "-",
        "peak MB": "2100",
        "accepted": "accepted",
        "perplexity": "30",
        "divergence": "0.125",
        "key": "abc",
    }


def test_without_tasks_it_is_what_acceptance_saw(tmp_path: Path) -> None:
    found = row(tmp_path, {}, variant=VARIANT, acceptance=ACCEPTANCE)
    assert (found["perplexity"], found["divergence"]) == ("31.5", "0.25")


def test_a_cell_that_came_to_nothing(tmp_path: Path) -> None:
    bare = cell(tmp_path, {})
    assert set(variant_row(bare, tmp_path)) == {"the cell", "-"}
    outcome: Any = SimpleNamespace(cells=[bare, cell(tmp_path, {}, variant=VARIANT)], directory=tmp_path)
    assert [found[0] for found in variant_rows(outcome)] == ["GPTQ W4A16 g64"]


def test_quality_rows_hold_every_figure_of_complete_tasks(tmp_path: Path) -> None:
    made = cell(tmp_path, {"cut": "partial", "whole": "complete"})
    outcome: Any = SimpleNamespace(cells=[made], directory=tmp_path)
    assert quality_rows(outcome, made) == [
        ("the cell", "whole", "perplexity", "30", "29", "-"),
        ("the cell", "whole", "mean_divergence", "0.125", "-", "-"),
    ]


def test_numbers() -> None:
    assert [number(None), number(0.0), number(1e9, 1e-6), number(1234567.0)] == ["-", "0", "1000", "1.23457e+06"]
