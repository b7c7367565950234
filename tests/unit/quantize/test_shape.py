"""Shapes from headers: what a token leaves in the KV cache, and what cannot be told."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest

from quantize.gguf_file import read_gguf
from quantize.shape import CacheShape, ModelShape, shape_of_config, shape_of_gguf
from tests.unit.quantize.gguf_writer import ARRAY, STRING, UINT32, pair, text, write_gguf

LLAMA = {
    "model_type": "llama",
    "num_hidden_layers": 32,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
}


def cache_of(**more: Any) -> CacheShape:
    shape = shape_of_config({**LLAMA, **more})
    assert shape.cache is not None, shape.no_cache
    return shape.cache


def test_grouped_heads_share_keys_and_values() -> None:
    assert cache_of() == CacheShape(layers=32, keys=8 * 128, values=8 * 128)


def test_a_head_size_of_its_own_counts_before_the_quotient() -> None:
    assert cache_of(head_dim=256).keys == 8 * 256


def test_without_a_number_of_shared_heads_every_head_has_its_own() -> None:
    config = {name: value for name, value in LLAMA.items() if name != "num_key_value_heads"}
    shape = shape_of_config(config)
    assert shape.cache is not None
    assert shape.cache.keys == 4096


def test_old_names_and_one_shared_head_are_understood() -> None:
    config = {"n_layer": 2, "n_embd": 64, "n_head": 4, "multi_query": True, "vocab_size": 10}
    assert shape_of_config(config).cache == CacheShape(layers=2, keys=16, values=16)


def test_the_text_model_of_a_multimodal_one_is_what_is_cached() -> None:
    shape = shape_of_config({"model_type": "llava", "text_config": LLAMA})
    assert (shape.layers, shape.vocabulary) == (32, 128256)


def test_latent_attention_keeps_the_compressed_vector_or_what_it_unfolds_to() -> None:
    deepseek = {
        "kv_lora_rank": 512,
        "qk_rope_head_dim": 64,
        "qk_nope_head_dim": 128,
        "v_head_dim": 128,
        "num_attention_heads": 128,
        "num_key_value_heads": 128,
    }
    assert cache_of(**deepseek) == CacheShape(layers=32, keys=128 * 192, values=128 * 128, latent=576)


def test_latent_attention_without_its_lengths_is_unknown() -> None:
    shape = shape_of_config({**LLAMA, "kv_lora_rank": 512, "qk_rope_head_dim": 64})
    assert shape.cache is None
    assert "qk_nope_head_dim" in shape.no_cache


def test_layers_with_a_window_are_told_by_their_types() -> None:
    kinds = ["sliding_attention", "full_attention"] * 16
    found = cache_of(sliding_window=1024, layer_types=kinds)
    assert (found.layers, found.windowed, found.window) == (16, 16, 1024)


def test_a_pattern_of_windows_has_every_nth_layer_without() -> None:
    found = cache_of(sliding_window=512, sliding_window_pattern=6)
    assert (found.layers, found.windowed, found.window) == (5, 27, 512)


def test_a_window_whose_layers_are_not_told_is_counted_as_none_and_said() -> None:
    shape = shape_of_config({**LLAMA, "sliding_window": 4096})
    assert shape.cache == CacheShape(layers=32, keys=1024, values=1024)
    assert "at most" in shape.notes[0]
    assert shape_of_config({**LLAMA, "sliding_window": 4096, "use_sliding_window": False}).notes == ()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"layer_types": ["linear_attention", "full_attention"]}, "linear_attention"),
        ({"mamba_d_state": 16}, "keep a state"),
        ({"num_attention_heads": None, "num_key_value_heads": None}, "the number of attention heads"),
        ({"num_hidden_layers": 0}, "the number of layers"),
    ],
)
def test_what_config_does_not_size_is_unknown(more: dict[str, Any], said: str) -> None:
    shape = shape_of_config({**LLAMA, **more})
    assert shape.cache is None
    assert said in shape.no_cache


def gguf_shape(tmp_path: Path, *pairs: bytes, **numbers: int) -> ModelShape:
    u32 = {
        "block_count": 30,
        "embedding_length": 576,
        "feed_forward_length": 1536,
        "attention.head_count": 9,
        "attention.head_count_kv": 3,
        **numbers,
    }
    metadata = [
        pair("general.architecture", STRING, text("llama")),
        *(pair(f"llama.{name}", UINT32, struct.pack("<I", value)) for name, value in u32.items() if value),
        *pairs,
    ]
    tensors = [("token_embd.weight", (32, 6), 1)]
    return shape_of_gguf(read_gguf(write_gguf(tmp_path / "m.gguf", tensors, pairs=metadata, odd=False)))


def test_a_gguf_tells_the_same_under_other_names(tmp_path: Path) -> None:
    shape = gguf_shape(tmp_path)
    assert (shape.layers, shape.hidden, shape.inner, shape.heads, shape.kv_heads) == (30, 576, 1536, 9, 3)
    assert shape.vocabulary == 6
    assert shape.cache == CacheShape(layers=30, keys=192, values=192)


def test_a_ggufs_own_lengths_of_keys_and_values_count(tmp_path: Path) -> None:
    lengths = {"attention.key_length": 128, "attention.value_length": 96}
    assert gguf_shape(tmp_path, **lengths).cache == CacheShape(layers=30, keys=384, values=288)


def test_a_gguf_for_latent_attention_keeps_no_values(tmp_path: Path) -> None:
    lengths = {
        "attention.head_count_kv": 1,
        "attention.key_length": 576,
        "attention.value_length": 512,
        "attention.key_length_mla": 192,
    }
    assert gguf_shape(tmp_path, **lengths).cache == CacheShape(layers=30, keys=576, values=0, latent=576)


def test_a_gguf_with_heads_by_layer_is_unknown(tmp_path: Path) -> None:
    by_layer = pair("llama.attention.head_count_kv", ARRAY, struct.pack("<IQ", UINT32, 2) + bytes(8))
    shape = gguf_shape(tmp_path, by_layer, **{"attention.head_count_kv": 0})
    assert shape.cache is None
    assert "own number of heads" in shape.no_cache


def test_a_gguf_with_states_or_without_lengths_is_unknown(tmp_path: Path) -> None:
    assert "keep a state" in gguf_shape(tmp_path, **{"ssm.state_size": 16}).no_cache
    assert "the header does not tell the hidden size" in gguf_shape(tmp_path, embedding_length=0).no_cache


def test_a_ggufs_window_is_counted_as_none_and_said(tmp_path: Path) -> None:
    shape = gguf_shape(tmp_path, **{"attention.sliding_window": 512})
    assert shape.cache is not None
    assert "at most" in shape.notes[0]
