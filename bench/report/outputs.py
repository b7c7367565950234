"""What a report leaves for programs: the tidy table as Parquet, and the whole analysis as JSON after its schema."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from bench.analysis.candidates import Analysis
from bench.analysis.document import document
from bench.analysis.recommend import Answer
from bench.base.files import write_atomic

if TYPE_CHECKING:
    import pandas as pd

PARQUET = "summary.parquet"
JSON = "report.json"


def write_outputs(out: Path, analysis: Analysis, answer: Answer, frame: pd.DataFrame) -> None:
    """Write `summary.parquet` (the tidy table `frame`) and `report.json` into `out`."""
    write_atomic(out / PARQUET, as_parquet(frame))
    write_atomic(out / JSON, as_json(analysis, answer, frame))


def as_parquet(frame: pd.DataFrame) -> bytes:
    """The tidy table with its columns' types; a missing number is null."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), buffer, compression="zstd")
    return buffer.getvalue().to_pybytes()


def as_json(analysis: Analysis, answer: Answer, frame: pd.DataFrame) -> bytes:
    """The document, UTF-8; numbers that are not finite are never written."""
    return (
        json.dumps(document(analysis, answer, frame), ensure_ascii=False, allow_nan=False).encode("utf-8", "replace")
        + b"\n"
    )
