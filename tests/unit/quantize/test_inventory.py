from __future__ import annotations

import pytest

from quantize.ggml_types import GGML_TYPES
from quantize.gguf_file import TensorInfo
from quantize.inventory import fallback_warning, ggml_type, inventory
from quantize.schemes.gguf import GgufType

BY_NAME = {kind.name: kind for kind in GGML_TYPES.values()}


def tensor(name: str, shape: tuple[int, ...], kind: str) -> TensorInfo:
    return TensorInfo(name=name, shape=shape, type=BY_NAME[kind], offset=0)


def test_counts_and_effective_bits() -> None:
    found = inventory([tensor("a", (64, 2), "Q8_0"), tensor("b", (64, 1), "Q8_0"), tensor("norm", (64,), "F32")])
    assert found.as_list() == [
        {"type": "Q8_0", "tensors": 2, "parameters": 192, "size_bytes": 6 * 34},
        {"type": "F32", "tensors": 1, "parameters": 64, "size_bytes": 256},
    ]
    assert found.parameters == 256
    assert found.effective_bits_per_weight == pytest.approx(8 * (204 + 256) / 256)
    assert inventory([]).effective_bits_per_weight is None


def test_fallback_names_widths_and_what_was_written() -> None:
    tensors = [
        tensor("down", (512, 4), "Q4_K"),
        tensor("up", (576, 4), "Q5_0"),
        tensor("embedding", (576, 8), "Q8_0"),
        tensor("norm", (576,), "F32"),
    ]
    warning = fallback_warning(tensors, "Q4_K_M")
    assert warning is not None
    assert warning.startswith("2 of 4 tensors fell back: rows of 576 are no multiple of the 256 weights")
    assert "1 Q5_0, 1 Q8_0" in warning
    assert fallback_warning(tensors[2:], "Q8_0") is None
    assert fallback_warning(tensors, "F16") is None


def test_mixes_with_larger_types_are_no_fallback() -> None:
    assert fallback_warning([tensor("a", (512, 4), "Q6_K"), tensor("b", (256, 4), "Q4_K")], "Q4_K_M") is None


@pytest.mark.parametrize("asked", list(GgufType))
def test_every_type_names_a_tensor_type(asked: GgufType) -> None:
    assert ggml_type(asked.value).name.startswith(asked.value[:3])
