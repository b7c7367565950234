"""Recorded runs in a notebook, as pandas data frames.

    import bench.results

    frame = bench.results.load("results/quickstart")
    frame.query("metric == 'output_throughput'")[["cell", "source", "value", "lo", "hi"]]
    bench.results.requests("results/quickstart")     # one row a request
    print(bench.results.recommend("results/quickstart", "slo.ttft_ms=500").headline)

Folders are named one by one, or several as a list; what follows them are the report's settings as on the command line.
Everything raises UsageError for a folder that is not a run, and for settings that do not exist.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bench.analysis.candidates import Analysis, analyse
from bench.analysis.load import load_results
from bench.analysis.recommend import Answer
from bench.analysis.recommend import recommend as _recommend
from bench.analysis.results import Measurement
from bench.analysis.settings import report_config

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

Folders = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


def load(path: Folders, *overrides: str) -> pd.DataFrame:
    """The tidy table: a row per cell, source and metric, with the columns of `bench.analysis.table.COLUMNS`."""
    from bench.analysis.table import tidy

    return tidy(analysis(path, *overrides))


def analysis(path: Folders, *overrides: str) -> Analysis:
    """Everything the report says, as typed values: candidates, cost matrix, frontiers, what is not comparable."""
    folders = _folders(path)
    return analyse(load_results(folders), report_config(folders, overrides))


def recommend(path: Folders, *overrides: str) -> Answer:
    """The answer: `headline`, `costs`, `loses`, `sure`, `why`, and the chosen candidate."""
    return _recommend(analysis(path, *overrides))


def requests(path: Folders) -> pd.DataFrame:
    """Every recorded request of every load, as recorded, after the columns `run`, `cell`, `cell_key` and `load`."""
    return _tables(path, kind="scenarios", file="requests.parquet", named="load")


def items(path: Folders) -> pd.DataFrame:
    """Every item of every task, as recorded, after the columns `run`, `cell`, `cell_key` and `task`."""
    return _tables(path, kind="tasks", file="items.parquet", named="task")


def _folders(path: Folders) -> list[Path]:
    return [Path(path)] if isinstance(path, str | os.PathLike) else [Path(each) for each in path]


def _tables(path: Folders, *, kind: str, file: str, named: str) -> pd.DataFrame:
    """The Parquet files of all measurements under one another; a column that one of them lacks is null there."""
    import pandas as pd
    import pyarrow as pa

    tables = []
    for cell in load_results(_folders(path)).cells:
        children: Sequence[Measurement] = tuple((cell.scenarios if kind == "scenarios" else cell.tasks).values())
        for child in children:
            table = _table(child, file)
            if table is None:
                continue
            for name, value in ((named, child.name), ("cell_key", cell.key), ("cell", cell.label), ("run", cell.run)):
                if name in table.column_names:
                    table = table.drop_columns([name])
                repeated = pa.DictionaryArray.from_arrays(
                    pa.repeat(pa.scalar(0, pa.int32()), len(table)), pa.array([value])
                )
                table = table.add_column(0, name, repeated)
            tables.append(table)
    if not tables:
        return pd.DataFrame(columns=["run", "cell", "cell_key", named])
    frame: pd.DataFrame = pa.concat_tables(tables, promote_options="permissive").to_pandas()
    return frame


def _table(child: Measurement, file: str) -> pa.Table | None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if child.directory is None:
        return None
    try:
        with pq.ParquetFile(child.directory / file) as opened:
            return opened.read()
    except (OSError, ValueError, pa.ArrowException):
        return None
