"""Importance matrix: how much each input of each weight matrix matters for a text, measured by `llama-imatrix`."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.base.errors import CellFailure, FailureKind, UsageError
from bench.base.files import tail
from bench.base.schema import not_identity
from quantize.artefact import Artefact
from quantize.calibration import MIN_CHUNKS, CalibrationConfig
from quantize.gguf_file import read_gguf
from quantize.schemes.base import Job, Product, SchemeConfig
from quantize.source import Source, SourceFormat
from quantize.tool import Speech, run_quantizer

MATRIX_FILE = "imatrix.gguf"
_SPEECH = Speech(
    counted=re.compile(r"\[(?P<done>\d+)\]-?(?:\d|nan|inf)"),
    cause=re.compile(r" E (?:\w+: )?(.+)"),
    unit="chunks",
    total=None,
)
_TOO_SHORT = re.compile(r"tokenizes to only (\d+) tokens")


@dataclass(frozen=True, kw_only=True)
class ImatrixConfig(SchemeConfig):
    """The importance matrix of a model for a text; no choice of a user's, but what `GgufConfig` reads.

    `plain` is the scheme of the unquantized GGUF the model runs as. The output matrix is left out, as
    `llama-imatrix` does: llama.cpp quantizes it without.
    """

    kind: str = "gguf_imatrix"
    toolchain: str = not_identity("llama_cpp")
    calibration: CalibrationConfig = field(default_factory=CalibrationConfig)
    plain: SchemeConfig = not_identity(default_factory=SchemeConfig)  # noqa: RUF009 - a field specifier
    threads: int = not_identity(0)

    @property
    def label(self) -> str:
        return "importance matrix"

    @property
    def format(self) -> str:
        return "imatrix"

    def prior(self, source: Source) -> SchemeConfig | None:
        return self.plain.prior(source)

    def calibration_digest(self) -> str | None:
        return self.calibration.digest()

    def launch(self, job: Job) -> Product:
        """Unquantized GGUF and text → matrix."""
        path, made_from = master(job, self.plain)
        digest = self.calibration.digest()
        # The tool writes the names it was given into the matrix, and llama-quantize into the model.
        text = job.work / f"calibration-{digest.removeprefix('sha256:')[:16]}.txt"
        text.symlink_to(self.calibration.file())
        options = ["-f", text.name, "-o", MATRIX_FILE, "-c", str(self.calibration.context)]
        if self.calibration.chunks:
            options += ["--chunks", str(self.calibration.chunks)]
        threads = self.threads or len(os.sched_getaffinity(0))
        try:
            run = run_quantizer(
                [str(job.toolchain.executable("llama-imatrix")), "-m", str(path), *options, "-t", str(threads)],
                name="llama-imatrix",
                env=job.toolchain.environ(),
                cwd=job.work,
                log=job.log,
                progress=job.progress,
                speech=_SPEECH,
            )
        except CellFailure as failure:
            raise self._explained(failure) from None
        finally:
            text.unlink()
        shown = path.name if made_from is None else f"{made_from.label}/{path.name}"
        return Product(
            format=self.format,
            files=[MATRIX_FILE],
            command=["llama-imatrix", "-m", shown, *options, "-t", str(threads)],
            parameters=0,
            effective_bits_per_weight=None,
            tensor_types=[],
            warnings=[],
            made_from=None if made_from is None else made_from.key,
            calibration=self._measured(job, digest),
            wall_s=run.wall_s,
            cpu_s=run.cpu_s,
            peak_rss_bytes=run.peak_rss_bytes,
        )

    def _measured(self, job: Job, digest: str) -> dict[str, Any]:
        """What was really used, from the matrix itself."""
        try:
            header = read_gguf(job.work / MATRIX_FILE)
            chunks, size = (int(header.metadata[f"imatrix.{name}"]) for name in ("chunk_count", "chunk_size"))
        except (UsageError, KeyError) as error:
            message = f"llama-imatrix wrote no matrix: {error}"
            raise CellFailure(FailureKind.QUANTIZER, message, log_tail=tail(job.log)) from error
        if self.calibration.chunks > chunks:
            raise UsageError(
                f"scheme.calibration.chunks={self.calibration.chunks}: the text '{self.calibration.name}' has {chunks} "
                f"chunks of {size} tokens; give a longer text, or 0 for all of it"
            )
        name = self.calibration.name
        return {
            "name": name,
            "digest": digest,
            "context": size,
            "chunks": chunks,
            "tokens": chunks * size,
            # The text as it stands, from its beginning: nothing is drawn.
            "chat_template": False,
            "seed": None,
        }

    def _explained(self, failure: CellFailure) -> UsageError | CellFailure:
        match = _TOO_SHORT.search(failure.log_tail)
        if match is None:
            return failure
        context = self.calibration.context
        return UsageError(
            f"scheme.calibration: the text '{self.calibration.name}' has {match[1]} tokens, {MIN_CHUNKS} chunks of "
            f"{context} are needed at least; give a longer text or a smaller scheme.calibration.context"
        )


def master(job: Job, plain: SchemeConfig) -> tuple[Path, Artefact | None]:
    """The unquantized GGUF that types are made from: the source itself, its conversion, or `plain` made of it."""
    prior = plain.prior(job.source)
    converted = None if prior is None else job.make(prior)
    path = job.source.path if converted is None else converted.model_path
    if any(tensor.type.quantized for tensor in read_gguf(path).tensors):
        converted = job.make(plain)
        path = converted.model_path
    assert job.source.format is SourceFormat.gguf or converted is not None
    return path, converted
