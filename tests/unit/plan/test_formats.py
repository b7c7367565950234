"""Formats against compute capabilities."""

from __future__ import annotations

import pytest

from bench.plan.formats import on_gpu


@pytest.mark.parametrize(
    ("words", "capability", "answer", "said"),
    [
        ("FP8 dynamic", 9.0, True, ""),
        ("FP8 dynamic", 8.9, True, ""),
        ("FP8 dynamic", 8.0, True, "weights only"),
        ("FP8 dynamic", 7.0, False, "needs compute capability 8.9, this is 7.0"),
        ("compressed-tensors-w8a8-fp", 8.0, True, "weights only"),
        ("fp8-dynamic-block128x128", 9.0, True, ""),
        ("INT8 W8A8 RTN", 7.5, True, ""),
        ("INT8 W8A8 SmoothQuant+GPTQ", 7.0, False, "INT8 W8A8 needs"),
        ("INT8 W8A8 RTN", 12.0, False, "no kernels from compute capability 10.0 on"),
        ("GPTQ W4A16", 7.5, True, ""),
        ("AWQ W4A16", 7.0, False, "integer weights"),
        ("awq-w4g128", 8.0, True, ""),
        ("compressed-tensors-w4a16g128", 7.0, False, "integer weights"),
        ("NVFP4", 10.0, True, ""),
        ("NVFP4", 9.0, True, "weights only"),
        ("NVFP4 W4A16", 9.0, True, ""),
        ("bitsandbytes NF4 double", 7.0, True, ""),
        ("Q4_K_M", 6.1, True, ""),
        ("BF16", None, True, ""),
        ("FP8 static", None, None, "unknown"),
    ],
)
def test_a_format_needs_its_kernels(words: str, capability: float | None, answer: bool | None, said: str) -> None:
    found = on_gpu(words, capability)
    assert found.answer is answer
    assert said in found.reason
    assert bool(found.reason) == bool(said)
