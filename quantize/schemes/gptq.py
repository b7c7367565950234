"""Scheme `gptq`: integer weights that make up for each other's rounding (GPTQ, arXiv:2210.17323), by llm-compressor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar

from bench.base.schema import schema
from quantize.schemes.hf import GroupedConfig
from quantize.schemes.llmcompressor import CalibratedConfig, grouped_bits, weight_only

_BITS = (4, 8)


class ActOrder(StrEnum):
    """The order in which columns are quantized: as they stand, or by activation.

    `static` keeps groups as they stand, so that it costs nothing while serving. Groups that follow the order are left
    to `gptqmodel` and `auto_gptq`: llm-compressor 0.14 refuses them.
    """

    none = "none"
    static = "static"


@schema("scheme", "gptq")
@dataclass(frozen=True, kw_only=True)
class GptqConfig(GroupedConfig, CalibratedConfig):
    """Integer weights of `bits` in groups, 16-bit activations. `damping`: a fraction of the Hessian's mean diagonal."""

    titled: ClassVar[frozenset[str]] = frozenset({"bits"})

    kind: str = "gptq"
    bits: int = 4
    act_order: ActOrder = ActOrder.static
    damping: float = 0.01
    symmetric: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bits not in _BITS:
            raise ValueError(f"scheme.bits={self.bits} must be one of {', '.join(map(str, _BITS))}")
        if not 0 < self.damping < 1:
            raise ValueError(f"scheme.damping={self.damping} must be above 0 and below 1")

    @property
    def title(self) -> str:
        return f"GPTQ W{self.bits}A16"

    @property
    def weight_bits(self) -> float:
        return grouped_bits(self.bits, self.group_size, symmetric=self.symmetric)

    def steps(self, settled: Mapping[str, Any]) -> list[dict[str, Any]]:
        return [
            {
                "modifier": "GPTQModifier",
                "config_groups": weight_only(self.bits, settled["group_size"], symmetric=self.symmetric),
                "actorder": None if self.act_order is ActOrder.none else self.act_order.value,
                "dampening_frac": self.damping,
            }
        ]
