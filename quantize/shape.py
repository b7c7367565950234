"""What of a model's shape memory depends on: layers, widths, and the numbers a token leaves in the KV cache.

From config.json (transformers' names of `PretrainedConfig`, and those it maps to them) or a GGUF's metadata (the keys
of `llama-arch.cpp`). What the headers do not say is None, with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from quantize.gguf_file import GgufFile
from quantize.layers import read_model_config
from quantize.source import Source, SourceFormat

_FULL, _SLIDING, _CHUNKED = "full_attention", "sliding_attention", "chunked_attention"
#: Signs in a GGUF's metadata of layers that keep a state in the place of a cache.
_STATEFUL = (".ssm.", ".wkv.", ".shortconv.", ".kda.")
_STATE_KEYS = ("ssm_state_size", "state_size", "mamba_d_state", "layers_block_type")
_AT_MOST = "KV cache: at most, as no layer's sliding window was taken off"


@dataclass(frozen=True, kw_only=True)
class CacheShape:
    """Numbers that a token leaves in the KV cache of one layer, for `layers` that see all tokens and `windowed` ones.

    `latent`: of multi-head latent attention, what is kept by engines that do not unfold it (DeepSeek-V2,
    arXiv:2405.04434: the compressed vector and the rotary part); `keys` and `values` are what is kept by those that do.
    None: other attention.
    """

    layers: int
    keys: int
    values: int
    windowed: int = 0
    window: int = 0
    latent: int | None = None


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """Layers and widths, None where the headers do not say. `notes` are what is to be said of figures made of it.

    `cache` is None where it cannot be known; `no_cache` says why.
    """

    layers: int | None = None
    hidden: int | None = None
    inner: int | None = None
    vocabulary: int | None = None
    heads: int | None = None
    kv_heads: int | None = None
    experts: int = 0
    cache: CacheShape | None = None
    no_cache: str = ""
    notes: tuple[str, ...] = ()


def shape_of(source: Source) -> ModelShape:
    """The shape of a checkpoint, from its headers."""
    if source.format is SourceFormat.hf:
        return shape_of_config(read_model_config(source.path))
    from quantize.gguf_file import read_gguf

    return shape_of_gguf(read_gguf(source.path))


def shape_of_config(config: Mapping[str, Any]) -> ModelShape:
    """The shape that config.json tells; that of the text model in a multimodal one."""
    inner = config.get("text_config")
    text: Mapping[str, Any] = inner if isinstance(inner, Mapping) else config
    layers = _first(text, "num_hidden_layers", "n_layer", "n_layers", "num_layers")
    hidden = _first(text, "hidden_size", "n_embd", "d_model")
    heads = _first(text, "num_attention_heads", "n_head", "n_heads")
    kv_heads = _first(text, "num_key_value_heads", "num_kv_heads", "multi_query_group_num")
    if kv_heads is None and text.get("multi_query"):
        kv_heads = 1
    shape = ModelShape(
        layers=layers,
        hidden=hidden,
        inner=_first(text, "intermediate_size", "n_inner", "ffn_dim"),
        vocabulary=_first(text, "vocab_size"),
        heads=heads,
        kv_heads=kv_heads or heads,
        experts=_first(text, "num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts") or 0,
    )
    try:
        return replace(shape, **_config_cache(text, shape))
    except _UntoldError as error:
        return replace(shape, no_cache=str(error))


class _UntoldError(Exception):
    """Why the cache cannot be known."""


def _config_cache(text: Mapping[str, Any], shape: ModelShape) -> dict[str, Any]:
    """`cache` and `notes`."""
    layers, hidden, heads, kv_heads = _needed(shape, "config.json")
    rank, rotary, latent = _first(text, "kv_lora_rank"), _first(text, "qk_rope_head_dim"), None
    if rank and rotary:
        plain, value = _first(text, "qk_nope_head_dim"), _first(text, "v_head_dim")
        if plain is None or value is None:
            raise _UntoldError("config.json has kv_lora_rank, but no qk_nope_head_dim or v_head_dim")
        keys, values, latent = heads * (plain + rotary), heads * value, rank + rotary
    else:
        keys = values = kv_heads * (_first(text, "head_dim") or hidden // heads)
    windowed, window = _windows(text, layers)
    unsure = not windowed and bool(_first(text, "sliding_window")) and text.get("use_sliding_window") is not False
    return {
        "cache": CacheShape(
            layers=layers - windowed, keys=keys, values=values, windowed=windowed, window=window, latent=latent
        ),
        "notes": (_AT_MOST,) if unsure and not isinstance(text.get("layer_types"), list) else (),
    }


def _windows(text: Mapping[str, Any], layers: int) -> tuple[int, int]:
    """How many layers see a window of tokens only, and of how many; raises _UntoldError for layers with a state."""
    if any(name in text for name in _STATE_KEYS):
        raise _UntoldError("it has layers that keep a state, which config.json does not size")
    window, every, kinds = (
        _first(text, "sliding_window"),
        _first(text, "sliding_window_pattern"),
        text.get("layer_types"),
    )
    if not isinstance(kinds, list):
        return (layers - layers // every, window) if window and every else (0, 0)
    other = sorted({str(kind) for kind in kinds} - {_FULL, _SLIDING, _CHUNKED})
    if other:
        raise _UntoldError(f"layers of type {', '.join(other)} keep a state that config.json does not size")
    reach = max(window or 0, _first(text, "attention_chunk_size") or 0)
    bounded = sum(kind != _FULL for kind in kinds[:layers]) if reach else 0
    return (bounded, reach) if bounded else (0, 0)


def shape_of_gguf(header: GgufFile) -> ModelShape:
    """The shape that a GGUF's metadata tells."""
    architecture = header.text("general.architecture") or ""

    def number(name: str) -> int | None:
        return _first(header.metadata, f"{architecture}.{name}")

    embedding = next((tensor for tensor in header.tensors if tensor.name == "token_embd.weight"), None)
    vocabulary = embedding.shape[1] if embedding is not None and len(embedding.shape) > 1 else None
    heads, kv_heads = number("attention.head_count"), number("attention.head_count_kv")
    varied = f"{architecture}.attention.head_count_kv" in header.array_lengths
    shape = ModelShape(
        layers=number("block_count"),
        hidden=number("embedding_length"),
        inner=number("feed_forward_length"),
        vocabulary=vocabulary,
        heads=heads,
        kv_heads=None if varied else kv_heads or heads,
        experts=number("expert_count") or 0,
    )
    try:
        return replace(shape, **_gguf_cache(header, architecture, shape))
    except _UntoldError as error:
        varying = "each layer has its own number of heads, which is not read from the header"
        return replace(shape, no_cache=varying if varied else str(error))


