"""The report's config for run folders."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from bench.analysis.candidates import find_baseline
from bench.analysis.config import ReportConfig
from bench.analysis.load import load_results
from bench.analysis.loads import loads_of, reference_load
from bench.base.compose import compose
from bench.base.errors import UsageError
from bench.store.run import RunStore


def report_config(directories: Sequence[Path], overrides: Sequence[str] = ()) -> ReportConfig:
    """The shipped `report.yaml` with `overrides`. Raises UsageError.

    One run's report also takes what its experiment said of it, as far as that still holds: a load that the user left
    out of the run is not missed in its report.
    """
    recorded = RunStore(directories[0]).report_overrides() if len(directories) == 1 else []
    if recorded:
        with contextlib.suppress(UsageError):
            return _checked(compose("report", [*recorded, *overrides], ReportConfig), directories[0])
    return compose("report", list(overrides), ReportConfig)


def _checked(config: ReportConfig, directory: Path) -> ReportConfig:
    """The config, where the run has what it names. Raises UsageError where it has not."""
    if config.load is None and config.baseline is None:
        return config
    cells = load_results([directory]).cells
    reference = reference_load(cells, loads_of(cells), config.load)
    find_baseline(cells, reference, config.baseline)
    return config
