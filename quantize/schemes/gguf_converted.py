"""Hugging Face folder → GGUF, written by llama.cpp's own converter: the master that all GGUF types are made from."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from bench.base.errors import CellFailure, FailureKind
from bench.base.schema import not_identity
from quantize.checkpoint import Weights, read_weights, safe_view
from quantize.inventory import inventory
from quantize.schemes.base import Job, Product, SchemeConfig
from quantize.tool import Speech, checked_gguf, run_quantizer

MODEL_FILE = "model.gguf"
SCRIPT = "convert_hf_to_gguf.py"
#: Type of the checkpoint → what the converter is asked for, bytes of a weight. 8-bit floats are dequantized to BF16;
#: types that are not here are packed, and the converter decides what they unpack to.
_OUTPUT = {"F64": ("f32", 4), "F32": ("f32", 4), "F16": ("f16", 2), "BF16": ("bf16", 2)}
_DEQUANTIZED = ("bf16", 2)
_SPEECH = Speech(
    counted=re.compile(r"Writing: +(?P<done>\d+)%"),
    cause=re.compile(r"^(?:ERROR:hf-to-gguf:|(?=(?:\w+\.)*\w*(?:Error|Exception): ))(.+)", re.MULTILINE),
    unit="%",
)
_ADVICE = (
    (r"Model (\S+) is not supported", "llama.cpp's converter does not know the architecture {0}; choose another model"),
    (
        r"BPE pre-tokenizer was not recognized",
        "llama.cpp's converter does not know this model's tokenizer; check that its tokenizer files are unchanged",
    ),
    (r"Can not map tensor '([^']+)'", "the checkpoint holds a tensor llama.cpp has no place for: {0}"),
)


@dataclass(frozen=True, kw_only=True)
class ConvertedConfig(SchemeConfig):
    """A checkpoint as GGUF in its own precision; no choice of a user's, but what `GgufConfig` reads.

    BF16 stays BF16, F16 stays F16, F32 stays F32; norms and other vectors are F32. Code of the checkpoint never runs.
    """

    kind: str = "gguf_converted"
    toolchain: str = not_identity("llama_cpp_convert")

    @property
    def label(self) -> str:
        return "converted"

    @property
    def format(self) -> str:
        return "gguf"

    def launch(self, job: Job) -> Product:
        """Hugging Face folder → GGUF of the type that holds most of its weights."""
        weights = read_weights(job.source.path)
        outtype, weight_bytes = _OUTPUT.get(weights.main_type or "F32", _DEQUANTIZED)
        _refuse_full_disk(job.work, weights.parameters * weight_bytes, outtype)
        view = safe_view(job.source.path, job.work / "view" / "checkpoint")
        options = ["--outtype", outtype, f"--model-name={job.source.name}", "--outfile", MODEL_FILE]
        script = job.toolchain.prefix / "source" / SCRIPT
        try:
            run = run_quantizer(
                [str(job.toolchain.python), "-s", "-E", str(script), *options, str(view)],
                name=SCRIPT,
                env=job.toolchain.environ({"PYTHONDONTWRITEBYTECODE": "1"}),
                cwd=job.work,
                log=job.log,
                progress=job.progress,
                speech=_SPEECH,
            )
        except CellFailure as failure:
            raise _explained(failure, job.source.path) from None
        finally:
            shutil.rmtree(view.parent)
        found = inventory(checked_gguf(job.work / MODEL_FILE, SCRIPT, job.log).tensors)
        return Product(
            format=self.format,
            files=[MODEL_FILE],
            command=[SCRIPT, *options, job.source.path.name],
            parameters=found.parameters,
            effective_bits_per_weight=found.effective_bits_per_weight,
            tensor_types=found.as_list(),
            warnings=_warnings(weights, outtype),
            wall_s=run.wall_s,
            cpu_s=run.cpu_s,
            peak_rss_bytes=run.peak_rss_bytes,
        )


def _warnings(weights: Weights, outtype: str) -> list[str]:
    """What the master does not keep: matrices stored in another type than most."""
    total = sum(weights.matrices.values())
    others = {name: count for name, count in weights.matrices.items() if name != weights.main_type}
    if weights.main_type not in _OUTPUT and weights.main_type is not None:
        return [f"the checkpoint's {weights.main_type} weights were dequantized; all types are made from {outtype}"]
    if not others:
        return []
    shares = ", ".join(f"{100 * count / total:.2g} % {name}" for name, count in sorted(others.items()))
    return [f"the checkpoint is {weights.main_type} with {shares} in its matrices; all types are made from {outtype}"]


def _explained(failure: CellFailure, folder: Path) -> CellFailure:
    """The same failure in the user's terms where the converter's are not."""
    for pattern, words in _ADVICE:
        match = re.search(pattern, failure.log_tail)
        if match:
            return CellFailure(failure.kind, f"{folder}: {words.format(*match.groups())}", log_tail=failure.log_tail)
    return failure


def _refuse_full_disk(work: Path, needed: int, outtype: str) -> None:
    free = shutil.disk_usage(work).free
    if free < needed:
        raise CellFailure(
            FailureKind.DISK_FULL,
            f"{work.parent}: the {outtype} conversion takes about {needed >> 20} MiB, {free >> 20} MiB are free; "
            "free some space",
        )
