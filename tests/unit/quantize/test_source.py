from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

import pytest

from bench.base.errors import UsageError
from bench.base.progress import Progress
from quantize.models import LocalConfig, Located, ModelConfig, PackagedConfig
from quantize.source import SourceFormat, resolve
from tests.unit.quantize.gguf_writer import UINT32, pair, write_gguf


def resolve_path(path: Path, cache: Path) -> object:
    return resolve(LocalConfig(path=str(path)), cache=cache, progress=Progress())


def hf_folder(folder: Path, *files: str) -> Path:
    folder.mkdir()
    for name in ("config.json", *files):
        (folder / name).write_text("{}", encoding="utf-8")
    return folder


def test_local_gguf(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf")
    source = resolve(LocalConfig(path=str(path)), cache=tmp_path / "cache", progress=Progress())
    assert source.format is SourceFormat.gguf
    assert source.digest == "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()
    assert (source.name, source.license) == ("Tiny", "mit")
    named = resolve(
        LocalConfig(path=str(path), name="Mine", license="own"), cache=tmp_path / "cache", progress=Progress()
    )
    assert (named.name, named.license) == ("Mine", "own")


def test_hf_folder_digest_follows_content(tmp_path: Path) -> None:
    folder = hf_folder(tmp_path / "model", "model.safetensors")
    config = LocalConfig(path=str(folder))
    first = resolve(config, cache=tmp_path / "cache", progress=Progress())
    assert first.format is SourceFormat.hf
    (folder / "config.json").write_text('{"a": 1}', encoding="utf-8")
    assert resolve(config, cache=tmp_path / "cache", progress=Progress()).digest != first.digest


def test_bad_input_is_one_line(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    (tmp_path / "novel.gguf").write_text("Call me Ishmael.", encoding="utf-8")
    (tmp_path / "model.bin").write_bytes(b"\x80\x04")
    (tmp_path / "model.safetensors").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    cases = {
        tmp_path / "absent.gguf": "no such file",
        tmp_path / "novel.gguf": "not a GGUF file",
        tmp_path / "model.bin": "pickled weights run code",
        tmp_path / "model.safetensors": "give the folder around it",
        tmp_path / "empty": "has no config.json",
        hf_folder(tmp_path / "pickled", "pytorch_model.bin"): "only pickled weights \\(pytorch_model.bin\\)",
        hf_folder(tmp_path / "bare"): "weights are missing",
        write_gguf(tmp_path / "vocabulary.gguf", ()): "holds no tensors",
        write_gguf(tmp_path / "part.gguf", pairs=[pair("split.count", UINT32, b"\2\0\0\0")]): "split GGUF",
    }
    for path, expected in cases.items():
        with pytest.raises(UsageError, match=expected) as caught:
            resolve_path(path, cache)
        assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match=r"model\.path is empty"):
        resolve(LocalConfig(path=" "), cache=cache, progress=Progress())


def test_missing_shards_are_named(tmp_path: Path) -> None:
    folder = hf_folder(tmp_path / "model", "model-1.safetensors")
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    with pytest.raises(UsageError, match=r"first model-2\.safetensors"):
        resolve_path(folder, tmp_path / "cache")
    (folder / "model.safetensors.index.json").write_text("[]", encoding="utf-8")
    with pytest.raises(UsageError, match="is not a safetensors index"):
        resolve_path(folder, tmp_path / "cache")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pinned(ModelConfig):
    path: str
    sha256: str

    def locate(self, cache: Path, progress: Progress) -> Located:
        return Located(path=Path(self.path), sha256=self.sha256, notes=("said everywhere",))


def test_pinned_content_must_be_found_again(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    good = resolve(Pinned(path=str(path), sha256=digest), cache=tmp_path / "cache", progress=Progress())
    assert good.notes == ("said everywhere",)
    with pytest.raises(UsageError, match="is not the pinned"):
        resolve(Pinned(path=str(path), sha256="0" * 64), cache=tmp_path / "cache", progress=Progress())


def test_packaged_digest_is_known_without_fetching() -> None:
    config = PackagedConfig(distribution="d", version="1", wheel_sha256="a", file="f", sha256="b" * 64)
    assert config.known_digest == "sha256:" + "b" * 64
    assert LocalConfig(path="x").known_digest is None
