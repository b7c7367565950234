"""The linear layers of a checkpoint, from config.json and headers alone: which are quantized, and in what groups.

A linear layer is a two-dimensional tensor NAME.weight of shape (outputs, inputs). Groups run along the inputs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.base.errors import UsageError
from quantize.architectures import GGUF_LAYERS, Architecture, architecture_of
from quantize.checkpoint import StoredTensor, read_tensors
from quantize.gguf_file import read_gguf

#: What `group_size: 0` chooses from, the cheapest first.
GROUP_SIZES = (128, 64, 32)
_WEIGHT = ".weight"
_REGEX = "re:"
#: The module of experts in the name of a layer of one of them, and in that of a tensor of all.
_EXPERT = re.compile(r"(.*(?:^|\.)experts)\.\d+\.")
_EXPERTS = re.compile(r"(.*(?:^|\.)experts)\.")


@dataclass(frozen=True, kw_only=True)
class LinearLayer:
    """A matrix of shape (`outputs`, `inputs`), or `count` of them that are stored in one tensor.

    `splits_inputs`: a tensor-parallel engine gives each rank a part of its inputs; other layers are split by outputs
    or not at all.
    """

    name: str
    inputs: int
    outputs: int
    splits_inputs: bool = False
    count: int = 1

    @property
    def parameters(self) -> int:
        """Weights."""
        return self.inputs * self.outputs * self.count

    @property
    def experts(self) -> str:
        """The module of routed experts that it is part of; empty for every other layer."""
        found = (_EXPERTS if self.count > 1 else _EXPERT).match(self.name)
        if found is not None:
            return found[1]
        return self.name if self.count > 1 else ""


@dataclass(frozen=True, kw_only=True)
class LayerInventory:
    """`quantized` and `skipped` linear layers; `other` counts the weights of everything else (embeddings, norms).

    `ignore` are the entries by which layers are skipped, the architecture's first. `held` are experts that stay as they
    are though nobody asked for it: they are no layers for the quantizer.
    """

    quantized: tuple[LinearLayer, ...]
    skipped: tuple[LinearLayer, ...]
    ignore: tuple[str, ...]
    other: int
    held: tuple[LinearLayer, ...] = ()

    @property
    def fused(self) -> tuple[LinearLayer, ...]:
        """Layers that hold the matrices of many experts in one tensor."""
        return tuple(layer for layer in self.quantized if layer.count > 1)

    @property
    def parameters(self) -> int:
        """Weights that are quantized."""
        return sum(layer.parameters for layer in self.quantized)

    @property
    def rest(self) -> int:
        """Weights that stay as they are."""
        return self.other + sum(layer.parameters for layer in (*self.skipped, *self.held))

    @property
    def expert_modules(self) -> tuple[str, ...]:
        """The modules of experts that stay as they are, asked for or not."""
        return tuple(dict.fromkeys(layer.experts for layer in (*self.skipped, *self.held) if layer.experts))

    @property
    def held_percent(self) -> int:
        """How much of all weights `held` are."""
        return round(100 * sum(layer.parameters for layer in self.held) / (self.parameters + self.rest or 1))

    def without_experts(self) -> LayerInventory:
        """The same for a quantizer that sees no experts."""
        held = tuple(layer for layer in self.quantized if layer.experts)
        others = tuple(layer for layer in self.quantized if not layer.experts)
        return replace(self, quantized=others, held=(*self.held, *held))


def linear_layers(folder: Path, ignore: Sequence[str] = ()) -> LayerInventory:
    """The layers of a Hugging Face folder; `ignore` adds module names, or regexes after `re:`, to those skipped.

    Raises UsageError where the architecture keeps its weights in a way that cannot be quantized layer by layer, where
    an entry of `ignore` fits nothing, and where nothing is left to quantize.
    """
    config = read_model_config(folder)
    architecture = architecture_of(config)
    if architecture.refused:
        raise UsageError(f"{folder.name}: {architecture.refused}")
    tensors = read_tensors(folder)
    if not tensors:
        raise UsageError(f"{folder}: holds no weights named model*.safetensors; save the model with save_pretrained")
    layers = [_layer(tensor, architecture) for tensor in tensors if architecture.is_linear(tensor.name, tensor.shape)]
    layers += [_experts(tensor, architecture) for tensor in tensors if architecture.is_fused(tensor.name, tensor.shape)]
    other = sum(tensor.count for tensor in tensors) - sum(layer.parameters for layer in layers)
    return _sorted_out(layers, architecture, ignore, other, folder.name)


def gguf_layers(path: Path, ignore: Sequence[str] = ()) -> LayerInventory:
    """The same of a GGUF, under the names its layers will have in a Hugging Face checkpoint.

    Experts are `held`: the file does not tell what they will be called. Matrices of a block whose Hugging Face names
    are not known count as `other`: they, and entries of `ignore` that may mean them, are left to `linear_layers` of the
    checkpoint that is made.
    """
    header = read_gguf(path)
    layers, held, other, unknown = [], [], 0, False
    for tensor in header.tensors:
        if len(tensor.shape) == 3 and _GGUF_EXPERTS.search(tensor.name):
            inputs, outputs, count = tensor.shape
            held.append(LinearLayer(name=tensor.name, inputs=inputs, outputs=outputs, count=count))
            unknown = True
            continue
        name = _hf_name(tensor.name)
        if name is None or len(tensor.shape) != 2:
            other += tensor.parameters
            unknown = unknown or (len(tensor.shape) > 1 and tensor.name.startswith("blk."))
            continue
        inputs, outputs = tensor.shape
        layers.append(LinearLayer(name=name, inputs=inputs, outputs=outputs, splits_inputs=_DEFAULT.is_row(name)))
    found = _sorted_out(layers, _DEFAULT, ignore, other, path.name, whole=not unknown)
    return replace(found, held=tuple(held))


_DEFAULT = Architecture()
_GGUF_EXPERTS = re.compile(r"^blk\.\d+\.\w+_exps\.weight$")


def refuse_held(layers: LayerInventory, tool: str, where: str) -> None:
    """Raise UsageError where more of the weights are experts that `tool` leaves as they are than all others."""
    if layers.held and (layers.held_percent > 50 or not layers.quantized):
        raise UsageError(
            f"{where}: {layers.held_percent} % of its weights are experts, which {tool} leaves as they are; use a "
            "scheme over llm-compressor (fp8_dynamic, gptq_w4a16) or one of GGUF (gguf_q4_k_m)"
        )


def held_notes(layers: LayerInventory, tool: str) -> list[str]:
    """A warning where `tool` leaves experts as they are."""
    if not layers.held:
        return []
    share = f"the experts, {layers.held_percent} % of the weights, are not quantized"
    return [f"{share}: {tool} packs linear layers, and transformers keeps all experts of a block in one tensor"]


def read_model_config(folder: Path) -> dict[str, Any]:
    """config.json; raises UsageError when it is not a JSON object."""
    file = folder / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{file}: cannot be read as JSON ({error}); copy or download it again") from None
    if not isinstance(config, dict):
        raise UsageError(f"{file}: is not a JSON object; copy or download it again")
    return config


def choose_group_size(layers: Iterable[LinearLayer], asked: int, tensor_parallel: int = 1) -> int:
    """Weights that share a scale: `asked`, or for 0 the largest of 128, 64, 32 that every layer's inputs allow.

    Layers that split their inputs must also fit after a split into `tensor_parallel` parts. Raises UsageError that
    names the layer which does not fit, and what would.
    """
    widths = {layer: rank_inputs(layer, tensor_parallel) for layer in layers}
    for size in [asked] if asked else GROUP_SIZES:
        if all(width % size == 0 for width in widths.values()):
            return size
    fits = [size for size in GROUP_SIZES if all(width % size == 0 for width in widths.values())]
    smallest = asked or GROUP_SIZES[-1]
    layer = next(layer for layer, width in widths.items() if width % smallest)
    split = f", {widths[layer]} on each of {tensor_parallel} ranks," if widths[layer] != layer.inputs else ""
    advice = f"use scheme.group_size={fits[0]} (or 0, which chooses it)" if fits else _advice(layer, tensor_parallel)
    raise UsageError(
        f"scheme.group_size={asked}: {layer.name} has {layer.inputs} inputs{split} which is no multiple of "
        f"{smallest}; {advice}"
    )


def _advice(layer: LinearLayer, tensor_parallel: int) -> str:
    fewer = "a smaller scheme.tensor_parallel, " if tensor_parallel > 1 and layer.splits_inputs else ""
    return f"none of {', '.join(map(str, GROUP_SIZES))} fits; use {fewer}scheme.ignore, or a scheme without groups"


def rank_inputs(layer: LinearLayer, tensor_parallel: int) -> int:
    """Inputs one rank has. Raises UsageError when they cannot be shared evenly."""
    if not layer.splits_inputs or tensor_parallel == 1:
        return layer.inputs
    if layer.inputs % tensor_parallel:
        raise UsageError(
            f"scheme.tensor_parallel={tensor_parallel}: {layer.name} has {layer.inputs} inputs, which cannot be split "
            "evenly; choose another number of ranks"
        )
    return layer.inputs // tensor_parallel


def _layer(tensor: StoredTensor, architecture: Architecture) -> LinearLayer:
    outputs, inputs = tensor.shape
    name = tensor.name.removesuffix(_WEIGHT)
    return LinearLayer(name=name, inputs=inputs, outputs=outputs, splits_inputs=architecture.is_row(name))


def _experts(tensor: StoredTensor, architecture: Architecture) -> LinearLayer:
    """The experts of a layer that are stored in one tensor."""
    count, *shape = tensor.shape
    inputs, outputs = shape if architecture.transposed else reversed(shape)
    name = tensor.name.removesuffix(_WEIGHT)
    return LinearLayer(name=name, inputs=inputs, outputs=outputs, splits_inputs=architecture.is_row(name), count=count)


def _sorted_out(
    layers: Sequence[LinearLayer],
    architecture: Architecture,
    ignore: Sequence[str],
    other: int,
    where: str,
    *,
    whole: bool = True,
) -> LayerInventory:
    """`whole`: `layers` are all there are, so that an entry that fits none of them is a mistake."""
    for entry in ignore:
        _refuse_bad_regex(entry)
    skip = [*architecture.skipped, *ignore]
    skipped = tuple(layer for layer in layers if any(matches(layer.name, entry) for entry in skip))
    passed = {layer.name for layer in skipped}
    quantized = tuple(layer for layer in layers if layer.name not in passed)
    asked = [entry for entry in ignore if entry not in architecture.skipped]
    unused = [entry for entry in asked if not any(matches(layer.name, entry) for layer in layers)]
    if unused and whole:
        example = layers[0].name if layers else "none"
        raise UsageError(
            f"scheme.ignore: '{unused[0]}' fits no linear layer of {where}; names look like {example}, a regex starts "
            f"with {_REGEX}"
        )
    if not quantized and whole:
        raise UsageError(f"{where}: has no linear layer to quantize; all of {len(layers)} are skipped")
    return LayerInventory(quantized=quantized, skipped=skipped, ignore=tuple(skip), other=other)


def _refuse_bad_regex(entry: str) -> None:
    try:
        re.compile(entry.removeprefix(_REGEX))
    except re.error as error:
        if entry.startswith(_REGEX):
            raise UsageError(f"scheme.ignore: '{entry}' is no regular expression ({error})") from None


def matches(name: str, entry: str) -> bool:
    """Whether an ignore list's `entry` means the module `name`: it is its name, or after `re:` a regex.

    As compressed-tensors reads them: a regex is matched from the name's beginning.
    """
    if entry.startswith(_REGEX):
        return re.match(entry.removeprefix(_REGEX), name) is not None
    return name == entry


def _hf_name(name: str) -> str | None:
    """`blk.3.attn_q.weight` → `model.layers.3.self_attn.q_proj`; None for what is no linear layer."""
    if name == "output.weight":
        return "lm_head"
    match = re.fullmatch(r"blk\.(\d+)\.(\w+)\.weight", name)
    if match is None:
        return None
    known = GGUF_LAYERS.get(match[2])
    return None if known is None else f"model.layers.{match[1]}.{known}"
