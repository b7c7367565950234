"""Files that are either whole or absent."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any


def sync(path: Path) -> None:
    """Make a file's content, pages another process has mapped included, or a rename in a folder survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomic(path: Path, data: bytes) -> None:
    """Write `data` so that a reader sees the old file or the new one, whatever dies in between."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
        sync(path.parent)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # a write that finds the disk full does not say where
        raise


def write_json(path: Path, value: Any) -> None:
    """Write `value` as readable JSON, atomically. Raises ValueError on NaN and infinities: missing data is null."""
    text = json.dumps(value, indent=2, sort_keys=False, ensure_ascii=False, allow_nan=False)
    write_atomic(path, (text + "\n").encode())


def read_json(path: Path) -> Any:
    """Parse a JSON file; raises FileNotFoundError or json.JSONDecodeError."""
    return json.loads(path.read_text(encoding="utf-8"))


def read_from(path: Path, offset: int, *, limit_bytes: int = 1 << 20) -> str:
    """A log's text from byte `offset` on, at most `limit_bytes` of it."""
    with path.open("rb") as stream:
        stream.seek(offset)
        return stream.read(limit_bytes).decode(errors="replace")


def tail(path: Path, *, start: int = 0, lines: int = 40, limit_bytes: int = 16_384) -> str:
    """The last `lines` lines of a log from byte `start` on, at most `limit_bytes`; empty when there is no such file."""
    try:
        with path.open("rb") as stream:
            stream.seek(0, os.SEEK_END)
            stream.seek(max(start, stream.tell() - limit_bytes))
            data = stream.read()
    except FileNotFoundError:
        return ""
    return "\n".join(data.decode(errors="replace").splitlines()[-lines:])
