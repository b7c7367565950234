"""Rows of data sets: Parquet, CSV with a header, or JSON lines, of this machine or of a hub at one commit."""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from bench.base.errors import UsageError
from bench.quality.hub_texts import HubText, downloaded, hub_text

Row = dict[str, Any]
_JSON_LINES = (".jsonl", ".json", ".jsonl.gz", ".json.gz")
_KINDS = f".parquet, .csv, {', '.join(_JSON_LINES)}"


def data_file(where: str, value: str) -> Path:
    """The file that the setting `where` names: a path, or hub:ORG/NAME/PATH@COMMIT, fetched into the hub's own cache.

    Raises UsageError when there is none, ToolchainError when the hub cannot be reached.
    """
    of_hub = hub_text(value, where) if value.startswith("hub:") else None
    if isinstance(of_hub, HubText):
        return downloaded(of_hub, where)
    path = Path(value).expanduser().resolve()
    if not path.is_file():
        raise UsageError(f"{where}: there is no file {path}; give {_KINDS}, or hub:ORG/NAME/PATH@COMMIT")
    return path


def is_table(path: Path) -> bool:
    """Whether a file's name is that of rows."""
    return path.name.endswith((".parquet", ".csv", *_JSON_LINES))


def read_rows(path: Path, where: str, columns: Sequence[str]) -> list[Row]:
    """The rows of a file, each with `columns`. Raises UsageError naming the file, and the row that is at fault."""
    if path.suffix == ".parquet":
        rows = _parquet(path, where, columns)
    elif path.suffix == ".csv":
        rows = _csv(path, where)
    elif is_table(path):
        rows = list(_json_lines(path, where))
    else:
        raise UsageError(f"{where}: {path} is none of {_KINDS}")
    if not rows:
        raise UsageError(f"{where}: {path} has no rows")
    for number, row in enumerate(rows, start=1):
        missing = [name for name in columns if row.get(name) is None]
        if missing:
            raise UsageError(f"{where}: {path}, row {number} has no '{missing[0]}'; it has {', '.join(row)}")
    return rows


def _parquet(path: Path, where: str, columns: Sequence[str]) -> list[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            missing = [name for name in columns if name not in names]
            if missing:
                raise UsageError(f"{where}: {path} has no column '{missing[0]}'; it has {', '.join(names)}")
            rows: list[Row] = file.read().to_pylist()
            return rows
    except pa.ArrowInvalid as error:
        raise UsageError(f"{where}: {path} is no parquet file ({str(error).splitlines()[0][:120]})") from None


def _csv(path: Path, where: str) -> list[Row]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            return [dict(row) for row in csv.DictReader(stream, strict=True)]
    except (csv.Error, UnicodeDecodeError) as error:
        raise UsageError(f"{where}: {path} is no UTF-8 CSV with a header ({error})") from None


def _json_lines(path: Path, where: str) -> Iterable[Row]:
    try:
        raw = path.read_bytes()
        text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode()
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise UsageError(f"{where}: {path} cannot be read as JSON lines ({error})") from None
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UsageError(f"{where}: {path}, line {number}: not JSON ({error})") from None
        if not isinstance(row, dict):
            raise UsageError(f"{where}: {path}, line {number}: not an object")
        yield row
