"""Scheme `gguf`: llama.cpp's own types, written by `llama-quantize`."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from bench.base.errors import CellFailure, FailureKind
from bench.base.schema import not_identity, schema
from quantize.gguf_file import GgufFile, read_gguf
from quantize.inventory import fallback_warning, ggml_type, inventory
from quantize.schemes.base import Job, Product, SchemeConfig
from quantize.schemes.gguf_converted import ConvertedConfig
from quantize.source import Source, SourceFormat
from quantize.tool import Speech, checked_gguf, run_quantizer

MODEL_FILE = "model.gguf"
_SPEECH = Speech(
    counted=re.compile(r"^\[ *(?P<done>\d+)/ *(?P<total>\d+)\]", re.MULTILINE),
    cause=re.compile(r"failed to quantize: (.+)"),
    unit="tensors",
)


class GgufType(StrEnum):
    """The types `llama-quantize` is asked for. K and IQ types are mixes of several tensor types."""

    F32 = "F32"
    F16 = "F16"
    BF16 = "BF16"
    Q8_0 = "Q8_0"
    Q6_K = "Q6_K"
    Q5_K_M = "Q5_K_M"
    Q5_K_S = "Q5_K_S"
    Q5_1 = "Q5_1"
    Q5_0 = "Q5_0"
    Q4_K_M = "Q4_K_M"
    Q4_K_S = "Q4_K_S"
    Q4_1 = "Q4_1"
    Q4_0 = "Q4_0"
    IQ4_NL = "IQ4_NL"
    IQ4_XS = "IQ4_XS"
    Q3_K_L = "Q3_K_L"
    Q3_K_M = "Q3_K_M"
    Q3_K_S = "Q3_K_S"
    Q2_K = "Q2_K"


@schema("scheme", "gguf")
@dataclass(frozen=True, kw_only=True)
class GgufConfig(SchemeConfig):
    """A GGUF of one type. `threads` 0: all cores this process may use; the bytes do not depend on it.

    A Hugging Face folder is first converted, by toolchain `converter`, to a GGUF in its own precision. A source that is
    quantized already is first dequantized to an F16 artefact. From these all types are made.
    """

    kind: str = "gguf"
    type: GgufType = GgufType.Q8_0
    toolchain: str = not_identity("llama_cpp")
    converter: str = not_identity("llama_cpp_convert")
    threads: int = not_identity(0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.threads < 0:
            raise ValueError(f"scheme.threads={self.threads} must be 0 (all cores) or more")

    @property
    def label(self) -> str:
        return self.type.value

    @property
    def format(self) -> str:
        return "gguf"

    def prior(self, source: Source) -> SchemeConfig | None:
        return ConvertedConfig(toolchain=self.converter) if source.format is SourceFormat.hf else None

    def launch(self, job: Job) -> Product:
        """Source → (GGUF when it is a folder) → (F16 artefact when it is quantized) → this type."""
        prior = self.prior(job.source)
        made_from = None if prior is None else job.make(prior)
        origin = job.source.path if made_from is None else made_from.model_path
        header = read_gguf(origin)
        if self.type is not GgufType.F16 and any(tensor.type.quantized for tensor in header.tensors):
            made_from = job.make(dataclasses.replace(self, type=GgufType.F16))
            origin = made_from.model_path
        shown = origin.name if made_from is None else f"{made_from.label}/{origin.name}"
        _refuse_full_disk(job.work, header, self.type)
        threads = self.threads or len(os.sched_getaffinity(0))
        program = str(job.toolchain.executable("llama-quantize"))
        options, rest = ["--allow-requantize"], [MODEL_FILE, self.type.value, str(threads)]
        run = run_quantizer(
            [program, *options, str(origin), *rest],
            name="llama-quantize",
            env=job.toolchain.environ(),
            cwd=job.work,
            log=job.log,
            progress=job.progress,
            speech=_SPEECH,
        )
        written = checked_gguf(job.work / MODEL_FILE, "llama-quantize", job.log)
        found = inventory(written.tensors)
        warning = fallback_warning(written.tensors, self.type.value)
        return Product(
            format=self.format,
            files=[MODEL_FILE],
            command=["llama-quantize", *options, shown, *rest],
            parameters=found.parameters,
            effective_bits_per_weight=found.effective_bits_per_weight,
            tensor_types=found.as_list(),
            warnings=[*(made_from.manifest["warnings"] if made_from else []), *([warning] if warning else [])],
            made_from=None if made_from is None else made_from.key,
            wall_s=run.wall_s,
            cpu_s=run.cpu_s,
            peak_rss_bytes=run.peak_rss_bytes,
        )


def _refuse_full_disk(work: Path, header: GgufFile, asked: GgufType) -> None:
    """Refuse before the work begins when the tensors alone would not fit."""
    kind = ggml_type(asked.value)
    needed = inventory(header.tensors).parameters * kind.block_bytes // kind.block
    free = shutil.disk_usage(work).free
    if free < needed:
        raise CellFailure(
            FailureKind.DISK_FULL,
            f"{work.parent}: {asked.value} takes about {needed >> 20} MiB, {free >> 20} MiB are free; free some space",
        )
