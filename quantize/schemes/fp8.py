"""Scheme `fp8`: 8-bit floats (E4M3) for weights and activations, by llm-compressor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar

from bench.base.errors import UsageError
from bench.base.schema import schema
from quantize.layers import LayerInventory
from quantize.schemes.llmcompressor import CalibratedConfig, misfits, preset

_BLOCK = 128


class Fp8Activations(StrEnum):
    """How activations are scaled, and with them weights.

    `dynamic`: by token while serving, weights by row. `static`: one scale a layer from the calibration set, one for
    the weights. `block`: by token and 128 inputs while serving, weights by blocks of 128 × 128.
    """

    dynamic = "dynamic"
    static = "static"
    block = "block"


_PRESETS = {
    Fp8Activations.dynamic: "FP8_DYNAMIC",
    Fp8Activations.static: "FP8",
    Fp8Activations.block: "FP8_BLOCK",
}
#: One scale a layer for keys and one for values, from the calibration set.
_KV_CACHE = {"num_bits": 8, "type": "float", "strategy": "tensor", "dynamic": False, "symmetric": True}


@schema("scheme", "fp8")
@dataclass(frozen=True, kw_only=True)
class Fp8Config(CalibratedConfig):
    """FP8 weights and activations; with `kv_cache` also scales for an FP8 cache of keys and values."""

    titled: ClassVar[frozenset[str]] = frozenset({"activations", "kv_cache"})

    kind: str = "fp8"
    activations: Fp8Activations = Fp8Activations.dynamic
    kv_cache: bool = False

    @property
    def title(self) -> str:
        return f"FP8 {self.activations.value}{' KV' if self.kv_cache else ''}"

    @property
    def calibrates(self) -> bool:
        return self.kv_cache or self.activations is Fp8Activations.static

    @property
    def weight_bits(self) -> float:
        return 8.0

    def settle(self, layers: LayerInventory) -> dict[str, Any]:
        """Blocks must fill every layer: llm-compressor writes others too, which neither transformers nor vLLM loads."""
        if self.activations is not Fp8Activations.block:
            return {}
        found = misfits(layers, _BLOCK)
        if found:
            raise UsageError(
                f"scheme.activations=block: {len(found)} layers are no multiple of {_BLOCK} both ways, first "
                f"{found[0]}, and no engine loads such a checkpoint; use dynamic or static, or name the layers in "
                "scheme.ignore"
            )
        return {}

    def steps(self, settled: Mapping[str, Any]) -> list[dict[str, Any]]:
        more = {"kv_cache_scheme": _KV_CACHE} if self.kv_cache else {}
        return [preset(_PRESETS[self.activations], **more)]
