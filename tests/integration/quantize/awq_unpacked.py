"""A plain checkpoint out of one in AutoAWQ's GEMM format, with numpy alone: for a transformers that cannot load AWQ.

Format: `qweight` (inputs, outputs / 8) and `qzeros` (groups, outputs / 8) hold eight 4-bit numbers in every 32-bit
integer, of which the lowest four bits are column 0, the next ones columns 2, 4, 6, 1, 3, 5, 7 of the eight; `scales`
(groups, outputs) are 16-bit floats. A weight is (number - zero point) × scale.
"""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Tensors = dict[str, NDArray[Any]]

ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
_TYPES = {"F32": np.float32, "F16": np.float16, "I32": np.int32}


def unpack(folder: Path, target: Path) -> Path:
    """Write the checkpoint of `folder` into the new folder `target`, with 32-bit floats for packed weights."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    packed = config.pop("quantization_config")
    assert (packed["quant_method"], packed["version"].lower(), packed["bits"]) == ("awq", "gemm", 4)
    target.mkdir(parents=True)
    tensors = read(folder / "model.safetensors")
    names = [name.removesuffix(".qweight") for name in tensors if name.endswith(".qweight")]
    plain: Tensors = {name: value for name, value in tensors.items() if name.rpartition(".")[0] not in names}
    for name in names:
        parts = (tensors[f"{name}.{part}"] for part in ("qweight", "qzeros", "scales"))
        plain[f"{name}.weight"] = weight(*parts, group_size=packed["group_size"])
    write(target / "model.safetensors", {name: value.astype(np.float32) for name, value in plain.items()})
    config = {name: "float32" if name in ("dtype", "torch_dtype") else value for name, value in config.items()}
    (target / "config.json").write_text(json.dumps(config), encoding="utf-8")
    for file in folder.glob("tokenizer*"):
        shutil.copyfile(file, target / file.name)
    return target


def weight(
    qweight: NDArray[Any], qzeros: NDArray[Any], scales: NDArray[Any], *, group_size: int
) -> NDArray[np.float32]:
    """The matrix (outputs, inputs) of a packed layer."""
    groups = np.arange(qweight.shape[0]) // group_size
    zeros, factors = numbers(qzeros)[groups], scales.astype(np.float32)[groups]
    return np.ascontiguousarray(((numbers(qweight) - zeros) * factors).T)


def numbers(packed: NDArray[Any]) -> NDArray[np.float32]:
    """The 4-bit numbers of (rows, columns / 8) as (rows, columns)."""
    found = np.empty((*packed.shape, len(ORDER)), dtype=np.float32)
    for place, column in enumerate(ORDER):
        found[..., column] = (packed.view(np.uint32) >> np.uint32(4 * place)) & np.uint32(15)
    return found.reshape(packed.shape[0], -1)


def read(path: Path) -> Tensors:
    """All tensors of a safetensors file."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header: dict[str, Any] = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    found: Tensors = {}
    for name, entry in header.items():
        start, end = (8 + length + offset for offset in entry["data_offsets"])
        found[name] = np.frombuffer(data[start:end], dtype=_TYPES[entry["dtype"]]).reshape(entry["shape"])
    return found


def write(path: Path, tensors: Mapping[str, NDArray[np.float32]]) -> None:
    """A safetensors file of 32-bit floats."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, value in tensors.items():
        start, end = end, end + value.nbytes
        header[name] = {"dtype": "F32", "shape": list(value.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(b"".join([struct.pack("<Q", len(text)), text, *(value.tobytes() for value in tensors.values())]))
