"""Digests: of values (canonical JSON), of files (cached by path, size, mtime and inode) and of directories."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from enum import Enum
from pathlib import Path
from typing import Any

from bench.base.files import read_json, write_json

KEY_LENGTH = 16


def canonical_json(value: Any) -> bytes:
    """One byte string per value: sorted keys, no spaces, enums by value, dataclasses as dicts. Raises on NaN."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False, default=_plain
    ).encode()


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no canonical form")


def key_of(value: Any) -> str:
    """The short key (first 16 hexadecimal digits of SHA-256) that names artefacts and cells on disk."""
    return hashlib.sha256(canonical_json(value)).hexdigest()[:KEY_LENGTH]


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's content, hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


class DigestCache:
    """File digests remembered in one JSON file, so that a 40 GB checkpoint is read once."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def digest(self, file: Path) -> str:
        """SHA-256 of `file`, from the cache when path, size, mtime and inode are unchanged."""
        resolved = file.resolve()
        stat = resolved.stat()
        stamp = [stat.st_size, stat.st_mtime_ns, stat.st_ino]
        known = self._load()
        entry = known.get(str(resolved))
        if isinstance(entry, list) and entry[:3] == stamp:
            return str(entry[3])
        digest = sha256_file(resolved)
        known[str(resolved)] = [*stamp, digest]
        write_json(self._path, known)
        return digest

    def digest_tree(self, directory: Path) -> str:
        """Digest of a directory: every regular file's relative path and content, hidden files left out."""
        files = sorted(
            file
            for file in directory.rglob("*")
            if file.is_file() and not any(part.startswith(".") for part in file.relative_to(directory).parts)
        )
        listing = {str(file.relative_to(directory)): self.digest(file) for file in files}
        return hashlib.sha256(canonical_json(listing)).hexdigest()

    def _load(self) -> dict[str, Any]:
        try:
            known = read_json(self._path)
        except (FileNotFoundError, json.JSONDecodeError):
            return {}
        return known if isinstance(known, dict) else {}
