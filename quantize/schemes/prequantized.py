"""Scheme `prequantized`: the checkpoint as it is. Nothing is computed and nothing copied.

The artefact's folder holds symbolic links to the source's files beside manifest and log, so that everything that takes
an artefact takes this one. A link that no longer leads to the source makes the artefact anew.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.base.schema import not_identity, schema
from quantize.artefact import Artefact
from quantize.ggml_types import FILE_TYPES
from quantize.gguf_file import GgufFile, read_gguf
from quantize.inventory import inventory
from quantize.links import folder_links, link, links_hold
from quantize.models import ModelConfig
from quantize.packed import contents, label_of, method_of, read_config
from quantize.schemes.base import Job, Product, SchemeConfig
from quantize.source import Source, SourceFormat

MODEL_FILE = "model.gguf"
#: Added by llama.cpp where the type was guessed from the tensors.
_GUESSED = 1024


@schema("scheme", "prequantized")
@dataclass(frozen=True, kw_only=True)
class PrequantizedConfig(SchemeConfig):
    """A checkpoint that is quantized already; its label is what it says of itself.

    From config.json's `quantization_config`, or the file type in a GGUF's header.
    """

    kind: str = "prequantized"
    toolchain: str = not_identity("")

    @property
    def format(self) -> str:
        return "gguf"

    @property
    def packing(self) -> str:
        return ""

    def format_of(self, model: ModelConfig) -> str:
        return model.stored_as

    def needs_base(self, model: ModelConfig) -> bool:
        """A GGUF can be dequantized to F16; a packed folder's unquantized form is another checkpoint."""
        return model.stored_as == "hf"

    def is_intact(self, source: Source, artefact: Artefact) -> bool:
        return links_hold(artefact, _links(source))

    def launch(self, job: Job) -> Product:
        """Look at the source and link to it."""
        started = time.monotonic()
        describe: Callable[[Source], dict[str, Any]] = _gguf if job.source.format is SourceFormat.gguf else _folder
        described = describe(job.source)
        links = _links(job.source)
        link(links, job.work)
        job.log.write_text(f"{described['label']}: linked {len(links)} files\n", encoding="utf-8")
        return Product(
            format=job.source.format.value,
            files=list(links),
            command=[],
            wall_s=time.monotonic() - started,
            cpu_s=None,
            peak_rss_bytes=None,
            **described,
        )


def _links(source: Source) -> dict[str, Path]:
    """Name in the artefact → file of the source."""
    return {MODEL_FILE: source.path} if source.format is SourceFormat.gguf else folder_links(source.path)


def _gguf(source: Source) -> dict[str, Any]:
    header = read_gguf(source.path)
    found = inventory(header.tensors)
    return {
        "label": gguf_label(header),
        "parameters": found.parameters,
        "effective_bits_per_weight": found.effective_bits_per_weight,
        "tensor_types": found.as_list(),
        "packing": "gguf",
        "warnings": [],
    }


def gguf_label(header: GgufFile) -> str:
    """The type the file says it is, else the one that most weights have; and whether a matrix guided it."""
    said = header.metadata.get("general.file_type")
    name = FILE_TYPES.get(int(said) % _GUESSED) if isinstance(said, int) else None
    name = name or inventory(header.tensors).types[0].type
    return f"{name} imatrix" if "quantize.imatrix.entries_count" in header.metadata else name


def _folder(source: Source) -> dict[str, Any]:
    config = read_config(source.path)
    found = contents(source.path, config)
    return {
        "label": label_of(config),
        "parameters": found.parameters,
        "effective_bits_per_weight": found.effective_bits_per_weight,
        "tensor_types": list(found.types),
        "packing": str(method_of(config)),
        "warnings": [],
    }
