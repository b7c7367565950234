"""What a scheme makes of a source, from the source's headers alone: size, weights in memory, memory while quantizing.

Sizes are exact up to the tokenizer and configuration of a file in another format. Memory is an estimate: its formula
stands with each family, its constants are those of SmolLM2-135M on a CPU. Estimated and measured (`peak_rss_bytes` of
the manifest), MiB: Q8_0 215 and 211, BF16 as GGUF 240 and 237, an importance matrix 807 and 818, BF16 1110 and 1060,
FP8 865 and 857, INT8 865 and 883, NF4 816 and 734.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.base.errors import QuantbenchError
from quantize.architectures import GGUF_LAYERS
from quantize.checkpoint import StoredTensor, read_tensors, read_weights
from quantize.ggml_types import GGML_TYPES, GgmlType
from quantize.gguf_file import GgufFile, read_gguf
from quantize.gguf_mix import MixModel, MixTensor, mix_types, size_bytes
from quantize.layers import LayerInventory, gguf_layers, read_model_config
from quantize.links import folder_links
from quantize.packed import contents, label_of, method_of, read_config
from quantize.schemes.base import SchemeConfig
from quantize.schemes.gguf import GgufConfig, GgufType
from quantize.schemes.hf import HfSchemeConfig
from quantize.schemes.load_time import LoadTimeConfig
from quantize.schemes.prequantized import PrequantizedConfig, gguf_label
from quantize.schemes.unquantized import FloatType, UnquantizedConfig
from quantize.shape import ModelShape, shape_of
from quantize.source import Source, SourceFormat

_MIB = 1 << 20
_ALIGNMENT = 32
_F32, _F16, _BF16 = (next(kind for kind in GGML_TYPES.values() if kind.name == name) for name in ("F32", "F16", "BF16"))
#: Type of a checkpoint's weights → what the converter to GGUF writes (`gguf_converted`).
_CONVERTED: Mapping[str, GgmlType] = {"F64": _F32, "F32": _F32, "F16": _F16, "BF16": _BF16}
_WIDTHS: Mapping[str, int] = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}

#: A native tool with its libraries and the header.
_NATIVE_BYTES = 24 * _MIB
#: Python with torch and numpy, as the converter imports them.
_CONVERTER_BYTES = 400 * _MIB
#: Python with torch and transformers (340 MiB were measured), and with a quantizer too (443 MiB).
_TRANSFORMERS_BYTES = 340 * _MIB
_LIBRARY_BYTES = 450 * _MIB
#: Tokens llama.cpp computes at once (`--ubatch-size`'s default).
_UBATCH = 512
#: Tokens it is given at once (`--batch-size`'s default); `llama-imatrix` fills it with sequences.
_BATCH = 2048


class UnknownSize(QuantbenchError):
    """Headers alone do not tell; the text says why."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A variant before it is made, in bytes.

    `output_bytes`: its files. `weight_bytes`: its tensors, tied ones once; `unpacked_bytes`: the same for an engine
    that unpacks them to 16-bit floats. `quantizing_bytes`: main memory at the peak of all steps that lead to it.
    `words` is what it says of its format: a label as `quantize.packed` and the schemes write them.
    """

    output_bytes: int
    weight_bytes: int
    unpacked_bytes: int
    quantizing_bytes: int
    shape: ModelShape
    packing: str = ""
    words: str = ""
    notes: tuple[str, ...] = field(default=())


def estimate(source: Source, scheme: SchemeConfig) -> Estimate:
    """What `scheme` makes of `source`.

    Raises UsageError where the scheme refuses the source, UnknownSize where what it makes is not known beforehand.
    """
    scheme.check(source)
    if isinstance(scheme, GgufConfig):
        return _gguf(source, scheme)
    if isinstance(scheme, PrequantizedConfig):
        return _prequantized(source)
    if isinstance(scheme, UnquantizedConfig):
        return _unquantized(source, scheme)
    if isinstance(scheme, HfSchemeConfig):
        return _packed(source, scheme)
    if isinstance(scheme, LoadTimeConfig):
        return _on_loading(source, scheme)
    raise UnknownSize(f"scheme kind '{scheme.kind}' says nothing of what it makes before it has made it")


# GGUF


def _gguf(source: Source, scheme: GgufConfig) -> Estimate:
    """Each tensor as `llama-quantize` would write it, padded to 32 bytes, and the source's metadata.

    Memory: the largest of the steps. Converting: the largest matrix as it is stored and as F32, and the libraries.
    Quantizing streams: the largest matrix as it is read, as F32 and as it is written. A matrix of importance: the model
    as F16 or its own precision; for a batch of 2048 tokens KV cache and logits, and for 512 of them what is computed.
    """
    shape, steps = shape_of(source), []
    if source.format is SourceFormat.hf:
        tensors, metadata = _converted(source.path), 0
        steps.append(_converting_bytes(source.path))
    else:
        header = read_gguf(source.path)
        tensors = [MixTensor(name=tensor.name, shape=tensor.shape, plain=tensor.type) for tensor in header.tensors]
        metadata = _metadata_bytes(header)
    model = _mix_model(shape, source)
    read = [(tensor, tensor.plain) for tensor in tensors]
    if any(kind.quantized for _, kind in read) and scheme.type is not GgufType.F16:
        plain = mix_types(tensors, model, GgufType.F16.value)
        steps.append(_streaming_bytes(read, plain))
        read = plain
    written = mix_types(tensors, model, scheme.type.value, imatrix=scheme.imatrix)
    if scheme.imatrix:
        steps.append(_NATIVE_BYTES + _total(read) + _evaluating_bytes(shape, scheme.calibration.context))
    steps.append(_streaming_bytes(read, written))
    weights = sum(_padded(size_bytes(tensor.shape, kind)) for tensor, kind in written)
    count = sum(math.prod(tensor.shape) for tensor, _ in written)
    return Estimate(
        output_bytes=metadata + weights,
        weight_bytes=weights,
        unpacked_bytes=2 * count,
        quantizing_bytes=max(steps),
        shape=shape,
        packing="gguf",
        words=scheme.label,
        notes=("the tokenizer in the file is not counted",) if source.format is SourceFormat.hf else (),
    )


def _converted(folder: Path) -> list[MixTensor]:
    """The tensors of a folder as the converter writes them, under llama.cpp's names as far as they are known."""
    main = read_weights(folder).main_type or "F32"
    if main not in _CONVERTED:
        raise UnknownSize(
            f"{folder.name}: its weights are {main}; what the converter makes of them is known afterwards"
        )
    kind = _CONVERTED[main]
    found = []
    for tensor in _tensors(folder):
        name = gguf_name(tensor.name)
        matrix = len(tensor.shape) > 1 and not name.endswith(("_norm.weight", "ffn_gate_inp.weight"))
        found.append(MixTensor(name=name, shape=tuple(reversed(tensor.shape)) or (1,), plain=kind if matrix else _F32))
    return found


