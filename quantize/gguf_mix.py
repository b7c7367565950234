"""Which type `llama-quantize` gives each tensor of a mix: the rules of `src/llama-quant.cpp` of the llama.cpp that is
built here, so that a variant's size is known from the source's header alone.

Left out: rules of single architectures (Falcon, GLM5-Next, BailingMoE3) and MXFP4_MOE, which no scheme asks for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from quantize.ggml_types import GGML_TYPES, GgmlType
from quantize.inventory import ggml_type

_TYPES = {kind.name: kind for kind in GGML_TYPES.values()}
#: Types asked for whose tensors are of one plain type, without a mix.
_PLAIN = ("F32", "F16", "BF16")
#: The main type of a mix, where `llama_ftype_get_default_type` has another one than its name says.
_MAIN = {"IQ2_S": "IQ2_XS", "IQ2_M": "IQ2_S"}
_LOWEST = frozenset({"IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M", "IQ1_S", "IQ1_M"})
#: Of a tensor whose rows do not fill the blocks of a type: the type it gets instead.
_FALLBACK = {
    **dict.fromkeys(("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_XS"), "IQ4_NL"),
    **dict.fromkeys(("Q2_K", "Q3_K", "TQ1_0", "TQ2_0", "Q2_0"), "Q4_0"),
    "Q4_K": "Q5_0",
    "Q5_K": "Q5_1",
    "Q6_K": "Q8_0",
}
#: Parts of names of tensors that are never quantized.
_NEVER = re.compile(
    r"_norm\.weight|ffn_gate_inp\.weight|ffn_gate_tid2eid|altup|laurel|per_layer_model_proj|^position_embd\.weight"
    r"|^token_types\.weight|ssm_conv1d|shortconv\.conv\.weight|indexer\.[kq]_proj\.weight|attn_rel_b\.weight"
    r"|time_mix_(first|[wvag]\d|decay_w\d|lerp_fused)\.weight|\.position_embd|\.rel_pos|\.patch_embd|\.patch_merger"
)
_LAYER = re.compile(r"blk\.(\d+)\.")
_EIGHT = 8


@dataclass(frozen=True, kw_only=True)
class MixTensor:
    """A tensor to be written: `shape` has the row first. `plain` is the type it keeps where it is not quantized."""

    name: str
    shape: tuple[int, ...]
    plain: GgmlType

    @property
    def layer(self) -> int:
        """The block it belongs to; -1 for none."""
        found = _LAYER.match(self.name)
        return int(found[1]) if found else -1


@dataclass(frozen=True, kw_only=True)
class MixModel:
    """What the rules ask of a model: its layers, heads that share keys (1: none do), experts (0: none)."""

    layers: int
    heads_per_key: int = 1
    experts: int = 0
    is_70b: bool = False


def mix_types(
    tensors: Iterable[MixTensor], model: MixModel, asked: str, *, imatrix: bool = False
) -> list[tuple[MixTensor, GgmlType]]:
    """Each tensor and the type it is written as, where type `asked` (`Q4_K_M`, …) is asked for."""
    ordered = sorted(tensors, key=lambda tensor: (tensor.layer, tensor.name))
    if asked in _PLAIN:
        return [(tensor, _TYPES[asked] if _may_change(tensor) else tensor.plain) for tensor in ordered]
    rules = _Rules(model=model, asked=asked, imatrix=imatrix, tied=all(t.name != "output.weight" for t in ordered))
    rules.values = sum(_kind(tensor.name) in _VALUES for tensor in ordered)
    return [(tensor, rules.type_of(tensor) if _may_change(tensor) else tensor.plain) for tensor in ordered]


def size_bytes(shape: tuple[int, ...], kind: GgmlType) -> int:
    """Bytes of a tensor's packed data."""
    weights = 1
    for length in shape:
        weights *= length
    return weights // kind.block * kind.block_bytes


