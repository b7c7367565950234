"""Scheme `awq`: integer weights after scaling the channels that activations make matter (AWQ, arXiv:2306.00978), by
llm-compressor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from bench.base.schema import schema
from quantize.schemes.hf import GroupedConfig
from quantize.schemes.llmcompressor import CalibratedConfig, grouped_bits, weight_only

_BITS = (4, 8)


@schema("scheme", "awq")
@dataclass(frozen=True, kw_only=True)
class AwqConfig(GroupedConfig, CalibratedConfig):
    """Integer weights of `bits` in groups, 16-bit activations.

    `zero_point`: groups are asymmetric; `duo_scaling`: scales are searched with activations and weights, else with
    activations only.
    """

    titled: ClassVar[frozenset[str]] = frozenset({"bits"})

    kind: str = "awq"
    bits: int = 4
    zero_point: bool = True
    duo_scaling: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bits not in _BITS:
            raise ValueError(f"scheme.bits={self.bits} must be one of {', '.join(map(str, _BITS))}")

    @property
    def title(self) -> str:
        return f"AWQ W{self.bits}A16"

    @property
    def weight_bits(self) -> float:
        return grouped_bits(self.bits, self.group_size, symmetric=not self.zero_point)

    def steps(self, settled: Mapping[str, Any]) -> list[dict[str, Any]]:
        groups = weight_only(self.bits, settled["group_size"], symmetric=not self.zero_point)
        return [
            {"modifier": "AWQModifier", "duo_scaling": self.duo_scaling},
            {"modifier": "QuantizationModifier", "config_groups": groups},
        ]