_GGUF_NAMES = {hf.rpartition(".")[2]: gguf for gguf, hf in GGUF_LAYERS.items()}
_HF_BLOCK = re.compile(r"(?:^|.*\.)(?:layers|h|blocks)\.(\d+)\.(.+)$")
_EXPERT = re.compile(r"experts?\.")
_EXPERT_NAMES = {"w1": "ffn_gate", "w2": "ffn_down", "w3": "ffn_up", "dense": "attn_output"}


def gguf_name(name: str) -> str:
    """`model.layers.3.self_attn.q_proj.weight` → `blk.3.attn_q.weight`; what has no counterpart keeps its name."""
    if re.search(r"(^|\.)(embed_tokens|wte|word_embeddings)\.weight$", name):
        return "token_embd.weight"
    if re.search(r"(^|\.)(lm_head|embed_out)\.weight$", name):
        return "output.weight"
    block = _HF_BLOCK.match(name)
    if block is None:
        return name
    rest = block[2].removesuffix(".weight")
    last = rest.rpartition(".")[2]
    if "norm" in last:
        return f"blk.{block[1]}.{last}_norm.weight"
    if last in ("gate", "router"):
        return f"blk.{block[1]}.ffn_gate_inp.weight"
    known = _GGUF_NAMES.get(last) or _EXPERT_NAMES.get(last, last)
    experts = "_exps" if _EXPERT.search(rest) else ""
    return f"blk.{block[1]}.{known}{experts}.weight"


def _mix_model(shape: ModelShape, source: Source) -> MixModel:
    architecture = "" if source.format is SourceFormat.hf else read_gguf(source.path).text("general.architecture")
    if source.format is SourceFormat.hf:
        architecture = str(read_model_config(source.path).get("model_type"))
    shared = (shape.heads or 1) // shape.kv_heads if shape.kv_heads else 1
    return MixModel(
        layers=shape.layers or 0,
        heads_per_key=shared,
        experts=shape.experts,
        is_70b=architecture == "llama" and shape.layers == 80 and shared > 1,
    )


def _converting_bytes(folder: Path) -> int:
    largest = max(tensor.count * (_WIDTHS.get(tensor.type, 2) + 4) for tensor in _tensors(folder))
    return _CONVERTER_BYTES + largest