def _may_change(tensor: MixTensor) -> bool:
    dimensions = sum(1 for length in tensor.shape[1:] if length > 1) + 1
    return dimensions > 1 and tensor.name.endswith("weight") and _NEVER.search(tensor.name) is None


_KINDS = (
    ("attn_qkv.weight", "qkv"),
    ("attn_kv_b.weight", "kv_b"),
    ("attn_v.weight", "v"),
    ("attn_k.weight", "k"),
    ("attn_q.weight", "q"),
    ("attn_output.weight", "attn_out"),
    ("ffn_up", "up"),
    ("ffn_gate", "gate"),
    ("ffn_down", "down"),
)
_VALUES = ("v", "qkv", "kv_b")


def _kind(name: str) -> str:
    if name == "output.weight":
        return "output"
    if name in ("token_embd.weight", "per_layer_token_embd.weight"):
        return "embedding"
    return next((kind for part, kind in _KINDS if part in name), "other")


def _more_bits(index: int, count: int) -> bool:
    """The first and last eighth of the layers, and every third between."""
    return index < count // 8 or index >= 7 * count // 8 or (index - count // 8) % 3 == 2


@dataclass(kw_only=True)
class _Rules:
    """The state of one pass over a model's tensors."""

    model: MixModel
    asked: str
    imatrix: bool
    tied: bool
    values: int = 0
    seen: dict[str, int] = field(default_factory=dict)

    def type_of(self, tensor: MixTensor) -> GgmlType:
        main = ggml_type(_MAIN.get(self.asked, self.asked)).name
        chosen = self._chosen(tensor, main)
        row, kind = tensor.shape[0], _TYPES[chosen]
        if row % kind.block:
            kind = _TYPES[_FALLBACK.get(chosen, chosen)]
        return _TYPES["F16"] if row % kind.block else kind

    def _chosen(self, tensor: MixTensor, main: str) -> str:  # noqa: PLR0911 - one a role
        kind = _kind(tensor.name)
        if kind == "output" or (kind == "embedding" and self.tied):
            return self._output(tensor, main)
        if kind == "embedding":
            return _EMBEDDINGS.get(self.asked, main)
        group = "value" if kind in _VALUES else kind
        index = self.seen.get(group, 0)
        self.seen[group] = index + 1
        if self.asked in _LOWEST:
            return self._lowest(group, index, main)
        if group == "value":
            return self._value(index, main)
        if group in ("k", "q"):
            return self._key_or_query(group, main)
        if group in ("down", "gate", "up"):
            layer = tensor.layer if self.model.experts > 1 else index
            return self._down(layer, main) if group == "down" else self._gate_or_up(layer, main)
        return self._attention_output(main) if group == "attn_out" else main

    def _output(self, tensor: MixTensor, main: str) -> str:
        if tensor.shape[0] % _TYPES[main].block:
            return "Q8_0"
        if self.asked in _LOWEST or self.asked == "IQ3_XXS":
            return "Q5_K"
        return main if main == "Q8_0" else "Q6_K"

    def _lowest(self, group: str, index: int, main: str) -> str:
        wide = "IQ3_S" if self.asked in ("IQ2_S", "IQ2_M") else "Q2_K"
        many = self.model.experts == _EIGHT
        if group == "value":
            return "Q4_K" if self.model.heads_per_key >= 4 or self.model.experts >= 4 else wide
        if group == "k":
            return "Q4_K" if many else main
        if group == "down":
            return wide if index < self.model.layers // 8 else main
        if group == "attn_out":
            outputs = {"IQ1_S": "IQ2_XXS", "IQ1_M": "IQ2_XXS", "IQ2_S": "IQ3_S", "IQ2_M": "IQ3_S"}
            return "Q5_K" if many else outputs.get(self.asked, main)
        return main

    def _value(self, index: int, main: str) -> str:
        shared = self.model.heads_per_key >= 4
        chosen = main
        match self.asked:
            case "Q2_K":
                chosen = "Q4_K" if shared else "Q3_K"
            case "Q2_K_S" | "IQ3_XS" | "IQ3_S" if shared:
                chosen = "Q4_K"
            case "IQ3_XXS":
                chosen = "Q4_K" if shared else "IQ3_XXS" if self.imatrix else "IQ3_S"
            case "IQ3_M":
                chosen = "Q4_K"
            case "Q3_K_M":
                chosen = "Q5_K" if index < 2 else "Q4_K"
            case "Q3_K_L":
                chosen = "Q5_K"
            case "IQ4_NL" | "IQ4_XS" if shared:
                chosen = "Q5_K"
            case "Q4_K_M" | "Q5_K_M" if _more_bits(index, self.values):
                chosen = "Q6_K"
            case "Q4_K_S" if index < 4:
                chosen = "Q5_K"
        if self.model.is_70b and chosen in ("Q3_K", "Q4_K"):
            chosen = "Q5_K"
        return "Q8_0" if self.model.experts == _EIGHT else chosen

    def _key_or_query(self, group: str, main: str) -> str:
        if group == "k" and self.model.experts == _EIGHT:
            return "Q8_0"
        return {"IQ3_XS": "IQ3_XXS", "IQ3_XXS": "IQ2_S"}.get(self.asked, main)

    def _down(self, layer: int, main: str) -> str:  # noqa: PLR0911 - one a mix
        first = layer < self.model.layers // 8
        more = _more_bits(layer, self.model.layers)
        match self.asked:
            case "Q2_K":
                return "Q3_K"
            case "Q2_K_S" if first:
                return "Q4_K"
            case "IQ3_XXS" if not self.imatrix:
                return "Q4_K" if first else "Q3_K"
            case "Q3_K_M":
                return "Q5_K" if layer < self.model.layers // 16 else "Q4_K"
            case "IQ3_M" if first or (self.model.experts == _EIGHT and more):
                return "Q4_K"
            case "Q3_K_L":
                return "Q5_K"
            case "Q4_K_M" | "Q5_K_M" if more:
                return "Q6_K"
            case "IQ4_NL" | "IQ4_XS" if first and not self.imatrix:
                return "Q5_K"
            case "Q4_K_S" if first:
                return "Q5_K"
            case "Q4_0" | "Q5_0" if first and self.imatrix:
                return {"Q4_0": "Q4_1", "Q5_0": "Q5_1"}[self.asked]
        return main

    def _gate_or_up(self, layer: int, main: str) -> str:
        count = self.model.layers
        return "IQ3_XXS" if self.asked == "IQ3_XS" and count // 8 <= layer < 7 * count // 8 else main

    def _attention_output(self, main: str) -> str:
        if self.model.experts == _EIGHT:
            return "Q5_K" if self.asked in _OUTPUTS_OF_EIGHT else main
        return _OUTPUTS.get(self.asked, main)


_EMBEDDINGS: Mapping[str, str] = {
    **dict.fromkeys(("IQ2_XXS", "IQ2_XS", "IQ1_S", "IQ1_M"), "Q2_K"),
    **dict.fromkeys(("IQ2_S", "IQ2_M", "IQ3_XXS"), "IQ3_S"),
}
_OUTPUTS: Mapping[str, str] = {
    "Q2_K": "Q3_K",
    "IQ3_XXS": "IQ3_S",
    "Q3_K_M": "Q4_K",
    "Q3_K_L": "Q5_K",
    "IQ3_M": "Q4_K",
}
_OUTPUTS_OF_EIGHT = frozenset(
    {"Q2_K", "IQ3_XS", "IQ3_XXS", "Q3_K_S", "Q3_K_M", "IQ4_NL", "Q4_K_S", "Q4_K_M", "IQ3_S", "IQ3_M", "IQ4_XS"}
)