def _gguf_cache(header: GgufFile, architecture: str, shape: ModelShape) -> dict[str, Any]:
    """`cache` and `notes`."""
    layers, hidden, heads, kv_heads = _needed(shape, "the header")
    if any(sign in key for key in header.metadata for sign in _STATEFUL):
        raise _UntoldError("it has layers that keep a state, which the header does not size")
    keys = kv_heads * (_first(header.metadata, f"{architecture}.attention.key_length") or hidden // heads)
    values = kv_heads * (_first(header.metadata, f"{architecture}.attention.value_length") or hidden // heads)
    # A file that also tells the unfolded lengths is converted for a latent cache, where values are a part of the keys.
    latent = f"{architecture}.attention.key_length_mla" in header.metadata
    windowed = any(key.endswith("sliding_window") for key in header.metadata)
    return {
        "cache": CacheShape(layers=layers, keys=keys, values=0 if latent else values, latent=keys if latent else None),
        "notes": (_AT_MOST,) if windowed else (),
    }


def _needed(shape: ModelShape, where: str) -> tuple[int, int, int, int]:
    """Layers, hidden size, heads, and heads of keys and values; raises _UntoldError naming what is not told."""
    if shape.layers and shape.hidden and shape.heads and shape.kv_heads:
        return shape.layers, shape.hidden, shape.heads, shape.kv_heads
    named = {
        "the number of layers": shape.layers,
        "the hidden size": shape.hidden,
        "the number of attention heads": shape.heads,
        "the number of key and value heads": shape.kv_heads,
    }
    missing = [name for name, value in named.items() if not value]
    raise _UntoldError(f"{where} does not tell {' and '.join(missing)}")


def _first(values: Mapping[str, Any], *names: str) -> int | None:
    """The first of these that is a positive whole number."""
    for name in names:
        value = values.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return None
