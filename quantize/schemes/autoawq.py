"""Scheme `autoawq`: AWQ (arXiv:2306.00978) by the archived AutoAWQ, on the transformers 4 that it was left behind with.

On a CPU AutoAWQ 0.2.9 writes a model of noise and says nothing; the worker repairs it (`patched`). GPTQModel and
llm-compressor are the maintained ways to the same kind of checkpoint.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from bench.base.errors import UsageError
from bench.base.schema import identity_when_changed, not_identity, schema
from quantize.layers import LayerInventory
from quantize.samples import SampleSetConfig
from quantize.schemes.hf import GroupedConfig
from quantize.schemes.llmcompressor import grouped_bits
from quantize.transformers4 import make_readable

_BITS = 4
#: Outputs that are packed into one integer.
_PACKED = 32 // _BITS
#: Outputs whose clipping is searched together.
_CLIPPED = 64
_IN_BLOCK = re.compile(r".*?\.\d+\.(.+)")


@schema("scheme", "autoawq")
@dataclass(frozen=True, kw_only=True)
class AutoAwqConfig(GroupedConfig):
    """4-bit integer weights in groups with zero points, 16-bit activations, in AutoAWQ's GEMM format.

    `duo_scaling`: scales are searched with activations and weights, else with activations only; `clip`: also search how
    far to clip weights. `patched`: repair what breaks AutoAWQ on a CPU; false is for tests that need the broken model.
    """

    worker: ClassVar[str] = "autoawq_worker"
    tool: ClassVar[str] = "AutoAWQ"
    titled: ClassVar[frozenset[str]] = frozenset()
    whole_rows: ClassVar[bool] = False

    kind: str = "autoawq"
    toolchain: str = not_identity("autoawq")
    duo_scaling: bool = True
    clip: bool = True
    patched: bool = True
    calibration: SampleSetConfig = identity_when_changed(default_factory=SampleSetConfig)  # noqa: RUF009 - a field specifier

    @property
    def title(self) -> str:
        return f"AutoAWQ W{_BITS}A16"

    @property
    def weight_bits(self) -> float:
        return grouped_bits(_BITS, self.group_size, symmetric=False)

    @property
    def packing(self) -> str:
        return "awq"

    @property
    def sample_set(self) -> SampleSetConfig | None:
        return self.calibration

    def settle(self, layers: LayerInventory) -> dict[str, Any]:
        """Groups, and what AutoAWQ calls the layers that are left out."""
        for layer in layers.quantized:
            if layer.outputs % _PACKED:
                raise UsageError(
                    f"scheme=autoawq: {layer.name} has {layer.outputs} outputs, which is no multiple of {_PACKED}; add "
                    "it to scheme.ignore or choose another scheme"
                )
            if self.clip and layer.outputs % _CLIPPED:
                raise UsageError(
                    f"scheme=autoawq: clipping goes by {_CLIPPED} outputs at a time and {layer.name} has "
                    f"{layer.outputs} outputs; use scheme.clip=false"
                )
        return {**super().settle(layers), "left_out": left_out(layers) if self.ignore else None}

    def recipe(self, layers: LayerInventory, settled: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "w_bit": _BITS,
            "q_group_size": settled["group_size"],
            "zero_point": True,
            "version": "GEMM",
            "modules_to_not_convert": settled["left_out"],
            "duo_scaling": self.duo_scaling,
            "apply_clip": self.clip,
            "patched": self.patched,
        }

    def notes(self, layers: LayerInventory, settled: Mapping[str, Any]) -> list[str]:
        if self.patched:
            return []
        return ["AutoAWQ ran as it is published (patched=false): made on a CPU the model is corrupt; for tests only"]

    def prepare(self, view: Path) -> None:
        make_readable(view)


def left_out(layers: LayerInventory) -> list[str]:
    """Parts of names by which AutoAWQ leaves out exactly the skipped layers; raises UsageError where there are none.

    It compares them with a layer's name inside its block, the same for all blocks.
    """
    inside = {layer.name: found[1] for layer in layers.skipped if (found := _IN_BLOCK.fullmatch(layer.name))}
    parts = sorted(set(inside.values()))
    for layer in layers.quantized:
        found = _IN_BLOCK.fullmatch(layer.name)
        if found and any(part in found[1] for part in parts):
            raise UsageError(
                f"scheme.ignore: AutoAWQ leaves layers out of all blocks or of none, and by parts of their names, so "
                f"{layer.name} cannot be quantized beside them; ignore it too, or use scheme=awq_w4a16"
            )
    return parts
