"""Scheme `int8`: 8-bit integers for weights (by row) and activations (by token, while serving), by llm-compressor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar

from bench.base.schema import schema
from quantize.schemes.llmcompressor import CalibratedConfig, preset


class Int8Method(StrEnum):
    """How weights are chosen: rounded to nearest, or after SmoothQuant (arXiv:2211.10438) by GPTQ."""

    rtn = "rtn"
    smoothquant_gptq = "smoothquant_gptq"


_METHODS = {Int8Method.rtn: "RTN", Int8Method.smoothquant_gptq: "SmoothQuant+GPTQ"}


@schema("scheme", "int8")
@dataclass(frozen=True, kw_only=True)
class Int8Config(CalibratedConfig):
    """INT8 W8A8.

    `smoothing`: SmoothQuant's share α of the activations' outliers that moves into the weights, 0 … 1; `damping`:
    GPTQ's, as a fraction of the Hessian's mean diagonal. Round-to-nearest uses neither.
    """

    titled: ClassVar[frozenset[str]] = frozenset({"method"})

    kind: str = "int8"
    method: Int8Method = Int8Method.rtn
    smoothing: float = 0.8
    damping: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.smoothing <= 1:
            raise ValueError(f"scheme.smoothing={self.smoothing} must be between 0 and 1")
        if not 0 < self.damping < 1:
            raise ValueError(f"scheme.damping={self.damping} must be above 0 and below 1")
        if not self.calibrates:
            for name in ("smoothing", "damping"):
                if getattr(self, name) != type(self).__dataclass_fields__[name].default:
                    raise ValueError(f"scheme.{name} is of method smoothquant_gptq; drop it for {self.method}")

    @property
    def title(self) -> str:
        return f"INT8 W8A8 {_METHODS[self.method]}"

    @property
    def calibrates(self) -> bool:
        return self.method is Int8Method.smoothquant_gptq

    @property
    def weight_bits(self) -> float:
        return 8.0

    def steps(self, settled: Mapping[str, Any]) -> list[dict[str, Any]]:
        if self.method is Int8Method.rtn:
            return [preset("W8A8")]
        return [
            {"modifier": "SmoothQuantModifier", "smoothing_strength": self.smoothing},
            {"modifier": "GPTQModifier", "scheme": "W8A8", "targets": ["Linear"], "dampening_frac": self.damping},
        ]