def _streaming_bytes(read: Sequence[tuple[MixTensor, GgmlType]], written: Iterable[tuple[MixTensor, GgmlType]]) -> int:
    """Buffers of `llama-quantize`: they grow to the largest tensor and are kept."""
    before = {tensor.name: kind for tensor, kind in read}
    source = result = unpacked = 0
    for tensor, kind in written:
        held = before[tensor.name]
        source = max(source, size_bytes(tensor.shape, held))
        if held != kind:
            result = max(result, size_bytes(tensor.shape, kind))
            unpacked = max(unpacked, 0 if held == _F32 else 4 * math.prod(tensor.shape))
    return _NATIVE_BYTES + source + unpacked + result


def _evaluating_bytes(shape: ModelShape, context: int) -> int:
    """What `llama-imatrix` needs beside the model; raises UnknownSize where the header does not tell the widths."""
    if shape.vocabulary is None or shape.hidden is None or shape.cache is None:
        raise UnknownSize(f"memory for an importance matrix is not known: {shape.no_cache or 'no vocabulary is told'}")
    batch = max(context, _BATCH // context * context)
    cache = 2 * batch * shape.cache.layers * (shape.cache.keys + shape.cache.values)
    return cache + 4 * (batch * shape.vocabulary + _UBATCH * (shape.vocabulary + shape.hidden))


def _total(tensors: Iterable[tuple[MixTensor, GgmlType]]) -> int:
    return sum(size_bytes(tensor.shape, kind) for tensor, kind in tensors)


def _padded(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _metadata_bytes(header: GgufFile) -> int:
    """What of a file is no tensor: metadata, with the vocabulary, and names."""
    return header.path.stat().st_size - sum(_padded(tensor.size_bytes) for tensor in header.tensors)


# Hugging Face checkpoints


def _tensors(folder: Path) -> list[StoredTensor]:
    """Tensors of a folder; an output head that is tied to the embeddings is the same tensor, stored or not."""
    tensors = read_tensors(folder)
    embedded = any(gguf_name(tensor.name) == "token_embd.weight" for tensor in tensors)
    tied = _is_tied(read_model_config(folder)) and embedded
    return [tensor for tensor in tensors if not (tied and gguf_name(tensor.name) == "output.weight")]


def _is_tied(config: Mapping[str, object]) -> bool:
    inner = config.get("text_config")
    return bool(
        config.get("tie_word_embeddings", inner.get("tie_word_embeddings") if isinstance(inner, dict) else None)
    )


def _parameters(source: Source) -> int:
    if source.format is SourceFormat.gguf:
        return sum(tensor.parameters for tensor in read_gguf(source.path).tensors)
    return sum(tensor.count for tensor in _tensors(source.path))


def _beside_bytes(source: Source) -> int:
    """Tokenizer and configuration of a folder; of a GGUF's they are written anew, and not counted."""
    if source.format is SourceFormat.gguf:
        return 0
    names = folder_links(source.path)
    return sum(file.stat().st_size for name, file in names.items() if not name.endswith(".safetensors"))


def _dequantizing_bytes(source: Source, width: int) -> int:
    """A GGUF as a checkpoint: transformers unpacks it to F32 whole, and casts while the rest is still held.

    Memory: every weight as F32 and once more as it is written, and the libraries.
    """
    return _TRANSFORMERS_BYTES + _parameters(source) * (4 + width)


def _unquantized(source: Source, scheme: UnquantizedConfig) -> Estimate:
    """Every weight in the type that is asked for; what is stored so already is linked to.

    Memory: nothing for links; a cast holds the weights as they will be written, and the libraries; a GGUF as
    `_dequantizing_bytes` says.
    """
    width, count = scheme.dtype.width, _parameters(source)
    linked = source.format is SourceFormat.hf and set(read_weights(source.path).matrices) <= {scheme.dtype.stored}
    weights = sum(tensor.size_bytes for tensor in _tensors(source.path)) if linked else count * width
    if source.format is SourceFormat.gguf:
        memory = _dequantizing_bytes(source, width)
    else:
        memory = 0 if linked else _TRANSFORMERS_BYTES + count * width
    return Estimate(
        output_bytes=weights + _beside_bytes(source),
        weight_bytes=weights,
        unpacked_bytes=weights,
        quantizing_bytes=memory,
        shape=shape_of(source),
        packing=scheme.packing,
        words=scheme.label,
        notes=_without_tokenizer(source),
    )


def _without_tokenizer(source: Source) -> tuple[str, ...]:
    return ("the tokenizer's files are not counted",) if source.format is SourceFormat.gguf else ()


def _packed(source: Source, scheme: HfSchemeConfig) -> Estimate:
    """Quantized layers at the scheme's bits with the groups that the layers decide, the rest as it is stored.

    Memory: the libraries, the unquantized weights and the packed ones made of them, and the largest layer as F32. For
    schemes that look at activations also the input and output of a layer for all samples (samples × length × hidden ×
    2 × bytes of an activation), and three inputs × inputs matrices of F32 (GPTQ's Hessian, its inverse and a copy) of
    the layer with most inputs. A GGUF is made a BF16 checkpoint first.
    """
    shape = shape_of(source)
    if source.format is SourceFormat.gguf:
        layers = gguf_layers(source.path, scheme.ignore)
        width: float = FloatType.bf16.width
        steps = [_dequantizing_bytes(source, FloatType.bf16.width)]
        rest = layers.rest * FloatType.bf16.width
    else:
        layers, steps = scheme.layers_of(source.path), []
        tensors = _tensors(source.path)
        stored = sum(tensor.size_bytes for tensor in tensors)
        count = sum(tensor.count for tensor in tensors)
        width = stored / count
        rest = round(stored - layers.parameters * width)
    weights = rest + round(layers.parameters * _settled(scheme, layers).weight_bits / 8)
    plain = rest + round(layers.parameters * width)
    steps.append(_LIBRARY_BYTES + plain + weights + _workspace_bytes(scheme, layers, shape, width))
    return Estimate(
        output_bytes=weights + _beside_bytes(source),
        weight_bytes=weights,
        unpacked_bytes=plain,
        quantizing_bytes=max(steps),
        shape=shape,
        packing=scheme.packing,
        words=scheme.title,
        notes=_without_tokenizer(source),
    )


def _settled(scheme: HfSchemeConfig, layers: LayerInventory) -> HfSchemeConfig:
    """The scheme with the group size that an automatic one becomes."""
    size = scheme.settle(layers).get("group_size")
    if size is None or "group_size" not in {item.name for item in dataclasses.fields(scheme)}:
        return scheme
    settled: dict[str, Any] = {"group_size": size}
    return dataclasses.replace(scheme, **settled)


def _workspace_bytes(scheme: HfSchemeConfig, layers: LayerInventory, shape: ModelShape, width: float) -> int:
    widest = max(layers.quantized, key=lambda layer: layer.inputs, default=None)
    if widest is None:
        return 0
    single = 4 * max(layer.inputs * layer.outputs for layer in layers.quantized)
    samples = scheme.sample_set
    if samples is None:
        return single
    hidden = shape.hidden or widest.inputs
    kept = round(2 * samples.samples * samples.length * hidden * width)
    return single + kept + 3 * 4 * widest.inputs**2


def _on_loading(source: Source, scheme: LoadTimeConfig) -> Estimate:
    """The unquantized checkpoint on disk, and what the engine makes of it in memory."""
    plain = _unquantized(source, UnquantizedConfig())
    if scheme.prior(source) is None:
        size = sum(file.stat().st_size for file in folder_links(source.path).values())
        plain = dataclasses.replace(plain, output_bytes=size, quantizing_bytes=0)
    layers = gguf_layers(source.path) if source.format is SourceFormat.gguf else scheme.layers_of(source.path)
    note = "while it loads the model, the engine also holds weights that are not quantized yet"
    return dataclasses.replace(
        plain, weight_bytes=scheme.loaded_bytes(layers), words=scheme.label, notes=(*plain.notes, note)
    )


# What is quantized already


def _prequantized(source: Source) -> Estimate:
    """The source as it is, linked to: no memory is needed.

    Unpacked, every weight that is not a scale or a zero point takes 16 bits.
    """
    shape = shape_of(source)
    if source.format is SourceFormat.gguf:
        header = read_gguf(source.path)
        return Estimate(
            output_bytes=source.path.stat().st_size,
            weight_bytes=sum(_padded(tensor.size_bytes) for tensor in header.tensors),
            unpacked_bytes=2 * _parameters(source),
            quantizing_bytes=0,
            shape=shape,
            packing="gguf",
            words=gguf_label(header),
        )
    config = read_config(source.path)
    found = contents(source.path, config)
    return Estimate(
        output_bytes=sum(file.stat().st_size for file in folder_links(source.path).values()),
        weight_bytes=found.size_bytes,
        unpacked_bytes=2 * found.parameters,
        quantizing_bytes=0,
        shape=shape,
        packing=str(method_of(config)),
        words=label_of(config),
    )
