"""A folder with pickled weights as a new one with safetensors; the weights are read and written by a worker."""

from __future__ import annotations

import contextlib
import fcntl
import fnmatch
import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.base.errors import CellFailure, FailureKind, UsageError
from bench.base.files import sync
from bench.base.progress import Progress
from bench.toolchains.worker import WorkerError, run_worker
from quantize.checkpoint import PICKLED

if TYPE_CHECKING:
    from quantize.run import Toolchains

TOOLCHAIN = "llmcompressor"
_WORKER = Path(__file__).parent / "workers" / "convert_safetensors.py"
_INDEX = "pytorch_model.bin.index.json"
_PARTS, _OTHERS = "pytorch_model*.bin", tuple(f"*{suffix}" for suffix in PICKLED)
#: What a training leaves beside a model.
_TRAINING = re.compile(r"(training_args|optimizer|scheduler|scaler|rng_state|random_states)[\w.-]*")
#: What is copied: configuration, tokenizer, licence. Never Python, never a pickle.
_COPIED = ("*.json", "*.jinja", "*.tiktoken", "*.model", "*.txt", "*.md", "LICENSE*", "LICENCE*", "NOTICE*")
_NOT_COPIED = ("*.index.json", ".*")
_CODE = (".py", ".pyc", ".so")


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """A folder that was written: its weights' files, how many tensors they hold and their bytes."""

    folder: Path
    files: tuple[str, ...]
    tensors: int
    size_bytes: int
    notes: tuple[str, ...] = ()


def convert(
    folder: Path, out: Path | None = None, *, progress: Progress, toolchains: Toolchains | None = None
) -> Conversion:
    """Write the weights of `folder` as safetensors into the new folder `out`, with its configuration and tokenizer.

    Every tensor is read back and compared. `out` is whole or absent, whatever dies in between; without one it is
    FOLDER-safetensors beside the folder. Raises UsageError for what cannot be converted, CellFailure when the disk is
    full or the worker fails, ToolchainError when its environment cannot be made.
    """
    from quantize.run import ConfiguredToolchains

    folder = folder.expanduser().absolute()
    weights = pickled_weights(folder)
    target = (out or folder.with_name(f"{folder.name}-safetensors")).expanduser().absolute()
    _refuse_target(target)
    copied = _copied_files(folder)
    _refuse_full_disk(target, [*weights, *copied])
    toolchain = (toolchains or ConfiguredToolchains()).ensure(TOOLCHAIN, progress)
    progress = progress.within(stage="convert")
    progress.say(f"converting {', '.join(file.name for file in weights[:3])}{', …' * (len(weights) > 3)}")
    named = [{"path": str(file), "name": name} for file, name in zip(weights, _names(len(weights)), strict=True)]
    with _making(target) as work:
        made = work / "out"
        made.mkdir()
        request = {"files": named, "out": str(made), "tied": _is_tied(folder)}
        try:
            result = run_worker(
                toolchain, _WORKER, request, work_dir=work / "worker", log=work / "log", progress=progress
            )
        except WorkerError as error:
            raise _failure(error, folder, work) from error
        for file in copied:
            shutil.copyfile(file, made / file.name)
        for file in made.iterdir():
            file.chmod(0o644)  # safetensors writes for its owner alone
            sync(file)
        sync(made)
        _refuse_target(target)
        made.rename(target)
        sync(target.parent)
    return Conversion(
        folder=target,
        files=tuple(entry["name"] for entry in named),
        tensors=int(result["tensors"]),
        size_bytes=int(result["size_bytes"]),
        notes=tuple(_notes(result)),
    )


def pickled_weights(folder: Path) -> list[Path]:
    """The files of `folder` that hold its pickled weights, in order; raises UsageError when there is nothing to do."""
    if not folder.is_dir():
        hint = f"give the folder around it: {folder.parent}" if folder.exists() else "give a Hugging Face folder"
        raise UsageError(f"{folder}: is no folder; {hint}")
    if not (folder / "config.json").is_file():
        raise UsageError(f"{folder}: has no config.json, so it is no Hugging Face folder; give one")
    ready = sorted(file.name for file in folder.glob("model*.safetensors"))
    if ready:
        raise UsageError(f"{folder}: has safetensors already ({ready[0]}), there is nothing to convert")
    found = _parts(folder)
    if not found:
        raise UsageError(f"{folder}: has no pickled weights ({_PARTS}, .pt, .pth), there is nothing to convert")
    return found


