"""Which tensors of an architecture are linear layers, which of them are never quantized, and which split their inputs.

Routers and gates of mixtures of experts choose experts: an error there is not an error of one weight, so they stay as
they are, as llm-compressor's own examples have it. Names were taken from the modeling files of transformers 5.17, and
from its `conversion_mapping.py` where checkpoints use other names than modules. `model_type` is config.json's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

#: Output heads, and the image and audio towers of multimodal models.
_ALWAYS = (
    "lm_head",
    "re:(.*\\.)?(lm_head|embed_out)$",
    "re:(.*\\.)?(vision_model|vision_tower|visual|multi_modal_projector|audio_tower)\\..*",
)
_EMBEDDING = re.compile(r"(^|\.)(\w*embed\w*|wte|wpe|shared|relative_attention_bias)\.weight$")
#: Last parts of the names of layers that engines split by inputs (vLLM's RowParallelLinear).
_ROW = re.compile(
    r"(^|\.)(o_proj|out_proj|down_proj|c_proj|w2|wo|dense|dense_4h_to_h|fc2|fc_out|output_linear)(\.\w*linear\w*)?$"
)
_FUSED = re.compile(r"experts?\.|block_sparse_moe\.(input|output)_linear|\.(input|output)_linear\.")
_ROUTER = "re:.*\\.{name}$"


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """What is particular to one architecture.

    `skipped`: ignore entries. `transposed`: experts that are stored in one tensor lie as (experts, inputs, outputs)
    instead of (experts, outputs, inputs). `fused`: transformers loads its experts from one tensor only, and not by the
    names of single ones. `refused`: why its layers cannot be quantized at all.
    """

    skipped: tuple[str, ...] = _ALWAYS
    transposed: bool = False
    fused: bool = False
    refused: str = ""

    def is_linear(self, name: str, shape: tuple[int, ...]) -> bool:
        """Whether a stored tensor is a linear layer's matrix."""
        return name.endswith(".weight") and len(shape) == 2 and not _EMBEDDING.search(name)

    def is_fused(self, name: str, shape: tuple[int, ...]) -> bool:
        """Whether a stored tensor holds the matrices of all experts of a layer."""
        return len(shape) == 3 and "conv" not in name and _FUSED.search(name) is not None

    def is_row(self, name: str) -> bool:
        """Whether engines split the inputs of module `name` among ranks."""
        return _ROW.search(name) is not None


def _moe(*routers: str, transposed: bool = False, fused: bool = False) -> Architecture:
    patterns = tuple(_ROUTER.format(name=re.escape(router)) for router in routers)
    return Architecture(skipped=(*_ALWAYS, *patterns), transposed=transposed, fused=fused)


_GATE = _moe("mlp.gate")
_ROUTED = _moe("router")
_QWEN = _moe("mlp.gate", "mlp.shared_expert_gate")
_GRANITE = _moe("router", "router.layer", fused=True)
_CONV1D = Architecture(refused="its layers are Conv1D modules, not linear ones, which no quantizer here can pack")

ARCHITECTURES: Mapping[str, Architecture] = {
    "cohere2_moe": _GATE,
    "deepseek_v2": _GATE,
    "deepseek_v3": _GATE,
    "deepseek_v4": _GATE,
    "dbrx": Architecture(
        refused="it keeps all experts of a layer in one matrix (ffn.experts.mlp.w1), which cannot be quantized by layer"
    ),
    "ernie4_5_moe": _GATE,
    "flex_olmo": _GATE,
    "glm4_moe": _GATE,
    "glm4_moe_lite": _GATE,
    "gpt2": _CONV1D,
    "gpt_oss": _moe("router", transposed=True, fused=True),
    "granitemoe": _GRANITE,
    "granitemoehybrid": _GRANITE,
    "granitemoeshared": _GRANITE,
    "hunyuan_v1_moe": _moe("mlp.gate", "mlp.gate.wg"),
    "imagegpt": _CONV1D,
    "jamba": _ROUTED,
    "jetmoe": _moe("router", "router.layer"),
    "lfm2_moe": _moe("feed_forward.gate"),
    "llama4": _moe("router", transposed=True, fused=True),
    "llama4_text": _moe("router", transposed=True, fused=True),
    "minimax": _moe("mlp.gate", "block_sparse_moe.gate"),
    "minimax_m2": _moe("mlp.gate", "block_sparse_moe.gate"),
    "mixtral": _moe("mlp.gate", "block_sparse_moe.gate"),
    "nemotron_h": _moe("mixer.gate"),
    "olmoe": _GATE,
    "openai-gpt": _CONV1D,
    "phimoe": _moe("mlp.router", "block_sparse_moe.gate"),
    "qwen2_moe": _QWEN,
    "qwen3_5_moe": _QWEN,
    "qwen3_moe": _GATE,
    "qwen3_next": _QWEN,
    "qwen3_vl_moe": _moe("mlp.gate", transposed=True),
}
#: An architecture that is not listed, but whose config speaks of experts.
_UNKNOWN_MOE = _moe("gate", "router", "router.layer", "shared_expert_gate")
_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")


def architecture_of(config: Mapping[str, Any]) -> Architecture:
    """The entry of config.json's `model_type`, or of its text model's; routers are also skipped where none is known."""
    inner = config.get("text_config")
    for found in (config, inner if isinstance(inner, Mapping) else {}):
        known = ARCHITECTURES.get(str(found.get("model_type")))
        if known is not None:
            return known
        if any(found.get(name) for name in _EXPERTS):
            return _UNKNOWN_MOE
    return Architecture()


#: llama.cpp's names of linear layers → the most common names in Hugging Face checkpoints, below `model.layers.N`.
GGUF_LAYERS = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_qkv": "self_attn.qkv_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
