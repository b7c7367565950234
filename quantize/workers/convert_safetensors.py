"""Worker of the llmcompressor toolchain: pickled weights as safetensors, file by file.

A pickle is read by torch's reader for tensors alone, which runs nothing of it. What was written is read back and
compared byte by byte.
"""

import json
import pickle
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors import safe_open
from safetensors.torch import save, save_file

Progress = Callable[..., None]
Tensors = dict[str, torch.Tensor]

_INDEX = "model.safetensors.index.json"
#: How files begin that torch.save wrote: a zip archive, before torch 1.6 a bare pickle.
_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"
_GLOBAL = re.compile(r"(?:GLOBAL|global) ([\w.]+\.[\w.]+)")
_INSTRUCTION = re.compile(r"Unsupported operand (\d+)")
#: What the input embeddings are called that an output matrix may be tied to.
_EMBEDDINGS = ("embed", "wte")


class ConversionError(Exception):
    """A failure with a kind of its own for the reply."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def run(request: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Write each of `files` (`path` → `name`) into the folder `out`, and an index where there are several.

    With `tied` an output matrix that is the input embeddings is left out, as transformers does: whoever loads the
    checkpoint ties them again.
    """
    out = Path(request["out"])
    placed: dict[str, str] = {}
    cloned: list[str] = []
    left_out: list[str] = []
    size = 0
    for index, file in enumerate(request["files"]):
        source, name = Path(file["path"]), file["name"]
        found = tensors_of(load(source), source.name)
        refuse_repeated(found, placed, source.name)
        whole, own_clones, own_ties = unshared(found, tied=request["tied"])
        target = out / name
        save_file(whole, target, metadata={"format": "pt"})
        verify(target, {kept: found[kept] for kept in whole})
        placed |= dict.fromkeys(whole, name)
        cloned += own_clones
        left_out += own_ties
        size += sum(tensor.numel() * tensor.element_size() for tensor in whole.values())
        progress(index + 1, len(request["files"]), "files", name)
    if len(request["files"]) > 1:
        table = {"metadata": {"total_size": size}, "weight_map": dict(sorted(placed.items()))}
        (out / _INDEX).write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")
    return {
        "tensors": len(placed),
        "size_bytes": size,
        "cloned": sorted(cloned),
        "left_out": sorted(left_out),
        "versions": {"torch": torch.__version__, "safetensors": safetensors.__version__},
    }


