"""Scheme `bitsandbytes`: NF4, FP4 (QLoRA, arXiv:2305.14314) and LLM.int8() (arXiv:2208.07339) through transformers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar

from bench.base.schema import schema
from quantize.layers import LayerInventory
from quantize.schemes.hf import HfSchemeConfig


class BnbType(StrEnum):
    """4-bit NormalFloat and float in blocks of 64 weights, or 8-bit integers by row."""

    nf4 = "nf4"
    fp4 = "fp4"
    int8 = "int8"


@schema("scheme", "bitsandbytes")
@dataclass(frozen=True, kw_only=True)
class BitsandbytesConfig(HfSchemeConfig):
    """Weights of a type of bitsandbytes, 16-bit activations; `double_quant` quantizes the 4-bit types' scales too."""

    worker: ClassVar[str] = "bitsandbytes_worker"
    tool: ClassVar[str] = "bitsandbytes"
    titled: ClassVar[frozenset[str]] = frozenset({"type", "double_quant"})
    #: transformers makes one parameter of all experts of a block, and bitsandbytes replaces linear modules.
    sees_experts: ClassVar[bool] = False

    kind: str = "bitsandbytes"
    type: BnbType = BnbType.nf4
    double_quant: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.type is BnbType.int8 and self.double_quant:
            raise ValueError("scheme.double_quant is for nf4 and fp4; drop it for int8")

    @property
    def title(self) -> str:
        return f"bitsandbytes {self.type.value.upper()}{' double' if self.double_quant else ''}"

    @property
    def packing(self) -> str:
        return "bitsandbytes"

    @property
    def weight_bits(self) -> float:
        if self.type is BnbType.int8:
            return 8.0
        return 4.0 + (8 / 64 + 32 / (64 * 256) if self.double_quant else 32 / 64)

    def recipe(self, layers: LayerInventory, settled: Mapping[str, Any]) -> dict[str, Any]:
        if self.type is BnbType.int8:
            arguments: dict[str, Any] = {"load_in_8bit": True}
        else:
            arguments = {
                "load_in_4bit": True,
                "bnb_4bit_quant_type": self.type.value,
                "bnb_4bit_use_double_quant": self.double_quant,
                "bnb_4bit_compute_dtype": "bfloat16",
            }
        # transformers keeps an output head that shares its weights with the embedding, of which no header tells, only
        # where it is named here or where nothing is.
        kept = dict.fromkeys(["lm_head", *(layer.name for layer in layers.skipped if not layer.experts)])
        return {**arguments, "llm_int8_skip_modules": list(kept)}
