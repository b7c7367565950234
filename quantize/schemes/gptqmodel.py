"""Scheme `gptqmodel`: GPTQ (arXiv:2210.17323) and AWQ (arXiv:2306.00978) in their own checkpoint formats, by GPTQModel.

The formats are those that AutoGPTQ and AutoAWQ wrote, which every engine for them reads.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar

from bench.base.errors import UsageError
from bench.base.schema import identity_when_changed, not_identity, schema
from quantize.layers import LayerInventory
from quantize.samples import SampleSetConfig
from quantize.schemes.base import Job
from quantize.schemes.hf import GroupedConfig
from quantize.schemes.llmcompressor import grouped_bits

_REGEX = "re:"
_IN_BLOCK = re.compile(r".*?\.\d+\.(.+)")
#: Outputs whose packed integers are aligned.
_PACKED = 32


class NativeMethod(StrEnum):
    """How weights are chosen, and the format they are packed in."""

    gptq = "gptq"
    awq = "awq"


class NativeActOrder(StrEnum):
    """GPTQ: the order in which columns are quantized.

    As they stand (`none`); by activation with groups that stay as they stand, which costs nothing while serving
    (`aware`, GPTQModel's group aware reordering); or by activation with groups that follow (`group`, `desc_act`),
    which serving pays for with a look-up.
    """

    none = "none"
    aware = "aware"
    group = "group"


_BITS = {NativeMethod.gptq: (2, 3, 4, 8), NativeMethod.awq: (4,)}
#: Fields that are of one method only.
_OF_METHOD = {NativeMethod.gptq: ("act_order", "damping", "symmetric"), NativeMethod.awq: ("clip",)}


@schema("scheme", "gptqmodel")
@dataclass(frozen=True, kw_only=True)
class GptqModelConfig(GroupedConfig):
    """Integer weights of `bits` in groups, 16-bit activations.

    GPTQ: `act_order`, `damping` (a fraction of the Hessian's mean diagonal) and `symmetric` groups. AWQ: groups always
    have zero points; `clip` also searches how far to clip every group's weights, which is very slow on a CPU.
    """

    worker: ClassVar[str] = "gptqmodel_worker"
    tool: ClassVar[str] = "GPTQModel"
    titled: ClassVar[frozenset[str]] = frozenset({"method", "bits"})

    kind: str = "gptqmodel"
    toolchain: str = not_identity("gptqmodel")
    method: NativeMethod = NativeMethod.gptq
    bits: int = 4
    act_order: NativeActOrder = NativeActOrder.aware
    damping: float = 0.05
    symmetric: bool = True
    clip: bool = False
    calibration: SampleSetConfig = identity_when_changed(default_factory=SampleSetConfig)  # noqa: RUF009 - a field specifier

    def __post_init__(self) -> None:
        super().__post_init__()
        allowed = _BITS[self.method]
        if self.bits not in allowed:
            raise ValueError(f"scheme.bits={self.bits} must be one of {', '.join(map(str, allowed))} for {self.method}")
        if not 0 < self.damping < 1:
            raise ValueError(f"scheme.damping={self.damping} must be above 0 and below 1")
        for method, names in _OF_METHOD.items():
            changed = [name for name in names if getattr(self, name) != type(self).__dataclass_fields__[name].default]
            if method is not self.method and changed:
                raise ValueError(f"scheme.{changed[0]} is of method {method}; drop it for {self.method}")

    @property
    def title(self) -> str:
        return f"GPTQModel {self.method.upper()} W{self.bits}A16"

    @property
    def weight_bits(self) -> float:
        # Both formats store zero points, whether they are used or not.
        return grouped_bits(self.bits, self.group_size, symmetric=False)

    @property
    def packing(self) -> str:
        return self.method.value

    @property
    def sample_set(self) -> SampleSetConfig | None:
        return self.calibration

    def settle(self, layers: LayerInventory) -> dict[str, Any]:
        """Groups, and where layers are ignored the names of the others inside their blocks."""
        for layer in layers.quantized:
            if layer.outputs % _PACKED:
                raise UsageError(
                    f"scheme=gptqmodel: {layer.name} has {layer.outputs} outputs, which is no multiple of {_PACKED}; "
                    "add it to scheme.ignore or choose another scheme"
                )
        return {**super().settle(layers), "inside": inside_blocks(layers) if self.ignore else None}

    def recipe(self, layers: LayerInventory, settled: Mapping[str, Any]) -> dict[str, Any]:
        common = {"method": self.method.value, "bits": self.bits, "group_size": settled["group_size"]}
        left_out: dict[str, Any] = {}
        if self.ignore:
            left_out = {"dynamic": {_skip(entry): {} for entry in self.ignore}, "inside": settled["inside"]}
        if self.method is NativeMethod.awq:
            return {**common, "sym": False, "clip": self.clip, **left_out}
        order = {"desc_act": self.act_order is NativeActOrder.group}
        order["act_group_aware"] = self.act_order is NativeActOrder.aware
        return {**common, "sym": self.symmetric, "damp_percent": self.damping, **order, **left_out}

    def notes(self, layers: LayerInventory, settled: Mapping[str, Any]) -> list[str]:
        return ["weights were clipped by search, which is very slow on a CPU"] if self.clip else []

    def options(self, scratch: Path) -> dict[str, Any]:
        return {"offload": str(scratch / "offload")}

    def environment(self, job: Job) -> dict[str, str]:
        """As many workers as GPTQModel starts by itself, but two at least: with the one it starts on two cores it dies.

        And packing in Python: its C++ for that would be compiled for minutes first.
        """
        workers = min(12, max(2, (len(os.sched_getaffinity(0)) + 1) // 2))
        own = {"GPTQMODEL_CPU_WORKERS": str(workers), "GPTQMODEL_DISABLE_PACK_EXT": "1"}
        return {**super().environment(job), **own}


def inside_blocks(layers: LayerInventory) -> list[str]:
    """Names inside a block of the layers that are quantized, the same for all blocks, as loaders want to be told.

    Raises UsageError where a layer is ignored in one block and not in another.
    """
    quantized = {found[1] for layer in layers.quantized if (found := _IN_BLOCK.fullmatch(layer.name))}
    for layer in layers.skipped:
        found = _IN_BLOCK.fullmatch(layer.name)
        if found and found[1] in quantized:
            raise UsageError(
                f"scheme.ignore: {layer.name} cannot stay while {found[1]} of other blocks is quantized, because "
                "loaders of this format are told it for all blocks alike; ignore it everywhere, or use "
                "scheme=gptq_w4a16"
            )
    return sorted(quantized)


def _skip(entry: str) -> str:
    """An ignore entry as GPTQModel and engines read it: a regex from the name's beginning, after a minus."""
    return f"-:{entry.removeprefix(_REGEX)}" if entry.startswith(_REGEX) else f"-:^{re.escape(entry)}$"
