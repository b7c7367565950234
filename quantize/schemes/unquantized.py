"""Scheme `unquantized`: the model as a Hugging Face checkpoint of 16 or 32 bit floats, the baseline of all others."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from bench.base.errors import CellFailure, FailureKind
from bench.base.schema import not_identity, schema
from bench.toolchains.worker import WorkerError, run_worker
from quantize.artefact import Artefact
from quantize.checkpoint import StoredTensor, read_tensors, read_weights, safe_view
from quantize.gguf_file import read_gguf
from quantize.links import folder_links, link, links_hold
from quantize.schemes.base import Job, Product, SchemeConfig
from quantize.schemes.hf import WORKERS, as_failure, refuse_quantized, without
from quantize.source import Source, SourceFormat

_WORKER = WORKERS / "hf_checkpoint.py"


class FloatType(StrEnum):
    """How weights are stored."""

    bf16 = "bf16"
    fp16 = "fp16"
    fp32 = "fp32"

    @property
    def stored(self) -> str:
        """What safetensors calls it."""
        return {"bf16": "BF16", "fp16": "F16", "fp32": "F32"}[self.value]

    @property
    def width(self) -> int:
        """Bytes of a weight."""
        return 4 if self is FloatType.fp32 else 2


@schema("scheme", "unquantized")
@dataclass(frozen=True, kw_only=True)
class UnquantizedConfig(SchemeConfig):
    """A checkpoint in `dtype`.

    A folder that is stored so already is linked to, another one is cast. A GGUF is dequantized and written with
    configuration and tokenizer; a GGUF that says more than transformers reads is refused.
    """

    kind: str = "unquantized"
    toolchain: str = not_identity("llmcompressor")
    dtype: FloatType = FloatType.bf16
    max_divergence: float = not_identity(0.05)

    @property
    def label(self) -> str:
        return self.dtype.value.upper()

    @property
    def format(self) -> str:
        return "hf"

    def check(self, source: Source) -> None:
        if source.format is SourceFormat.hf:
            refuse_quantized(source.path)

    def is_intact(self, source: Source, artefact: Artefact) -> bool:
        linked = any((artefact.directory / str(file["path"])).is_symlink() for file in artefact.manifest["files"])
        return not linked or links_hold(artefact, folder_links(source.path))

    def launch(self, job: Job) -> Product:
        """Link to the folder, or write one."""
        if job.source.format is SourceFormat.hf and self._is_stored(job.source.path):
            return self._linked(job)
        _refuse_full_disk(job, self.dtype)
        scratch = job.work / "scratch"
        result = self._run(job, scratch)
        files = _keep(scratch / "out", job.work, _others(scratch))
        shutil.rmtree(scratch)
        usage = result["usage"]
        return self._product(
            job,
            files,
            command=["hf_checkpoint", job.source.format.value, self.dtype.value],
            warnings=[*result["warnings"]],
            wall_s=usage["wall_s"],
            cpu_s=usage["cpu_s"],
            peak_rss_bytes=usage["peak_rss_bytes"],
        )

    def _is_stored(self, folder: Path) -> bool:
        """Whether all matrices are of this type; vectors, such as norms, may be finer."""
        return set(read_weights(folder).matrices) <= {self.dtype.stored}

    def _linked(self, job: Job) -> Product:
        started = time.monotonic()
        links = folder_links(job.source.path)
        link(links, job.work)
        job.log.write_text(f"{self.label}: linked {len(links)} files\n", encoding="utf-8")
        return self._product(
            job,
            list(links),
            command=[],
            warnings=[],
            wall_s=time.monotonic() - started,
            cpu_s=None,
            peak_rss_bytes=None,
        )

    def _run(self, job: Job, scratch: Path) -> dict[str, Any]:
        of_gguf = job.source.format is SourceFormat.gguf
        source = job.source.path if of_gguf else safe_view(job.source.path, scratch / "checkpoint")
        request = {
            "task": "gguf" if of_gguf else "cast",
            "source": str(source),
            "out": str(scratch / "out"),
            "dtype": self.dtype.value,
        }
        try:
            return run_worker(
                job.toolchain, _WORKER, request, work_dir=scratch / "worker", log=job.log, progress=job.progress
            )
        except WorkerError as error:
            if error.kind in ("unsupported", "out_of_range"):
                said = without(str(error), job.work).split(": ", 2)[-1].splitlines()[0][:500]
                message = f"{job.source.name}: {said}; choose another dtype or use a checkpoint in safetensors"
                raise CellFailure(FailureKind.QUANTIZER, message, log_tail=error.log_tail) from error
            raise as_failure(error, "transformers", job.work) from error

    def _product(self, job: Job, files: list[str], **more: Any) -> Product:
        tensors = read_tensors(job.work)
        parameters = sum(tensor.count for tensor in tensors)
        size = sum(tensor.size_bytes for tensor in tensors)
        return Product(
            format=self.format,
            files=files,
            parameters=parameters,
            effective_bits_per_weight=8 * size / parameters if parameters else None,
            tensor_types=_types(tensors),
            **more,
        )


def _types(tensors: list[StoredTensor]) -> list[dict[str, Any]]:
    """Rows as in every manifest: type, tensors, parameters, size."""
    rows: dict[str, dict[str, Any]] = {}
    for tensor in tensors:
        row = rows.setdefault(tensor.type, {"type": tensor.type, "tensors": 0, "parameters": 0, "size_bytes": 0})
        row["tensors"] += 1
        row["parameters"] += tensor.count
        row["size_bytes"] += tensor.size_bytes
    return sorted(rows.values(), key=lambda row: (-int(row["parameters"]), str(row["type"])))


def _others(scratch: Path) -> Mapping[str, Path]:
    """What a cast leaves as it is: all files of the checkpoint but weights and configuration."""
    view = scratch / "checkpoint"
    return folder_links(view) if view.is_dir() else {}


def _keep(out: Path, work: Path, others: Mapping[str, Path]) -> list[str]:
    """Move what the worker wrote into the artefact, weights first, and copy the small files it left as they are."""
    written = {file.name for file in out.iterdir()}
    for name in written:
        (out / name).rename(work / name)
    kept = [name for name in others if name not in written and not name.endswith(".safetensors")]
    for name in kept:
        shutil.copyfile(others[name], work / name)
    return sorted([*written, *kept], key=lambda name: (not name.endswith(".safetensors"), name))


def _refuse_full_disk(job: Job, dtype: FloatType) -> None:
    source = job.source
    if source.format is SourceFormat.gguf:
        count = sum(tensor.parameters for tensor in read_gguf(source.path).tensors)
    else:
        count = read_weights(source.path).parameters
    needed, free = count * dtype.width, shutil.disk_usage(job.work).free
    if free < needed:
        raise CellFailure(
            FailureKind.DISK_FULL,
            f"{dtype.value} takes about {needed >> 20} MiB of disk, {free >> 20} MiB are free; free some space",
        )
