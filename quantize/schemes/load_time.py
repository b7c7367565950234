"""Scheme `load_time`: the engine itself quantizes while it loads; nothing but the unquantized checkpoint is on disk."""

from __future__ import annotations

import time
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from bench.base.schema import schema
from quantize.artefact import Artefact
from quantize.checkpoint import read_tensors, read_weights
from quantize.layers import LayerInventory, gguf_layers, held_notes, linear_layers, refuse_held
from quantize.links import folder_links, link, links_hold
from quantize.schemes.base import Job, Product, SchemeConfig
from quantize.schemes.hf import refuse_quantized
from quantize.schemes.unquantized import UnquantizedConfig
from quantize.source import Source, SourceFormat

_PLAIN_BITS = 16
_SIXTEEN_BITS = ({"BF16"}, {"F16"})
_STORED = (
    "quantized by the engine on loading: what is stored and fetched is the unquantized checkpoint, bits per weight "
    "are computed, not read from tensors"
)


class LoadTimeMethod(StrEnum):
    """What the engine is asked for, in common terms; an engine that knows it not refuses it."""

    fp8 = "fp8"
    bitsandbytes_nf4 = "bitsandbytes_nf4"
    bitsandbytes_int8 = "bitsandbytes_int8"
    eetq = "eetq"


#: transformers, which carries these out, makes one parameter of all experts of a block; they replace linear modules.
_WITHOUT_EXPERTS = frozenset({LoadTimeMethod.bitsandbytes_nf4, LoadTimeMethod.bitsandbytes_int8})
_TITLES = {
    LoadTimeMethod.fp8: "FP8",
    LoadTimeMethod.bitsandbytes_nf4: "bitsandbytes NF4",
    LoadTimeMethod.bitsandbytes_int8: "bitsandbytes INT8",
    LoadTimeMethod.eetq: "EETQ INT8",
}
#: Bits of a quantized weight with its share of scales. NF4 is in blocks of 64 with scales quantized themselves
#: (arXiv:2305.14314, section 3); a scale a row is left out.
_BITS = {
    LoadTimeMethod.fp8: 8.0,
    LoadTimeMethod.bitsandbytes_nf4: 4.0 + 8 / 64 + 32 / (64 * 256),
    LoadTimeMethod.bitsandbytes_int8: 8.0,
    LoadTimeMethod.eetq: 8.0,
}


@schema("scheme", "load_time")
@dataclass(frozen=True, kw_only=True)
class LoadTimeConfig(SchemeConfig):
    """The 16-bit checkpoint, which the engine quantizes by `method` while it loads.

    The artefact is made of links. Its size is that of the checkpoint, which is what is stored and fetched;
    `loaded_bytes` and the bits per weight of the manifest are what the weights take once they are loaded, computed
    from the layers that the method quantizes. The engine's own start takes the memory of the unquantized weights.
    """

    kind: str = "load_time"
    method: LoadTimeMethod = LoadTimeMethod.fp8

    @property
    def label(self) -> str:
        return f"{_TITLES[self.method]} on loading"

    @property
    def load_method(self) -> str:
        return self.method.value

    def prior(self, source: Source) -> SchemeConfig | None:
        """A checkpoint in 16 bits is taken as it is."""
        if source.format is SourceFormat.hf and set(read_weights(source.path).matrices) in _SIXTEEN_BITS:
            return None
        return UnquantizedConfig()

    def check(self, source: Source) -> None:
        if source.format is SourceFormat.hf:
            self.layers_of(source.path)
        elif self.method in _WITHOUT_EXPERTS:
            refuse_held(gguf_layers(source.path), "bitsandbytes", source.path.name)

    def layers_of(self, folder: Path) -> LayerInventory:
        """The layers of a checkpoint as the method sees them; raises UsageError for one it can make nothing of."""
        refuse_quantized(folder)
        layers = linear_layers(folder)
        if self.method in _WITHOUT_EXPERTS:
            layers = layers.without_experts()
            refuse_held(layers, "bitsandbytes", folder.name)
        return layers

    def is_intact(self, source: Source, artefact: Artefact) -> bool:
        if self.prior(source) is None:
            return links_hold(artefact, folder_links(source.path))
        return all((artefact.directory / str(file["path"])).exists() for file in artefact.manifest["files"])

    def launch(self, job: Job) -> Product:
        """Link to the checkpoint, and say what it will take once it is loaded."""
        started = time.monotonic()
        prior = self.prior(job.source)
        made_from = None if prior is None else job.make(prior)
        folder = job.source.path if made_from is None else made_from.model_path
        layers = self.layers_of(folder)
        links = folder_links(folder)
        link(links, job.work)
        job.log.write_text(f"{self.label}: linked {len(links)} files\n", encoding="utf-8")
        parameters = sum(tensor.count for tensor in read_tensors(folder))
        loaded = self.loaded_bytes(layers)
        return Product(
            format=self.format,
            files=sorted(links, key=lambda name: (not name.endswith(".safetensors"), name)),
            command=[],
            parameters=parameters,
            effective_bits_per_weight=8 * loaded / parameters,
            tensor_types=self._types(layers),
            warnings=[
                *(made_from.manifest["warnings"] if made_from else []),
                _STORED,
                *held_notes(layers, "bitsandbytes"),
            ],
            wall_s=time.monotonic() - started,
            cpu_s=None,
            peak_rss_bytes=None,
            made_from=None if made_from is None else made_from.key,
            quantized_layers=sum(layer.count for layer in layers.quantized),
            skipped_layers=[*(layer.name for layer in layers.skipped), *layers.expert_modules],
            loaded_bytes=loaded,
        )

    def loaded_bytes(self, layers: LayerInventory) -> int:
        """Bytes of the weights in the engine: quantized layers by the method's bits, the rest in 16."""
        return int(layers.parameters * _BITS[self.method] / 8) + layers.rest * _PLAIN_BITS // 8

    def _types(self, layers: LayerInventory) -> list[dict[str, Any]]:
        quantized = int(layers.parameters * _BITS[self.method] / 8)
        rows: list[tuple[str, int | None, int, int]] = [
            (self.method.value, len(layers.quantized), layers.parameters, quantized)
        ]
        rows += [("16 bit", None, layers.rest, layers.rest * _PLAIN_BITS // 8)] if layers.rest else []
        return [
            {"type": kind, "tensors": tensors, "parameters": parameters, "size_bytes": size}
            for kind, tensors, parameters, size in rows
        ]
