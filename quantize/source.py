"""From a model config to a checked checkpoint with a content digest: the beginning of every artefact."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from bench.base.errors import UsageError
from bench.base.hashing import DigestCache
from bench.base.progress import Progress
from quantize.checkpoint import PICKLED, conversion
from quantize.gguf_file import GgufFile, read_gguf
from quantize.models import Located, ModelConfig


class SourceFormat(StrEnum):
    """How a checkpoint is stored."""

    gguf = "gguf"
    hf = "hf"


@dataclass(frozen=True, kw_only=True)
class Source:
    """A checkpoint that was looked at; `path` is a file or a folder.

    `digest` is `sha256:` and the content's hash, or names an immutable revision. `origin` says where it was fetched.
    """

    path: Path
    format: SourceFormat
    digest: str
    name: str
    license: str | None = None
    notes: tuple[str, ...] = ()
    origin: dict[str, str] | None = None


def resolve(model: ModelConfig, *, cache: Path, progress: Progress) -> Source:
    """Locate, check and digest a model; digests of unchanged files come from `cache`.

    Raises UsageError when it is missing, damaged, of an unknown format or pickled, ToolchainError when it cannot
    be fetched.
    """
    located = model.locate(cache, progress)
    digests = DigestCache(cache / "sources" / "digests.json")
    progress.say(f"reading {located.path.name}")
    if located.path.is_dir():
        return _hf_source(model, located, digests)
    header = _checked_gguf(located.path)
    digest = located.digest or f"sha256:{digests.digest(located.path)}"
    if located.sha256 is not None and digest != f"sha256:{located.sha256}":
        raise UsageError(f"{located.path}: its SHA-256 is not the pinned {located.sha256}; remove it and run again")
    return Source(
        path=located.path,
        format=SourceFormat.gguf,
        digest=digest,
        name=model.name or located.name or header.text("general.name") or located.path.stem,
        license=located.license or header.text("general.license"),
        notes=located.notes,
        origin=located.origin,
    )


def glance(path: Path, name: str = "") -> Source:
    """A checkpoint with the checks of `resolve` and no digest: only headers are read, nothing is written."""
    if path.is_dir():
        _check_folder(path)
        return Source(path=path, format=SourceFormat.hf, digest="", name=name or path.name)
    header = _checked_gguf(path)
    return Source(path=path, format=SourceFormat.gguf, digest="", name=name or header.text("general.name") or path.stem)


def _checked_gguf(path: Path) -> GgufFile:
    _refuse_other_files(path)
    header = read_gguf(path)
    if not header.tensors:
        raise UsageError(f"{path}: holds no tensors (a vocabulary only?); give a whole model")
    if int(header.metadata.get("split.count", 1)) > 1:
        raise UsageError(f"{path}: is one part of a split GGUF; join the parts with llama-gguf-split --merge")
    return header


def _refuse_other_files(path: Path) -> None:
    if path.suffix in PICKLED and path.exists():
        raise UsageError(
            f"{path}: pickled weights run code when they are loaded and are refused; convert them: "
            f"{conversion(path.parent)}"
        )
    if path.suffix == ".safetensors" and path.exists():
        raise UsageError(f"{path}: give the folder around it, which also holds config.json: model.path={path.parent}")


def _hf_source(model: ModelConfig, located: Located, digests: DigestCache) -> Source:
    folder = located.path
    _check_folder(folder)
    return Source(
        path=folder,
        format=SourceFormat.hf,
        digest=located.digest or f"sha256:{digests.digest_tree(folder)}",
        name=model.name or located.name or folder.name,
        license=located.license,
        notes=located.notes,
        origin=located.origin,
    )


def _check_folder(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        ggufs = sorted(file.name for file in folder.glob("*.gguf"))
        hint = f"name a file in it: {', '.join(ggufs[:5])}" if ggufs else "give a GGUF file or a Hugging Face folder"
        raise UsageError(f"{folder}: has no config.json; {hint}")
    if not any(folder.glob("*.safetensors")):
        pickled = sorted(file.name for file in folder.iterdir() if file.suffix in PICKLED)
        if pickled:
            raise UsageError(
                f"{folder}: has only pickled weights ({pickled[0]}), which run code when they are loaded and are "
                f"refused; convert them: {conversion(folder)}"
            )
        raise UsageError(f"{folder}: has no *.safetensors; the weights are missing")
    _check_shards(folder)


def _check_shards(folder: Path) -> None:
    """Every shard the index names must be there."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return
    try:
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{index}: is not a safetensors index ({error})") from error
    missing = sorted(shard for shard in shards if not (folder / str(shard)).is_file())
    if missing:
        raise UsageError(f"{folder}: {len(missing)} of {len(shards)} shards are missing, first {missing[0]}")
