"""Which compute capability a weight format needs for kernels of its own on NVIDIA GPUs.

Sources, as read on 2026-11-25: vLLM's documentation, «Quantization / Supported Hardware» (v0.15.1: AWQ, Marlin, INT8,
bitsandbytes, GGUF by architecture; from 7.5 on AWQ and GPTQ both), «FP8 W8A8» (v0.32.0: 8.9, weight-only from 7.5),
«INT8 W8A8» (latest: from 7.5, not from 10.0 on), and llm-compressor's «fp4 Quantization with NVFP4» (stable:
weight-only below 10.0). Volta is 7.0, Turing 7.5, Ampere 8.0 and 8.6, Ada 8.9, Hopper 9.0, Blackwell 10.0 and 12.0.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class FormatNeeds:
    """Formats whose words fit `pattern`: `least` computes them as they are, `weight_only` with 16-bit activations.

    `below`: the capability from which on there are no kernels any more. None: no such bound.
    """

    name: str
    pattern: re.Pattern[str]
    least: float
    weight_only: float | None = None
    below: float | None = None


def _needs(name: str, pattern: str, least: float, **bounds: float) -> FormatNeeds:
    return FormatNeeds(name=name, pattern=re.compile(pattern, re.IGNORECASE), least=least, **bounds)


#: The first that fits counts. Words are labels: of schemes («FP8 dynamic»), and what checkpoints say («awq-w4g128»).
FORMATS: tuple[FormatNeeds, ...] = (
    _needs("NVFP4 weights", r"nvfp4 w4a16|w4a16g16-fp", 7.5),
    _needs("NVFP4", r"nvfp4|w4a4g16-fp", 10.0, weight_only=7.5),
    _needs("FP8 W8A8", r"fp8|w8a8\S*-fp", 8.9, weight_only=7.5),
    _needs("INT8 W8A8", r"w8a8", 7.5, below=10.0),
    _needs("bitsandbytes", r"bitsandbytes", 7.0),
    _needs("integer weights", r"awq|gptq|w\d+a16", 7.5),
)


@dataclass(frozen=True, kw_only=True)
class FormatAnswer:
    """Whether a GPU computes a format; None: nobody says. `reason` is empty only for a plain yes."""

    answer: bool | None
    reason: str = ""


def on_gpu(words: str, capability: float | None) -> FormatAnswer:
    """Whether a GPU of compute `capability` has kernels for the format that `words` tell."""
    needs = next((needs for needs in FORMATS if needs.pattern.search(words)), None)
    if needs is None:
        return FormatAnswer(answer=True)
    if capability is None:
        return FormatAnswer(
            answer=None, reason=f"{needs.name} needs compute capability {needs.least}, the GPU's is unknown"
        )
    if needs.below is not None and capability >= needs.below:
        return FormatAnswer(
            answer=False,
            reason=f"{needs.name} has no kernels from compute capability {needs.below} on, this is {capability}",
        )
    if capability >= needs.least:
        return FormatAnswer(answer=True)
    wanted = f"{needs.name} needs compute capability {needs.least}, this is {capability}"
    if needs.weight_only is not None and capability >= needs.weight_only:
        return FormatAnswer(answer=True, reason=f"weights only, with 16-bit activations: {wanted}")
    return FormatAnswer(answer=False, reason=wanted)
