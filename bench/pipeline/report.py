"""From a run to its report."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from bench.base.compose import compose
from bench.base.errors import UsageError
from bench.base.progress import Progress
from bench.store.run import RunStore

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


def report_overrides(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split a run's overrides: `price…` and `report.…` are the report's and never enter a cell."""
    for_report, for_cells = [], []
    for override in overrides:
        if override.split("=", 1)[0].split(".")[0] == "price":
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
    """Build a report over run folders; returns the path of the HTML file. Raises UsageError.

    One run's report also takes what its experiment said of it, as far as that still holds: a load that the user left
    out of the run is not missed in its report.
    """
    from bench.analysis.config import ReportConfig
    from bench.report.build import build_report

    target = out or Path("reports") / "-".join(directory.resolve().name for directory in directories)
    recorded = RunStore(directories[0]).report_overrides() if len(directories) == 1 else []
    if recorded:
        with contextlib.suppress(UsageError):
            config = compose("report", [*recorded, *overrides], ReportConfig)
            return build_report(directories, target, config, progress.within(stage="report"))
    config = compose("report", overrides, ReportConfig)
    return build_report(directories, target, config, progress.within(stage="report"))
