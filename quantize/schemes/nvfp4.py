"""Scheme `nvfp4`: NVIDIA's 4-bit floats (E2M1) in groups of 16 with FP8 scales, by llm-compressor.

What it writes was never served here: that needs a Blackwell GPU, and nothing loads it on a CPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from bench.base.errors import UsageError
from bench.base.schema import not_identity, schema
from quantize.layers import LayerInventory, rank_inputs
from quantize.schemes.llmcompressor import CalibratedConfig, preset

_GROUP = 16


@schema("scheme", "nvfp4")
@dataclass(frozen=True, kw_only=True)
class Nvfp4Config(CalibratedConfig):
    """NVFP4 weights and activations, or with `weights_only` 16-bit activations."""

    titled: ClassVar[frozenset[str]] = frozenset({"weights_only"})

    kind: str = "nvfp4"
    weights_only: bool = False
    tensor_parallel: int = not_identity(1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tensor_parallel < 1:
            raise ValueError(f"scheme.tensor_parallel={self.tensor_parallel} must be 1 or more")

    @property
    def title(self) -> str:
        return "NVFP4 W4A16" if self.weights_only else "NVFP4"

    @property
    def calibrates(self) -> bool:
        return not self.weights_only

    @property
    def weight_bits(self) -> float:
        return 4 + 8 / _GROUP

    def settle(self, layers: LayerInventory) -> dict[str, Any]:
        for layer in layers.quantized:
            inputs = rank_inputs(layer, self.tensor_parallel)
            if inputs % _GROUP:
                raise UsageError(
                    f"scheme=nvfp4: {layer.name} has {inputs} inputs on a rank, which is no multiple of {_GROUP}; "
                    "name it in scheme.ignore"
                )
        return {"group_size": _GROUP}

    def _label(self, group_size: int | None) -> str:
        return super()._label(None)

    def notes(self, layers: LayerInventory, settled: Mapping[str, Any]) -> list[str]:
        return ["NVFP4 was written but never loaded by an engine: that needs a Blackwell GPU"]

    def steps(self, settled: Mapping[str, Any]) -> list[dict[str, Any]]:
        return [preset("NVFP4A16" if self.weights_only else "NVFP4")]
