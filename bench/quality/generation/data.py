"""Reading items out of JSON lines, and picking those that are asked."""

from __future__ import annotations

import gzip
import json
import random
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from bench.base.errors import UsageError
from bench.base.hashing import key_of, sha256_file

T = TypeVar("T")


def read_jsonl(path: Path, *, where: str, fields: Sequence[str]) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines, `.gz` or plain, each with all of `fields`.

    Raises UsageError naming the setting (`where`), the line and what is wrong with it.
    """
    try:
        raw = path.read_bytes()
        text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8")
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"{where}={path}: {reason}; give a file of JSON lines (.jsonl, .jsonl.gz)") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{where}={path}: is not UTF-8 text; give a file of JSON lines") from error
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UsageError(f"{where}={path}, line {number}: not JSON ({error})") from error
        missing = [name for name in fields if not isinstance(row, dict) or name not in row]
        if missing:
            raise UsageError(f"{where}={path}, line {number}: '{missing[0]}' is missing; needed: {', '.join(fields)}")
        rows.append(row)
    if not rows:
        raise UsageError(f"{where}={path}: holds nothing; give a file of JSON lines")
    return rows


def chosen(rows: Sequence[T], *, limit: int, seed: int | None) -> list[T]:
    """The first `limit` rows (0: all), or with a `seed` that many drawn by it, in the order of the file."""
    if not limit or limit >= len(rows):
        return list(rows)
    if seed is None:
        return list(rows[:limit])
    picked = sorted(random.Random(seed).sample(range(len(rows)), limit))  # noqa: S311 - no secret
    return [rows[index] for index in picked]


def files_digest(paths: Sequence[tuple[str, Path | None]]) -> str:
    """One digest of the content of several files, each under the setting that names it; raises UsageError."""
    digests: list[str | None] = []
    for where, path in paths:
        if path is None:
            digests.append(None)
            continue
        try:
            digests.append(sha256_file(path))
        except OSError as error:
            raise UsageError(f"{where}={path}: {error.strerror or error}; give a file of JSON lines") from error
    return key_of(digests)


def given_path(value: str, where: str) -> Path:
    """A path that the user must give; raises UsageError when it is empty."""
    if not value.strip():
        raise UsageError(f"{where} is empty: give the path of the data, none ships with quantbench")
    return Path(value).expanduser()
