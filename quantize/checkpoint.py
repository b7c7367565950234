"""Looking at a Hugging Face folder without importing anything of it: tensor types from headers, and a safe view of it.

Format: a safetensors file begins with the length of its header (unsigned 64 bit, little-endian) and the header itself,
JSON of tensor name → {dtype, shape, data_offsets}.
"""

from __future__ import annotations

import json
import math
import shlex
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.base.errors import UsageError
from bench.base.files import write_json

_MAX_HEADER_BYTES = 100 << 20  # what the reference implementation accepts
_SHARDS = "model*.safetensors"
_PYTHON = ".py"
PICKLED = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")
CONVERT = "convert-safetensors"


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Weights of a checkpoint by the type they are stored in (`BF16`, `F8_E4M3`, …): matrices alone, and all."""

    matrices: dict[str, int]
    parameters: int

    @property
    def main_type(self) -> str | None:
        """The type that holds most weights of the matrices; None when there are no matrices."""
        return max(self.matrices, key=lambda name: (self.matrices[name], name), default=None)


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """One entry of a header; `count` numbers of `type`."""

    name: str
    type: str
    shape: tuple[int, ...]
    size_bytes: int

    @property
    def count(self) -> int:
        """Numbers stored."""
        return math.prod(self.shape)


def read_tensors(folder: Path, pattern: str = _SHARDS) -> list[StoredTensor]:
    """The tensors of all files that match `pattern`; raises UsageError when one is damaged."""
    return [tensor for shard in sorted(folder.glob(pattern)) for tensor in _tensors(shard)]


def read_weights(folder: Path) -> Weights:
    """Count the weights of `model*.safetensors` from their headers; no weights are read.

    Raises UsageError when there are none or one is damaged.
    """
    matrices: dict[str, int] = {}
    parameters = 0
    for tensor in read_tensors(folder):
        parameters += tensor.count
        if len(tensor.shape) > 1:
            matrices[tensor.type] = matrices.get(tensor.type, 0) + tensor.count
    if not parameters:
        pickled = any(file.suffix in PICKLED for file in folder.iterdir())
        advice = f"convert it: {conversion(folder)}" if pickled else "save the model with save_pretrained"
        raise UsageError(f"{folder}: holds no weights named {_SHARDS}; {advice}")
    return Weights(matrices=matrices, parameters=parameters)


def conversion(folder: Path) -> str:
    """The command that writes a folder's pickled weights as safetensors, for messages."""
    return f"quantbench {CONVERT} {shlex.quote(str(folder))}"


def _tensors(shard: Path) -> list[StoredTensor]:
    """The entries of a file's header, whose data must be there."""
    try:
        with shard.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            found = _entries(stream.read(min(length, _MAX_HEADER_BYTES)))
        size = shard.stat().st_size
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, struct.error) as error:
        raise UsageError(f"{shard}: is not a safetensors file ({error}); copy or download it again") from None
    except OSError as error:
        raise UsageError(f"{shard}: cannot be read ({error.strerror})") from error
    needed = 8 + length + max((entry["data_offsets"][1] for _, entry in found), default=0)
    if needed > size:
        raise UsageError(f"{shard}: is cut short: {needed} bytes are needed, the file has {size}; copy it again")
    return [
        StoredTensor(
            name=name,
            type=entry["dtype"],
            shape=tuple(entry["shape"]),
            size_bytes=entry["data_offsets"][1] - entry["data_offsets"][0],
        )
        for name, entry in found
    ]


def _entries(header: bytes) -> list[tuple[str, dict[str, Any]]]:
    entries = [(name, entry) for name, entry in json.loads(header).items() if name != "__metadata__"]
    for _, entry in entries:
        numbers = [*entry["shape"], *entry["data_offsets"], entry["data_offsets"][1]]
        if not isinstance(entry["dtype"], str) or not all(isinstance(number, int) for number in numbers):
            raise ValueError("a tensor without type, shape or place")
    return entries


def safe_view(folder: Path, view: Path) -> Path:
    """A folder of links to the files of `folder` from which nothing that loads it can run code.

    Python files and pickles are left out, and so is `auto_map`, which names the Python to load. What transformers 5
    calls otherwise in a tokenizer's configuration gets its name in transformers 4. Returns `view`, which must be new.
    """
    view.mkdir(parents=True)
    for file in sorted(folder.iterdir()):
        if not file.is_file() or file.suffix == _PYTHON or file.suffix in PICKLED:
            continue
        plain = _made_plain(file) if file.suffix == ".json" else None
        if plain is None:
            (view / file.name).symlink_to(file.resolve())
        else:
            write_json(view / file.name, plain)
    return view


def _made_plain(file: Path) -> dict[str, Any] | None:
    """The content of a configuration that has to be changed, else None."""
    if file.name.startswith("model.") or file.name in ("tokenizer.json", "vocab.json"):
        return None
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"{file}: is not JSON ({error}); copy or download it again") from None
    if not isinstance(content, dict):
        return None
    changed = {name: value for name, value in content.items() if name != "auto_map"}
    if changed.get("tokenizer_class") == "TokenizersBackend":
        changed["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(changed.get("extra_special_tokens"), list):
        changed["additional_special_tokens"] = changed.pop("extra_special_tokens")
    return None if changed == content else changed
