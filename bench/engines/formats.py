"""What engines are given to serve: formats by how weights are packed, which schemes write them, how a checkpoint shows.

Finer than a scheme's `packing`, which says who can read a checkpoint at all: kernels differ inside one packing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Format:
    """What an engine is given: a file format, how weights are packed in it, and what is asked of it while loading.

    `schemes` are the names in conf/scheme that write it; `tried` of them verify an engine, each with overrides that
    make it short.
    """

    name: str
    words: str
    written_as: str = "hf"
    packing: str = "none"
    load_method: str = ""
    schemes: Sequence[str] = ()
    tried: Sequence[str] = ()


_SHORT = "scheme.calibration.samples=4 scheme.calibration.length=128"
_GGUF = (
    *("gguf", "gguf_f16", "gguf_bf16", "gguf_q8_0", "gguf_q6_k", "gguf_q5_k_m", "gguf_q4_k_m", "gguf_q4_k_m_imatrix"),
    *("gguf_q4_0", "gguf_q4_0_imatrix", "gguf_q3_k_m", "gguf_q3_k_m_imatrix", "gguf_iq4_xs", "gguf_iq4_xs_imatrix"),
    *("gguf_iq3_xxs_imatrix", "gguf_iq2_m_imatrix"),
)
_CT = "compressed-tensors"

FORMATS: tuple[Format, ...] = (
    Format(
        name="gguf",
        words="GGUF, any type",
        written_as="gguf",
        packing="gguf",
        schemes=_GGUF,
        tried=("gguf_f16", "gguf_q8_0", "gguf_q4_k_m", "gguf_q4_0", "gguf_iq4_xs"),
    ),
    Format(name="unquantized", words="BF16 or FP16", schemes=("bf16", "fp16"), tried=("bf16", "fp16")),
    Format(
        name="fp8_dynamic",
        words=f"{_CT} FP8, activations scaled by token",
        packing=_CT,
        schemes=("fp8_dynamic", "fp8"),
        tried=("fp8_dynamic",),
    ),
    Format(
        name="fp8_static",
        words=f"{_CT} FP8, activations with one scale",
        packing=_CT,
        schemes=("fp8_static",),
        tried=(f"fp8_static {_SHORT}",),
    ),
    Format(
        name="fp8_block",
        words=f"{_CT} FP8 in blocks of 128 × 128",
        packing=_CT,
        schemes=("fp8_block",),
        tried=("fp8_block",),
    ),
    Format(
        name="int8",
        words=f"{_CT} INT8 W8A8",
        packing=_CT,
        schemes=("int8", "int8_rtn", "int8_smoothquant_gptq"),
        tried=("int8_rtn",),
    ),
    Format(
        name="w4a16",
        words=f"{_CT} W4A16 (GPTQ, AWQ)",
        packing=_CT,
        schemes=("gptq_w4a16", "gptq", "awq_w4a16", "awq"),
        tried=(f"gptq_w4a16 {_SHORT}", f"awq_w4a16 {_SHORT}"),
    ),
    Format(
        name="w8a16",
        words=f"{_CT} W8A16 (GPTQ)",
        packing=_CT,
        schemes=("gptq_w8a16",),
        tried=(f"gptq_w8a16 {_SHORT}",),
    ),
    Format(
        name="nvfp4", words=f"{_CT} NVFP4", packing=_CT, schemes=("nvfp4",), tried=(f"nvfp4 {_SHORT}",)
    ),
    Format(
        name="bitsandbytes",
        words="bitsandbytes NF4 or INT8",
        packing="bitsandbytes",
        schemes=("nf4", "bnb_int8"),
        tried=("nf4", "bnb_int8"),
    ),
    Format(
        name="gptq",
        words="native GPTQ",
        packing="gptq",
        schemes=("gptqmodel_gptq", "auto_gptq"),
        tried=(f"gptqmodel_gptq {_SHORT}",),
    ),
    Format(
        name="awq",
        words="native AWQ",
        packing="awq",
        schemes=("gptqmodel_awq", "autoawq"),
        tried=(f"gptqmodel_awq {_SHORT}",),
    ),
    *(
        Format(name=f"load_{method}", words=f"{words} while loading", load_method=method, schemes=(f"load_{method}",),
               tried=(f"load_{method}",))
        for method, words in (
            ("fp8", "FP8"),
            ("bitsandbytes_nf4", "bitsandbytes NF4"),
            ("bitsandbytes_int8", "bitsandbytes INT8"),
            ("eetq", "EETQ INT8"),
        )
    ),
)  # fmt: skip


def format_named(name: str) -> Format:
    """The format of that name; raises KeyError."""
    return next(found for found in FORMATS if found.name == name)


def format_of_scheme(scheme: str) -> Format | None:
    """What a scheme of conf/scheme writes; None where that depends on the checkpoint, or nobody here knows it."""
    return next((found for found in FORMATS if scheme in found.schemes), None)


def format_of_checkpoint(folder: Path) -> str:
    """The name of the format that a Hugging Face folder is in, by its config.json; empty where that does not tell."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        declared: Mapping[str, Any] | None = config.get("quantization_config")
    except (OSError, ValueError, AttributeError):
        return ""
    if not declared:
        return "unquantized"
    method = declared.get("quant_method")
    if method in ("gptq", "awq", "bitsandbytes"):
        return str(method)
    if declared.get("weight_block_size"):
        return "fp8_block"
    groups = [group for group in (declared.get("config_groups") or {}).values() if isinstance(group, Mapping)]
    if "nvfp4" in str(declared.get("format", "")):
        return "nvfp4"
    return _compressed(groups[0]) if len(groups) == 1 else ""


def _compressed(group: Mapping[str, Any]) -> str:
    """Of one group of compressed-tensors."""
    weights, inputs = group.get("weights") or {}, group.get("input_activations")
    if weights.get("strategy") == "block":
        return "fp8_block"
    bits = weights.get("num_bits")
    if weights.get("type") == "float":
        if bits != 8:
            return ""
        return "fp8_static" if inputs and inputs.get("dynamic") is False else "fp8_dynamic"
    if weights.get("type") != "int":
        return ""
    if inputs:
        return "int8" if bits == 8 else ""
    return {4: "w4a16", 8: "w8a16"}.get(bits, "") if isinstance(bits, int) else ""
