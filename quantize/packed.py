"""What an already quantized checkpoint says of itself: its format's label, and the weights packed in its tensors.

Formats: `quantization_config` of config.json as transformers, AutoAWQ, GPTQModel, compressed-tensors and bitsandbytes
write it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.base.errors import UsageError
from quantize.checkpoint import StoredTensor, read_tensors

_UNSAFE = re.compile(r"[^a-z0-9.+]+")
_MAX_LABEL = 60
#: Ends of the names of tensors that belong to a packed one: scales, zero points, codebooks, shapes.
_AUXILIARY = re.compile(
    r"(\.(qzeros|scales|g_idx|SCB|weight_format|absmax|quant_map|nested_absmax|nested_quant_map|weight_scale(_inv|_2)?"
    r"|weight_zero_point|weight_shape|weight_g_idx|weight_global_scale|input_(global_)?scale|input_zero_point|[kv]_scale)"
    r"|\.quant_state\.\w+)$"
)
_PACKED = re.compile(r"\.(qweight|weight_packed)$")
_BITS_OF = {"I32": 32, "I64": 64, "I8": 8, "U8": 8, "I16": 16}


@dataclass(frozen=True, kw_only=True)
class Contents:
    """Weights of a packed checkpoint. `types`: rows as in manifests; scales and the like hold bytes but no weights."""

    parameters: int
    size_bytes: int
    types: Sequence[dict[str, Any]]

    @property
    def effective_bits_per_weight(self) -> float | None:
        """All bytes of all tensors, scales included, per weight."""
        return 8 * self.size_bytes / self.parameters if self.parameters else None


def read_config(folder: Path) -> dict[str, Any]:
    """`quantization_config` of a checkpoint; raises UsageError where there is none or it says no method."""
    file = folder / "config.json"
    try:
        whole = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"{file}: is not JSON ({error}); copy or download it again") from None
    found = whole.get("quantization_config") if isinstance(whole, dict) else None
    if not isinstance(found, dict):
        raise UsageError(
            f"{file}: has no quantization_config, so the checkpoint is not quantized; choose a scheme that quantizes it"
        )
    if not isinstance(method_of(found), str):
        raise UsageError(f"{file}: its quantization_config names no quant_method; save the model again")
    return found


def label_of(config: Mapping[str, Any]) -> str:
    """What reports call the format: `awq-w4g128`, `fp8-dynamic`, `compressed-tensors-w4a16g128`, `bitsandbytes-nf4`."""
    method = str(method_of(config))
    describe = {"compressed-tensors": _compressed, "bitsandbytes": _bitsandbytes, "fp8": _fp8}.get(method, _grouped)
    said = f"{method}-{describe(config)}"
    return _UNSAFE.sub("-", said.lower()).strip("-")[:_MAX_LABEL]


def contents(folder: Path, config: Mapping[str, Any]) -> Contents:
    """Count weights from the headers; no weights are read. Raises UsageError for a damaged file."""
    bits = _bits(config)
    rows: dict[str, dict[str, Any]] = {}
    for tensor in read_tensors(folder, "*.safetensors"):
        row = rows.setdefault(tensor.type, {"type": tensor.type, "tensors": 0, "parameters": 0, "size_bytes": 0})
        row["tensors"] += 1
        row["parameters"] += _weights(tensor, bits, four_bit=bool(config.get("load_in_4bit")))
        row["size_bytes"] += tensor.size_bytes
    types = sorted(rows.values(), key=lambda row: (-row["parameters"], row["type"]))
    return Contents(
        parameters=sum(row["parameters"] for row in types),
        size_bytes=sum(row["size_bytes"] for row in types),
        types=types,
    )


def _weights(tensor: StoredTensor, bits: int | None, *, four_bit: bool) -> int:
    """Weights a tensor holds: many in one integer where it is packed, none where it only helps another."""
    if _AUXILIARY.search(tensor.name):
        return 0
    width = _BITS_OF.get(tensor.type)
    if width and bits and _PACKED.search(tensor.name):
        return tensor.count * width // bits
    if four_bit and tensor.type in ("U8", "I8") and tensor.name.endswith(".weight"):
        return tensor.count * 2
    return tensor.count


def method_of(config: Mapping[str, Any]) -> Any:
    """`quant_method`; bitsandbytes did not always name itself."""
    named = config.get("quant_method")
    return "bitsandbytes" if named is None and ("load_in_4bit" in config or "load_in_8bit" in config) else named


def _groups(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    groups = config.get("config_groups")
    found = list(groups.values()) if isinstance(groups, dict) else []
    return [group for group in found if isinstance(group, dict)]


def _bits(config: Mapping[str, Any]) -> int | None:
    """Bits of a packed weight; None where the config does not say."""
    groups = _groups(config)
    weights = (groups[0].get("weights") or {}) if groups else {}
    bits = weights.get("num_bits") if groups else config.get("bits", config.get("w_bit"))
    return bits if isinstance(bits, int) and 0 < bits <= 16 else None


def _grouped(config: Mapping[str, Any]) -> str:
    bits = _bits(config)
    size = config.get("group_size", config.get("q_group_size"))
    return "" if bits is None else f"w{bits}{_group(size)}"


def _group(size: Any) -> str:
    """Weights that share a scale; -1 is a whole row."""
    return f"g{size}" if isinstance(size, int) and size > 0 else ""


def _compressed(config: Mapping[str, Any]) -> str:
    """Bits of weights and activations in the first group, `fp` where they are floats; a mix says so."""
    groups = _groups(config)
    if not groups:
        return ""
    weights, inputs = groups[0].get("weights") or {}, groups[0].get("input_activations") or {}
    kind = "-fp" if weights.get("type") == "float" else ""
    said = f"w{weights.get('num_bits', 16)}a{inputs.get('num_bits', 16)}{_group(weights.get('group_size'))}{kind}"
    return f"{said}-mixed" if len(groups) > 1 else said


def _bitsandbytes(config: Mapping[str, Any]) -> str:
    if config.get("load_in_4bit"):
        double = "-double" if config.get("bnb_4bit_use_double_quant") else ""
        return f"{config.get('bnb_4bit_quant_type', 'fp4')}{double}"
    return "int8"


def _fp8(config: Mapping[str, Any]) -> str:
    block = config.get("weight_block_size")
    blocks = f"-block{'x'.join(str(size) for size in block)}" if isinstance(block, list) else ""
    return f"{config.get('activation_scheme', 'dynamic')}{blocks}"
