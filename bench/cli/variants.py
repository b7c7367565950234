"""The table of variants that commands print: what each weighs, what making it took, and what it loses."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.pipeline.run import CellOutcome, RunOutcome

VARIANT_COLUMNS = (
    *("variant", "size MB", "bits/weight", "made in s", "CPU s", "peak MB"),
    *("accepted", "perplexity", "divergence", "key"),
)


def variant_row(cell: CellOutcome, directory: Path) -> tuple[str, ...]:
    """One variant. Quality is what its tasks measured, or, where none did, what acceptance saw on its short text."""
    variant, acceptance = cell.record.get("variant") or {}, cell.record.get("acceptance") or {}
    return (
        str(variant.get("label", cell.label)),
        number(variant.get("size_bytes"), 1e-6),
        number(variant.get("effective_bits_per_weight")),
        number(variant.get("wall_s")),
        number(variant.get("cpu_s")),
        number(variant.get("peak_rss_bytes"), 1e-6),
        str(acceptance.get("verdict", "-")),
        number(_measured(cell, directory, "perplexity", acceptance.get("perplexity"))),
        number(_measured(cell, directory, "mean_divergence", acceptance.get("mean_divergence"))),
        str(variant.get("key", "-")),
    )


def variant_rows(outcome: RunOutcome) -> list[tuple[str, ...]]:
    """One row a variant of the run."""
    return [variant_row(cell, outcome.directory) for cell in outcome.cells if cell.record.get("variant")]


def quality_rows(outcome: RunOutcome, cell: CellOutcome) -> list[tuple[str, ...]]:
    """Every figure of every complete task of a cell: cell, task, metric, value, low, high."""
    rows: list[tuple[str, ...]] = []
    for name, metrics in _task_metrics(cell, outcome.directory):
        for tag, metric in metrics.items():
            low, high = number(metric.get("lo")), number(metric.get("hi"))
            rows.append((cell.label, name, tag, number(metric.get("value")), low, high))
    return rows


def number(value: float | None, scale: float = 1.0) -> str:
    """Six significant digits; a dash for what is missing."""
    return "-" if value is None else f"{value * scale:.6g}"


def _measured(cell: CellOutcome, directory: Path, tag: str, otherwise: float | None) -> float | None:
    found = [metrics[tag]["value"] for _, metrics in _task_metrics(cell, directory) if tag in metrics]
    return found[0] if found else otherwise


def _task_metrics(cell: CellOutcome, directory: Path) -> list[tuple[str, dict[str, Any]]]:
    from bench.base.files import read_json

    found = []
    for name, entry in (cell.record.get("tasks") or {}).items():
        path = directory / "cells" / str(cell.record["key"]) / entry["path"] / "summary.json"
        if entry["status"] == "complete" and path.is_file():
            found.append((name, read_json(path)["metrics"]))
    return found
