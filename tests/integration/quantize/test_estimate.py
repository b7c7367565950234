"""Sizes told from headers alone, against llama.cpp itself: what it would write, and what it wrote."""

from __future__ import annotations

import re
import struct
import subprocess
from pathlib import Path

import pytest

from quantize.estimate import estimate
from quantize.gguf_file import read_gguf
from quantize.gguf_mix import MixModel, MixTensor, mix_types
from quantize.schemes.gguf import NEED_IMATRIX, GgufConfig, GgufType
from quantize.shape import CacheShape, shape_of
from quantize.source import glance
from tests.integration.quantize.real_llama_cpp import artefact, packaged_model, toolchain
from tests.unit.quantize.gguf_writer import ARRAY, FLOAT32, STRING, UINT32, pair, strings, text, write_gguf

pytestmark = pytest.mark.llama_cpp

LAYERS = 16
ATTENTION = ("attn_q", "attn_k", "attn_v", "attn_output")
_SAID = re.compile(r"\[ *\d+/ *\d+\] +(\S+) .*type = +(\w+), size = .*?(?:\((\w+)\))?$", re.MULTILINE)
#: Width of rows, heads that share keys, experts, whether the output is the embedding.
MODELS = {
    "plain": (256, 1, 0, False),
    "tied, with shared keys": (256, 4, 0, True),
    "narrow": (96, 3, 0, True),
    "odd": (80, 1, 0, False),
    "eight experts": (256, 4, 8, False),
}


def written(folder: Path, width: int, sharing: int, experts: int, *, tied: bool) -> Path:
    """A header and zeros of a Llama with all its matrices, tiny."""
    heads = 4 if sharing != 3 else 3
    u32 = {
        "context_length": 128,
        "embedding_length": width,
        "block_count": LAYERS,
        "feed_forward_length": width,
        "attention.head_count": heads,
        "attention.head_count_kv": heads // sharing,
        "rope.dimension_count": width // heads,
        "vocab_size": 4,
        **({"expert_count": experts, "expert_used_count": 2} if experts else {}),
    }
    pairs = [
        pair("general.architecture", STRING, text("llama")),
        *(pair(f"llama.{name}", UINT32, struct.pack("<I", value)) for name, value in u32.items()),
        pair("llama.attention.layer_norm_rms_epsilon", FLOAT32, struct.pack("<f", 1e-5)),
        pair("tokenizer.ggml.model", STRING, text("no_vocab")),
        pair("tokenizer.ggml.merges", ARRAY, strings([])),
    ]
    forward = ("ffn_gate", "ffn_up", "ffn_down")
    tensors = [("token_embd.weight", (width, 4), 1), ("output_norm.weight", (width,), 0)]
    tensors += [] if tied else [("output.weight", (width, 4), 1)]
    for layer in range(LAYERS):
        tensors += [(f"blk.{layer}.{name}.weight", (width, width), 1) for name in ATTENTION]
        tensors += [(f"blk.{layer}.{name}_norm.weight", (width,), 0) for name in ("attn", "ffn")]
        if experts:
            tensors += [(f"blk.{layer}.{name}_exps.weight", (width, width, experts), 1) for name in forward]
            tensors.append((f"blk.{layer}.ffn_gate_inp.weight", (width, experts), 0))
        else:
            tensors += [(f"blk.{layer}.{name}.weight", (width, width), 1) for name in forward]
    return write_gguf(folder / "model.gguf", tensors, pairs=pairs, odd=False)


@pytest.mark.parametrize("model", MODELS)
def test_every_tensor_gets_the_type_that_llama_quantize_says(model: str, tmp_path: Path) -> None:
    width, sharing, experts, tied = MODELS[model]
    path = written(tmp_path, width, sharing, experts, tied=tied)
    shape = shape_of(glance(path))
    assert (shape.heads, shape.experts) == (4 if sharing != 3 else 3, experts)
    tensors = [MixTensor(name=t.name, shape=t.shape, plain=t.type) for t in read_gguf(path).tensors]
    rules = MixModel(layers=LAYERS, heads_per_key=sharing, experts=experts)
    for kind in GgufType:
        command = [str(toolchain().executable("llama-quantize")), "--dry-run", str(path), kind.value, "1"]
        answer = subprocess.run(
            command, env=toolchain().environ(), capture_output=True, text=True, timeout=60, check=True
        )
        said = {name: (now or before).upper() for name, before, now in _SAID.findall(answer.stdout + answer.stderr)}
        assert len(said) == len(tensors)
        ours = {tensor.name: to.name for tensor, to in mix_types(tensors, rules, kind.value)}
        assert {name: (ours[name], said[name]) for name in said if ours[name] != said[name]} == {}, kind


def test_the_shape_of_the_packaged_model_is_told_by_its_header() -> None:
    made = artefact(GgufType.Q8_0)
    shape = shape_of(glance(made.model_path))
    assert (shape.layers, shape.hidden, shape.heads, shape.kv_heads, shape.vocabulary) == (30, 576, 9, 3, 49152)
    assert shape.cache == CacheShape(layers=30, keys=3 * 64, values=3 * 64)


@pytest.mark.parametrize("kind", [GgufType.F16, GgufType.Q8_0, GgufType.Q4_K_M, GgufType.Q4_0, GgufType.Q3_K_M])
def test_estimated_sizes_are_those_of_the_artefacts(kind: GgufType, tmp_path: Path) -> None:
    assert kind not in NEED_IMATRIX
    made = artefact(kind)
    located = packaged_model().at_hand(made.directory.parents[1])
    assert located is not None
    found = estimate(glance(located.path), GgufConfig(type=kind))
    assert found.output_bytes == pytest.approx(made.manifest["size_bytes"], rel=0.001)
    assert found.quantizing_bytes == pytest.approx(made.manifest["peak_rss_bytes"], rel=0.25)
