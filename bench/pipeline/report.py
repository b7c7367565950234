"""From a run to its report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from bench.base.progress import Progress

if TYPE_CHECKING:
    from bench.pipeline.run import RunOutcome


class Output(Protocol):
    """Where the report's path is announced."""

    def progress(self) -> Progress:
        """A progress to report to."""
        ...

    def result(self, text: str, **fields: object) -> None:
        """Say a result."""
        ...


_REPORTS_OWN = frozenset({"price", "prices", "api_price"})
"""Config groups and keys that only a report has."""


def report_overrides(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split a run's overrides: `price…`, `+api_price@api` and `report.…` are the report's and never enter a cell."""
    for_report, for_cells = [], []
    for override in overrides:
        root = override.split("=", 1)[0].lstrip("+~").split(".")[0].split("@")[0]
        if root in _REPORTS_OWN:
            for_report.append(override)
        elif override.startswith("report."):
            for_report.append(override.removeprefix("report."))
        else:
            for_cells.append(override)
    return for_report, for_cells


def write_report(outcome: RunOutcome, overrides: Sequence[str], output: Output) -> Path:
    """The report of a finished run, in `reports/<name of the run's folder>`; announces its path."""
    path = build([outcome.directory], overrides, out=None, progress=output.progress())
    output.result(f"report: {path}", report=str(path))
    return path


def build(directories: Sequence[Path], overrides: Sequence[str], *, out: Path | None, progress: Progress) -> Path:
    """Build a report over run folders; returns the path of the HTML file. Raises UsageError."""
    from bench.analysis.settings import report_config
    from bench.report.build import build_report

    target = out or Path("reports") / "-".join(directory.resolve().name for directory in directories)
    config = report_config(directories, overrides)
    return build_report(directories, target, config, progress.within(stage="report"))
