"""Scheme `gguf`: llama.cpp's own types, written by `llama-quantize`."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from bench.base.errors import CellFailure, FailureKind
from bench.base.schema import identity_when_changed, not_identity, schema
from quantize.artefact import SKETCH_FILE, Artefact
from quantize.calibration import CalibrationConfig
from quantize.gguf_file import GgufFile, read_gguf
from quantize.inventory import fallback_warning, ggml_type, inventory
from quantize.schemes.base import Job, Product, SchemeConfig
from quantize.schemes.gguf_converted import ConvertedConfig
from quantize.schemes.gguf_imatrix import MATRIX_FILE, ImatrixConfig, master
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
    Q2_K_S = "Q2_K_S"
    IQ3_M = "IQ3_M"
    IQ3_S = "IQ3_S"
    IQ3_XS = "IQ3_XS"
    IQ3_XXS = "IQ3_XXS"
    IQ2_M = "IQ2_M"
    IQ2_S = "IQ2_S"
    IQ2_XS = "IQ2_XS"
    IQ2_XXS = "IQ2_XXS"
    IQ1_M = "IQ1_M"
    IQ1_S = "IQ1_S"


#: Types that `llama-quantize` refuses to write without an importance matrix, at least where rows fit their blocks.
NEED_IMATRIX = frozenset(
    {
        GgufType.Q2_K_S,
        GgufType.IQ3_XS,
        GgufType.IQ3_XXS,
        GgufType.IQ2_M,
        GgufType.IQ2_S,
        GgufType.IQ2_XS,
        GgufType.IQ2_XXS,
        GgufType.IQ1_M,
        GgufType.IQ1_S,
    }
)
#: Types whose bytes an importance matrix does not change.
IGNORE_IMATRIX = frozenset({GgufType.F32, GgufType.F16, GgufType.BF16, GgufType.Q8_0})
_UNUSED = re.compile(r"did not find weights for (\S+)")
_NEVER_MEASURED = ("token_embd.weight", "output.weight")
#: What llama-quantize calls the matrix in the model's metadata: no path of this machine.
_MATRIX_LINK = "imatrix.gguf"


@schema("scheme", "gguf")
@dataclass(frozen=True, kw_only=True)
class GgufConfig(SchemeConfig):
    """A GGUF of one type. `threads` 0: all cores this process may use; the bytes do not depend on it.

    With `imatrix` the error of inputs that matter more for the `calibration` text weighs more.

    A Hugging Face folder is first converted, by toolchain `converter`, to a GGUF in its own precision. A source that is
    quantized already is first dequantized to an F16 artefact. From these all types are made.
    """

    kind: str = "gguf"
    type: GgufType = GgufType.Q8_0
    toolchain: str = not_identity("llama_cpp")
    converter: str = not_identity("llama_cpp_convert")
    threads: int = not_identity(0)
    imatrix: bool = identity_when_changed(False)
    calibration: CalibrationConfig = identity_when_changed(default_factory=CalibrationConfig)  # noqa: RUF009

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.threads < 0:
            raise ValueError(f"scheme.threads={self.threads} must be 0 (all cores) or more")
        if self.type in NEED_IMATRIX and not self.imatrix:
            raise ValueError(f"scheme.type={self.type} needs an importance matrix; add scheme.imatrix=true")
        if self.imatrix and self.type in IGNORE_IMATRIX:
            raise ValueError(f"scheme.type={self.type} makes no use of an importance matrix; drop scheme.imatrix")
        if not self.imatrix and self.calibration != CalibrationConfig():
            raise ValueError("scheme.calibration is used for an importance matrix only; add scheme.imatrix=true")

    @property
    def label(self) -> str:
        return f"{self.type.value} imatrix" if self.imatrix else self.type.value

    @property
    def format(self) -> str:
        return "gguf"

    def prior(self, source: Source) -> SchemeConfig | None:
        return ConvertedConfig(toolchain=self.converter) if source.format is SourceFormat.hf else None

    @property
    def _plain(self) -> GgufConfig:
        """The unquantized GGUF that is made of a quantized source."""
        return dataclasses.replace(self, type=GgufType.F16, imatrix=False, calibration=CalibrationConfig())

    def calibration_digest(self) -> str | None:
        return self.calibration.digest() if self.imatrix else None

    def launch(self, job: Job) -> Product:
        """Source → (GGUF when it is a folder) → (F16 artefact when it is quantized) → (matrix) → this type."""
        if self.type is GgufType.F16:
            prior = self.prior(job.source)
            made_from = None if prior is None else job.make(prior)
            origin = job.source.path if made_from is None else made_from.model_path
        else:
            origin, made_from = master(job, self._plain)
        shown = origin.name if made_from is None else f"{made_from.label}/{origin.name}"
        _refuse_full_disk(job.work, read_gguf(origin), self.type)
        matrix = self._matrix(job) if self.imatrix else None
        threads = self.threads or len(os.sched_getaffinity(0))
        program = str(job.toolchain.executable("llama-quantize"))
        options, rest = ["--allow-requantize"], [MODEL_FILE, self.type.value, str(threads)]
        if matrix is not None:
            (job.work / _MATRIX_LINK).symlink_to(matrix.directory / MATRIX_FILE)
            options += ["--imatrix", _MATRIX_LINK]
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
        calibration = None
        warnings = [*(made_from.manifest["warnings"] if made_from else []), *self._warnings(job, written)]
        if matrix is not None:
            (job.work / _MATRIX_LINK).unlink()
            calibration = {**matrix.manifest["calibration"], "matrix": matrix.key, "sketch": self._sketch(job.work)}
        return Product(
            format=self.format,
            files=[MODEL_FILE] if matrix is None else [MODEL_FILE, SKETCH_FILE],
            command=["llama-quantize", *options, shown, *rest],
            parameters=found.parameters,
            effective_bits_per_weight=found.effective_bits_per_weight,
            tensor_types=found.as_list(),
            warnings=warnings,
            calibration=calibration,
            made_from=None if made_from is None else made_from.key,
            wall_s=run.wall_s,
            cpu_s=run.cpu_s,
            peak_rss_bytes=run.peak_rss_bytes,
        )

    def _matrix(self, job: Job) -> Artefact:
        return job.make(
            ImatrixConfig(
                toolchain=self.toolchain, calibration=self.calibration, plain=self._plain, threads=self.threads
            )
        )

    def _sketch(self, work: Path) -> dict[str, Any]:
        """The sketch of the whole text, also where only its first chunks were used."""
        from quantize.sketch import write_sketch

        return write_sketch(work, [self.calibration.file().read_text(encoding="utf-8")])

    def _warnings(self, job: Job, written: GgufFile) -> list[str]:
        """Tensors that fell back, and those the calibration text never reached."""
        fallback = fallback_warning(written.tensors, self.type.value)
        warnings = [] if fallback is None else [fallback]
        said = job.log.read_text(encoding="utf-8", errors="replace") if self.imatrix else ""
        missed = [name for name in _UNUSED.findall(said) if name not in _NEVER_MEASURED]
        if missed:
            warnings.append(
                f"{len(missed)} tensors were quantized without importance, first {missed[0]}: the calibration text "
                "does not reach them; give a longer one"
            )
        return warnings


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