def load(path: Path) -> Any:
    """What a file of torch.save holds, its tensors mapped from the disk where its format allows; runs no code of it."""
    with path.open("rb") as stream:
        begins = stream.read(4)
    if not begins.startswith((_ZIP, _PICKLE)):
        raise ConversionError(
            "usage",
            f"{path.name}: was not written by torch.save (a Git LFS pointer, a page of a site?); fetch it again",
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the pickle's protocol, which the reader then refuses or not
            return torch.load(path, map_location="cpu", weights_only=True, mmap=begins == _ZIP)
    except pickle.UnpicklingError as error:
        raise ConversionError(
            "usage", f"{path.name}: holds code or objects, not only tensors: {refused(error)}; nothing of it was run"
        ) from None
    except (RuntimeError, EOFError, LookupError, ValueError, TypeError, AttributeError) as error:
        if "allocate memory" in str(error):
            raise ConversionError("out_of_memory", f"{path.name}: {str(error).splitlines()[0][:200]}") from None
        said = (str(error).splitlines() or [""])[0][:200] or type(error).__name__
        raise ConversionError(
            "usage", f"{path.name}: torch cannot read it ({said}); copy or download it again"
        ) from None


def refused(error: Exception) -> str:
    """What the reader would not load, in a few words."""
    text = str(error)
    named = _GLOBAL.search(text)
    if named:
        return named[1]
    instruction = _INSTRUCTION.search(text)
    if instruction:
        return f"instruction {instruction[1]} of its pickle, which no checkpoint needs"
    said = text.partition("WeightsUnpickler error:")[2] or text
    return " ".join(said.split())[:200]


def tensors_of(content: Any, file: str) -> Tensors:
    """The content as tensors by name; raises ConversionError for anything else in it."""
    if not isinstance(content, dict):
        raise ConversionError(
            "usage", f"{file}: holds code or objects, not only tensors: a {type(content).__name__} in place of names"
        )
    found: Tensors = {}
    for name, value in content.items():
        if not isinstance(name, str) or type(value) not in (torch.Tensor, torch.nn.Parameter):
            what = f"'{name}' is a {type(value).__name__}"
            raise ConversionError("usage", f"{file}: holds code or objects, not only tensors: {what}")
        found[name] = value.detach()
        refuse_unstorable(name, found[name], file)
    if not found:
        raise ConversionError("usage", f"{file}: holds no tensors; check the checkpoint")
    return found


def refuse_unstorable(name: str, tensor: torch.Tensor, file: str) -> None:
    """Raise ConversionError for a tensor that safetensors has no form for."""
    what = None
    if tensor.layout is not torch.strided:
        what = str(tensor.layout)
    elif tensor.device.type != "cpu" or tensor.is_quantized:
        what = f"{tensor.dtype} on {tensor.device.type}"
    else:
        try:
            save({"": torch.empty(0, dtype=tensor.dtype)})
        except (KeyError, ValueError, TypeError, safetensors.SafetensorError):
            what = str(tensor.dtype)
    if what is not None:
        raise ConversionError("usage", f"{file}: '{name}' is {what}, which safetensors cannot hold; convert it first")


def refuse_repeated(found: Tensors, placed: dict[str, str], file: str) -> None:
    """Raise ConversionError where two files hold a tensor of one name: parts for several GPUs, to be joined first."""
    repeated = next((name for name in found if name in placed), None)
    if repeated is not None:
        raise ConversionError(
            "usage",
            f"{file}: '{repeated}' is in another file too, so these are parts for several GPUs; join them with the "
            "model's own script",
        )


def unshared(found: Tensors, *, tied: bool) -> tuple[Tensors, list[str], list[str]]:
    """Tensors with memory of their own, as safetensors wants them, names of those that were copied for it, and names
    of tied output matrices, which are left out where that was said."""
    owners: dict[int, str] = {}
    whole: Tensors = {}
    cloned: list[str] = []
    left_out = [name for name in found if tied and is_tied_head(name, found)]
    for name in (name for name in found if name not in left_out):
        tensor = found[name].contiguous()
        place = tensor.untyped_storage().data_ptr()
        if tensor.numel() and owners.setdefault(place, name) != name:
            tensor = tensor.clone()
            cloned.append(name)
        whole[name] = tensor
    return whole, cloned, left_out


def is_tied_head(name: str, found: Tensors) -> bool:
    """Whether a tensor is the output matrix and at the same time the input embeddings."""
    if name.split(".")[-2:] != ["lm_head", "weight"]:
        return False
    head = view_of(found[name])
    return any(
        view_of(tensor) == head and any(word in other for word in _EMBEDDINGS)
        for other, tensor in found.items()
        if other != name
    )


def view_of(tensor: torch.Tensor) -> tuple[Any, ...]:
    """What makes two tensors the same numbers in the same memory."""
    return tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride()


def verify(path: Path, expected: Tensors) -> None:
    """Raise ConversionError unless the file holds just these tensors, byte by byte."""
    with safe_open(path, framework="pt") as opened:
        if set(opened.keys()) != set(expected):
            raise ConversionError("error", f"{path.name}: other tensors were read back than were written")
        for name, tensor in expected.items():
            back = opened.get_tensor(name)
            same = back.dtype == tensor.dtype and back.shape == tensor.shape
            if not same or not torch.equal(raw(back), raw(tensor)):
                raise ConversionError("error", f"{path.name}: '{name}' was read back otherwise than it was written")


def raw(tensor: torch.Tensor) -> torch.Tensor:
    """The bytes: not a number is equal to itself here."""
    return tensor.contiguous().reshape(-1).view(torch.uint8)