def _parts(folder: Path) -> list[Path]:
    """What the index names; else all `pytorch_model*.bin`; else whatever looks like a pickle and no training left."""
    if (folder / _INDEX).is_file():
        return _indexed(folder)
    found = sorted(folder.glob(_PARTS)) or sorted(file for pattern in _OTHERS for file in folder.glob(pattern))
    return [file for file in found if file.is_file() and not _TRAINING.fullmatch(file.name)]


def _indexed(folder: Path) -> list[Path]:
    index = folder / _INDEX
    try:
        names = sorted({str(name) for name in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{index}: is not an index of weights ({error!r}); copy or download it again") from None
    outside = [name for name in names if Path(name).name != name]
    if outside:
        raise UsageError(f"{index}: names '{outside[0]}', which is no file of this folder")
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise UsageError(f"{folder}: {len(missing)} of {len(names)} files of weights are missing, first {missing[0]}")
    return [folder / name for name in names]


def _names(count: int) -> list[str]:
    """What transformers calls that many files of weights."""
    if count == 1:
        return ["model.safetensors"]
    return [f"model-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]


def _copied_files(folder: Path) -> list[Path]:
    def wanted(file: Path) -> bool:
        matches = any(fnmatch.fnmatchcase(file.name, pattern) for pattern in _COPIED)
        left_out = any(fnmatch.fnmatchcase(file.name, pattern) for pattern in _NOT_COPIED)
        return matches and not left_out and not _is_code(file)

    return sorted(file for file in folder.iterdir() if file.is_file() and wanted(file))


def _is_code(file: Path) -> bool:
    return file.suffix in (*_CODE, *PICKLED)


def _is_tied(folder: Path) -> bool:
    """Whether the configuration says that the output matrix is the input embeddings."""
    file = folder / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"{file}: is not JSON ({error}); copy or download it again") from None
    return isinstance(config, dict) and config.get("tie_word_embeddings") is True


def _refuse_target(target: Path) -> None:
    if target.exists() or target.is_symlink():
        raise UsageError(f"{target}: is there already; remove it, or name another folder with --out")
    if not target.parent.is_dir():
        raise UsageError(f"{target.parent}: there is no such folder; make it, or name another one with --out")


def _refuse_full_disk(target: Path, files: Sequence[Path]) -> None:
    """Refuse before any work what would not fit: the files take about as much as before."""
    needed, free = sum(file.stat().st_size for file in files), shutil.disk_usage(target.parent).free
    if free < needed:
        raise CellFailure(
            FailureKind.DISK_FULL,
            f"{target}: takes about {needed / 1e6:.0f} MB, {free / 1e6:.0f} MB are free; free some space, or name a "
            "folder on another disk with --out",
        )


@contextlib.contextmanager
def _making(target: Path) -> Iterator[Path]:
    """A hidden folder beside `target`, empty, for this process alone, and gone in the end.

    What a killed conversion left in it is removed first. The lock is the folder's own, so no other file is needed.
    """
    work = target.with_name(f".{target.name}.converting")
    work.mkdir(exist_ok=True)
    descriptor = os.open(work, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if not _locked(descriptor, work):
            raise UsageError(f"{target}: is being written by another conversion; wait for it, or name another --out")
        for left in work.iterdir():
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        try:
            yield work
        finally:
            shutil.rmtree(work, ignore_errors=True)
    finally:
        os.close(descriptor)


def _locked(descriptor: int, work: Path) -> bool:
    """Whether the folder is ours; another process may have removed it between its opening and its locking."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(descriptor), work.stat())
    except (BlockingIOError, FileNotFoundError):
        return False


def _failure(error: WorkerError, folder: Path, work: Path) -> UsageError | CellFailure:
    from quantize.schemes.hf import as_failure

    failure = as_failure(error, "convert-safetensors", work)
    return UsageError(f"{folder}: {failure}") if isinstance(failure, UsageError) else failure


def _notes(result: dict[str, Any]) -> Iterator[str]:
    if result["left_out"]:
        yield f"{', '.join(result['left_out'])} is the input embeddings and left out; whoever loads the model ties it"
    if result["cloned"]:
        first = result["cloned"][0]
        yield f"{len(result['cloned'])} tensors shared memory with others and were written in full, first {first}"
