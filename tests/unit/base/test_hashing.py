"""Digests: stable over time (golden), sensitive to content, cheap the second time."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path

import pytest

from bench.base import hashing
from bench.base.hashing import DigestCache, canonical_json, key_of


class Color(StrEnum):
    RED = "red"


def test_keys_do_not_change_between_releases() -> None:
    value = {"b": [1, 2.5, None, True], "a": {"é": Color.RED, "path": Path("x/y")}}
    assert canonical_json(value) == '{"a":{"path":"x/y","é":"red"},"b":[1,2.5,null,true]}'.encode()
    assert key_of(value) == "a93e528233a8225d"


def test_a_value_without_a_canonical_form_is_refused() -> None:
    with pytest.raises(TypeError, match="set has no canonical form"):
        canonical_json({1, 2})
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json(float("inf"))


def test_a_file_is_read_once_until_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    real = hashing.sha256_file

    def counting(path: Path) -> str:
        read.append(path)
        return real(path)

    monkeypatch.setattr(hashing, "sha256_file", counting)
    model = tmp_path / "model.gguf"
    model.write_bytes(b"weights")
    cache = tmp_path / "digests.json"
    first = DigestCache(cache).digest(model)
    assert DigestCache(cache).digest(model) == first
    assert len(read) == 1
    model.write_bytes(b"WEIGHTS")
    os.utime(model, ns=(1, 1))
    assert DigestCache(cache).digest(model) != first
    assert len(read) == 2


def test_a_damaged_cache_is_made_anew(tmp_path: Path) -> None:
    cache = tmp_path / "digests.json"
    cache.write_text("{")
    (tmp_path / "f").write_bytes(b"x")
    assert DigestCache(cache).digest(tmp_path / "f") == hashing.sha256_file(tmp_path / "f")


def test_a_tree_is_its_names_and_contents(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "sub" / "a").write_text("a")
    cache = DigestCache(tmp_path / "digests.json")
    first = cache.digest_tree(folder)
    (folder / ".cache").write_text("ignored")
    assert cache.digest_tree(folder) == first
    (folder / "sub" / "a").rename(folder / "sub" / "b")
    assert cache.digest_tree(folder) != first
