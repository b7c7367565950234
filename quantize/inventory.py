"""What a GGUF file really holds: tensor types, parameters, effective bits per weight, and tensors that fell back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from quantize.ggml_types import GGML_TYPES, GgmlType
from quantize.gguf_file import TensorInfo


@dataclass(frozen=True, kw_only=True)
class TypeCount:
    """All tensors of one type."""

    type: str
    tensors: int
    parameters: int
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class Inventory:
    """The tensors of a model by type, largest first; metadata and padding are not counted."""

    types: tuple[TypeCount, ...]

    @property
    def parameters(self) -> int:
        """Weights in all tensors, norms and embeddings included."""
        return sum(entry.parameters for entry in self.types)

    @property
    def effective_bits_per_weight(self) -> float | None:
        """Bits of packed tensor data per weight, over all tensors; None for a model without any."""
        size = sum(entry.size_bytes for entry in self.types)
        return 8 * size / self.parameters if self.parameters else None

    def as_list(self) -> list[dict[str, Any]]:
        """For manifests."""
        return [vars(entry) for entry in self.types]


def inventory(tensors: Sequence[TensorInfo]) -> Inventory:
    """Count `tensors` by type."""
    by_type: dict[str, list[TensorInfo]] = {}
    for tensor in tensors:
        by_type.setdefault(tensor.type.name, []).append(tensor)
    types = [
        TypeCount(
            type=name,
            tensors=len(members),
            parameters=sum(tensor.parameters for tensor in members),
            size_bytes=sum(tensor.size_bytes for tensor in members),
        )
        for name, members in by_type.items()
    ]
    return Inventory(types=tuple(sorted(types, key=lambda entry: (-entry.parameters, entry.type))))


#: Mixes whose name is no tensor type's → the type that most of their tensors have.
_MIXES = {"IQ3_M": "IQ3_S", "IQ3_XS": "IQ3_S", "IQ2_M": "IQ2_S", "MXFP4_MOE": "MXFP4"}


def ggml_type(name: str) -> GgmlType:
    """The main tensor type of a mix: `Q4_K_M` → Q4_K. Raises KeyError for an unknown name."""
    name = _MIXES.get(name, name)
    stem = name.removesuffix("_S").removesuffix("_M").removesuffix("_L") if "_K_" in name else name
    return {kind.name: kind for kind in GGML_TYPES.values()}[stem]


def fallback_warning(tensors: Sequence[TensorInfo], asked: str) -> str | None:
    """One line about matrices whose rows do not fit the blocks of the type `asked` for; None when all do.

    The output matrix is counted too, which `llama-quantize` leaves out of the number it prints.
    """
    block = ggml_type(asked).block
    fallen = [
        tensor for tensor in tensors if len(tensor.shape) > 1 and tensor.shape[0] % block and tensor.type.block != block
    ]
    if not fallen:
        return None
    widths = ", ".join(str(width) for width in sorted({tensor.shape[0] for tensor in fallen}))
    used = ", ".join(f"{count} {name}" for name, count in Counter(tensor.type.name for tensor in fallen).most_common())
    bits = inventory(tensors).effective_bits_per_weight
    return (
        f"{len(fallen)} of {len(tensors)} tensors fell back: rows of {widths} are no multiple of the {block} weights "
        f"in a block of {asked}, so other types were written ({used}); the model takes {bits:.2f} bits per weight"
    )
