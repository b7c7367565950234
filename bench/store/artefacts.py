"""Artefacts by key: made once, whole or absent, shared by every run on the machine."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.base.files import read_json, sync, write_json

MANIFEST = "manifest.json"
ACCEPTANCE = "acceptance.json"


class ArtefactStore:
    """A folder of artefact folders, each named by its key and complete when its manifest exists."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def directory(self, key: str) -> Path:
        """Where the artefact of `key` is, or will be."""
        return self._root / key

    def manifest(self, key: str) -> dict[str, Any] | None:
        """The manifest of a finished artefact, or None."""
        try:
            manifest = read_json(self.directory(key) / MANIFEST)
        except (FileNotFoundError, json.JSONDecodeError):
            return None
        return manifest if isinstance(manifest, dict) else None

    @contextlib.contextmanager
    def making(self, key: str) -> Iterator[Path]:
        """A work folder for `key`, renamed into place on a clean exit and removed otherwise.

        Only one process is inside for a key; check `manifest(key)` again after entering, another may have finished it.
        Leaving without a manifest in the work folder keeps whatever is in place (that is the cache-hit path).
        """
        from filelock import FileLock

        self._root.mkdir(parents=True, exist_ok=True)
        work = self._root / f".{key}.making"
        with FileLock(self._root / f".{key}.lock"):
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir()
            try:
                yield work
                if (work / MANIFEST).is_file():
                    final = self.directory(key)
                    shutil.rmtree(final, ignore_errors=True)
                    work.rename(final)
                    sync(self._root)
            finally:
                shutil.rmtree(work, ignore_errors=True)

    def acceptance(self, key: str, check_key: str) -> dict[str, Any] | None:
        """The recorded verdict of acceptance check `check_key` on an artefact, or None."""
        record = self._acceptance(key)
        return record["result"] if record is not None and record.get("check") == check_key else None

    def last_acceptance(self, key: str) -> dict[str, Any] | None:
        """The verdict on an artefact that was recorded last, whatever the check, or None."""
        record = self._acceptance(key)
        return None if record is None else record["result"]

    def _acceptance(self, key: str) -> dict[str, Any] | None:
        try:
            record = read_json(self.directory(key) / ACCEPTANCE)
        except (FileNotFoundError, json.JSONDecodeError):
            return None
        return record if isinstance(record, dict) else None

    def record_acceptance(self, key: str, check_key: str, result: dict[str, Any]) -> None:
        """Remember the verdict beside the artefact."""
        write_json(self.directory(key) / ACCEPTANCE, {"schema_version": 1, "check": check_key, "result": result})
