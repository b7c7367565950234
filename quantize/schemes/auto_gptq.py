"""Scheme `auto_gptq`: GPTQ (arXiv:2210.17323) by the archived AutoGPTQ, which quantizes on NVIDIA GPUs only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar

from bench.base.errors import UsageError
from bench.base.schema import identity_when_changed, not_identity, schema
from quantize.layers import LayerInventory
from quantize.samples import SampleSetConfig
from quantize.schemes.hf import GroupedConfig
from quantize.schemes.llmcompressor import grouped_bits
from quantize.transformers4 import make_readable

_BITS = (2, 3, 4, 8)
#: Outputs whose zero points share integers, whatever the bits.
_PACKED = 32
_GPU_ONLY = "scheme=auto_gptq: AutoGPTQ quantizes on an NVIDIA GPU only"
_INSTEAD = "use scheme=gptqmodel_gptq, which writes the same format, or scheme=gptq_w4a16"


class AutoGptqActOrder(StrEnum):
    """The order in which columns are quantized: as they stand, or by activation.

    `static` keeps groups as they stand; `group` lets them follow the order, which serving pays for with a look-up.
    """

    none = "none"
    static = "static"
    group = "group"


@schema("scheme", "auto_gptq")
@dataclass(frozen=True, kw_only=True)
class AutoGptqConfig(GroupedConfig):
    """Integer weights of `bits` in groups, 16-bit activations. `damping`: a fraction of the Hessian's mean diagonal.

    It knows each architecture's layers by itself, so that `ignore` is refused.
    """

    worker: ClassVar[str] = "auto_gptq_worker"
    tool: ClassVar[str] = "AutoGPTQ"
    titled: ClassVar[frozenset[str]] = frozenset({"bits"})
    without_gpu: ClassVar[str] = f"{_GPU_ONLY}; {_INSTEAD}"

    kind: str = "auto_gptq"
    toolchain: str = not_identity("autoawq")
    bits: int = 4
    act_order: AutoGptqActOrder = AutoGptqActOrder.none
    damping: float = 0.01
    symmetric: bool = True
    calibration: SampleSetConfig = identity_when_changed(default_factory=SampleSetConfig)  # noqa: RUF009 - a field specifier

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bits not in _BITS:
            raise ValueError(f"scheme.bits={self.bits} must be one of {', '.join(map(str, _BITS))}")
        if not 0 < self.damping < 1:
            raise ValueError(f"scheme.damping={self.damping} must be above 0 and below 1")
        if self.ignore:
            raise ValueError("scheme.ignore: AutoGPTQ cannot leave layers out; use scheme=gptqmodel_gptq")

    @property
    def title(self) -> str:
        return f"AutoGPTQ W{self.bits}A16"

    @property
    def weight_bits(self) -> float:
        return grouped_bits(self.bits, self.group_size, symmetric=False)

    @property
    def packing(self) -> str:
        return "gptq"

    @property
    def sample_set(self) -> SampleSetConfig | None:
        return self.calibration

    def check_machine(self) -> None:
        from bench.toolchains.config import Accelerator, load_toolchain_config

        if load_toolchain_config(self.toolchain).accelerator is Accelerator.cpu:
            raise UsageError(f"{_GPU_ONLY}, and toolchain {self.toolchain} is for CPUs; {_INSTEAD}")

    def settle(self, layers: LayerInventory) -> dict[str, Any]:
        for layer in layers.quantized:
            if layer.outputs % _PACKED:
                raise UsageError(
                    f"scheme=auto_gptq: {layer.name} has {layer.outputs} outputs, which is no multiple of {_PACKED}; "
                    "choose another scheme"
                )
        return super().settle(layers)

    def recipe(self, layers: LayerInventory, settled: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "bits": self.bits,
            "group_size": settled["group_size"],
            "damp_percent": self.damping,
            "desc_act": self.act_order is not AutoGptqActOrder.none,
            "static_groups": self.act_order is AutoGptqActOrder.static,
            "sym": self.symmetric,
        }

    def prepare(self, view: Path) -> None:
        make_readable(view)
