"""Which engine serves which format on which accelerator, why, and what the answer rests on: one table for all of it.

`Engine.serves` reads it, and engines add only what depends on their settings. `quantbench engines` shows it,
`quantbench engines verify` holds it against an engine that runs.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from bench.engines.base import Support, SupportAnswer
from bench.engines.formats import FORMATS, Format, format_named, format_of_checkpoint
from bench.toolchains.config import Accelerator

CPU, CUDA = Accelerator.cpu, Accelerator.cuda


class Evidence(StrEnum):
    """What an answer rests on: it was loaded and generated here (`ran`), the engine's own list of methods, which a test
    reads (`list`), its source or documentation, which was read (`source`), or nothing.
    """

    RAN = "ran"
    LIST = "list"
    SOURCE = "source"
    NONE = "none"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One answer. `where`: the test, list or source that it rests on.

    `method`: the engine's own word, to be found in its list, or not to be found where the answer is no. `processor`: a
    flag of /proc/cpuinfo without which the answer is no, for the reason `without`.
    """

    answer: SupportAnswer
    reason: str = ""
    evidence: Evidence = Evidence.NONE
    where: str = ""
    method: str = ""
    processor: str = ""
    without: str = ""

    @property
    def support(self) -> Support:
        """As engines answer."""
        return Support(answer=self.answer, reason=self.reason)


@dataclass(frozen=True, kw_only=True)
class Row:
    """An engine on an accelerator: the file format it serves, entries by format, and why it serves nothing else."""

    serves: str = "hf"
    entries: Mapping[str, Entry] = field(default_factory=dict)
    otherwise: str = ""
    where: str = ""


def _yes(where: str, remark: str = "") -> Entry:
    return Entry(answer=SupportAnswer.YES, reason=remark, evidence=Evidence.RAN, where=where)


def _no(reason: str, evidence: Evidence, where: str, **more: Any) -> Entry:
    return Entry(answer=SupportAnswer.NO, reason=reason, evidence=evidence, where=where, **more)


def _open(reason: str, evidence: Evidence = Evidence.NONE, where: str = "", **more: Any) -> Entry:
    return Entry(answer=SupportAnswer.UNVERIFIED, reason=reason, evidence=evidence, where=where, **more)


def _listed(reason: str, where: str, methods: Mapping[str, str]) -> dict[str, Entry]:
    return {name: _open(reason, Evidence.LIST, where, method=word) for name, word in methods.items()}


_NATIVE_REFUSED = (
    "transformers serves native {0} checkpoints only with GPTQModel beside its server, which no toolchain here has: "
    "serve it with vLLM, or use scheme={0}_w4a16"
)
_VLLM_LIST = "vllm 0.32 model_executor/layers/quantization QUANTIZATION_METHODS"
_VLLM_KERNELS = "vllm 0.32 model_executor/kernels/linear"
_VLLM_LOADS = "tests/integration/quantize/test_vllm_loads.py"
_SGLANG_LIST = "sglang 0.5.23 srt/layers/quantization BASE_QUANTIZATION_METHODS"
_TGI_LIST = "text-generation-launcher --quantize, docs/source/reference/launcher.md at db931fcf"
_TGI_LOADER = "text-generation-inference server/…/layers/compressed_tensors at 575af7e6"
_TRT_LOADER = "TensorRT-LLM tensorrt_llm/models/quant_config_utils.py at 21156a7a"
_VERIFIED = "quantbench engines verify"

_LLAMA_GPU = "{0} on GPUs: the build for them is written, it was never run here"
_VLLM_GPU = "vllm on GPUs: its command line is checked against vLLM's parser, it was never run here"
_SGLANG_GPU = "sglang: its command line is checked against its own parser, it was never run"
_DOCUMENTED = "{0} on GPUs: its command line is checked against its documentation, it was never run here"
_TRANSFORMERS_GPU = "transformers on GPUs was never run here"
_NO_GPU = "{0} needs an NVIDIA GPU: choose another engine"
_NO_BITSANDBYTES = "vllm no longer loads bitsandbytes checkpoints: serve it with engine=transformers"
_UNPACKED = "without AVX-512 weights are unpacked to 16 bits: speed and memory are not those of a 4-bit kernel"


def _gguf(kind: str, where: str) -> dict[tuple[str, Accelerator], Row]:
    return {
        (kind, CPU): Row(serves="gguf", entries={"gguf": _yes(where)}),
        (kind, CUDA): Row(serves="gguf", entries={"gguf": _open(_LLAMA_GPU.format(kind))}),
    }


ROWS: Mapping[tuple[str, Accelerator], Row] = {
    **_gguf("llama_cpp", "tests/e2e/test_quickstart.py"),
    **_gguf("llama_cpp_python", "tests/integration/engines/test_llama_cpp_python.py"),
    **_gguf("xllamacpp", "tests/integration/engines/test_xllamacpp.py"),
    ("vllm", CPU): Row(
        entries={
            "unquantized": _yes(_VLLM_LOADS),
            "fp8_dynamic": _yes(_VLLM_LOADS),
            "fp8_static": _open(
                "vllm has static FP8 on CPUs with AVX-512, it was not run there",
                Evidence.RAN,
                _VERIFIED,
                processor="avx512f",
                without="vllm's wheel quantizes activations with one scale only on CPUs with AVX-512, which this one "
                "lacks: choose scheme=fp8_dynamic",
            ),
            "fp8_block": _open(
                "vllm computes FP8 in blocks on CPUs with AMX, it was not run",
                Evidence.SOURCE,
                f"{_VLLM_KERNELS}/scaled_mm/cpu.py",
                processor="amx_tile",
                without="vllm computes FP8 in blocks only on CPUs with AMX, which this one lacks: choose "
                "scheme=fp8_dynamic",
            ),
            "int8": _yes(_VLLM_LOADS),
            "w4a16": _yes(_VLLM_LOADS, _UNPACKED),
            "w8a16": _no(
                "vllm's kernel for packed integers on CPUs is for 4 bits only: choose scheme=int8_rtn",
                Evidence.SOURCE,
                f"{_VLLM_KERNELS}/mixed_precision/cpu.py",
            ),
            "nvfp4": _no(
                "vllm has no kernel for NVFP4 on CPUs: serve it on a GPU, or choose another scheme",
                Evidence.SOURCE,
                f"{_VLLM_KERNELS} _POSSIBLE_NVFP4_KERNELS",
            ),
            "bitsandbytes": _no(_NO_BITSANDBYTES, Evidence.LIST, _VLLM_LIST, method="bitsandbytes"),
            "gptq": _yes(_VERIFIED, _UNPACKED),
            "awq": _open("vllm has native AWQ on CPUs, it was not run", Evidence.LIST, _VLLM_LIST, method="awq"),
            "load_fp8": _yes(_VERIFIED),
        }
    ),
    ("vllm", CUDA): Row(
        entries={
            "unquantized": _open(_VLLM_GPU),
            **_listed(
                _VLLM_GPU,
                _VLLM_LIST,
                {
                    **dict.fromkeys(
                        ("fp8_dynamic", "fp8_static", "fp8_block", "int8", "w4a16", "w8a16", "nvfp4"),
                        "compressed-tensors",
                    ),
                    "gptq": "gptq",
                    "awq": "awq",
                    "load_fp8": "fp8_per_channel",
                },
            ),
            "bitsandbytes": _no(_NO_BITSANDBYTES, Evidence.LIST, _VLLM_LIST, method="bitsandbytes"),
        }
    ),
    ("transformers", CPU): Row(
        entries={
            "unquantized": _yes("tests/integration/engines/test_transformers_serves.py"),
            **{
                name: _yes("tests/integration/quantize/test_hf_schemes.py")
                for name in ("fp8_dynamic", "fp8_static", "fp8_block", "int8", "w4a16", "w8a16", "bitsandbytes")
            },
            "nvfp4": _open(
                "transformers loads NVFP4 on CPUs, but scoring it fails (float32 times BF16), so it was never served",
                Evidence.RAN,
                _VERIFIED,
            ),
            **{
                name: _no(
                    _NATIVE_REFUSED.format(name),
                    Evidence.SOURCE,
                    "transformers 5.17 quantizers/quantizer_gptq.py and quantizer_awq.py",
                )
                for name in ("gptq", "awq")
            },
            "load_bitsandbytes_nf4": _yes(_VERIFIED),
            "load_bitsandbytes_int8": _yes(_VERIFIED),
        }
    ),
    ("transformers", CUDA): Row(
        entries={
            **{
                name: _open(_TRANSFORMERS_GPU)
                for name in (
                    *("unquantized", "fp8_dynamic", "fp8_static", "fp8_block", "int8", "w4a16", "w8a16", "nvfp4"),
                    *("bitsandbytes", "load_bitsandbytes_nf4", "load_bitsandbytes_int8"),
                )
            },
            **{
                name: _no(
                    _NATIVE_REFUSED.format(name),
                    Evidence.SOURCE,
                    "transformers 5.17 quantizers/quantizer_gptq.py and quantizer_awq.py",
                )
                for name in ("gptq", "awq")
            },
        }
    ),
    ("sglang", CPU): Row(
        otherwise="sglang has no kernels for CPUs on the package index: choose engine=vllm or a toolchain for GPUs",
        where="the files of sglang 0.5.23 on the package index",
    ),
    ("sglang", CUDA): Row(
        entries={
            "unquantized": _open(_SGLANG_GPU),
            **_listed(
                _SGLANG_GPU,
                _SGLANG_LIST,
                {
                    **dict.fromkeys(
                        ("fp8_dynamic", "fp8_static", "fp8_block", "int8", "w4a16", "w8a16", "nvfp4"),
                        "compressed-tensors",
                    ),
                    "gptq": "gptq_marlin",
                    "awq": "awq",
                    "load_fp8": "fp8",
                },
            ),
            "bitsandbytes": _no(
                "sglang comes without bitsandbytes: serve it with engine=transformers",
                Evidence.SOURCE,
                "requirements of sglang 0.5.23",
            ),
        }
    ),
    ("tgi", CPU): Row(otherwise=_NO_GPU.format("tgi"), where="text-generation-inference README at db931fcf"),
    ("tgi", CUDA): Row(
        entries={
            "unquantized": _open(_DOCUMENTED.format("tgi")),
            **_listed(
                _DOCUMENTED.format("tgi"),
                _TGI_LIST,
                {
                    **dict.fromkeys(("fp8_dynamic", "fp8_static", "int8", "w4a16", "w8a16"), "compressed-tensors"),
                    "gptq": "gptq",
                    "awq": "awq",
                    "load_fp8": "fp8",
                    "load_eetq": "eetq",
                    "load_bitsandbytes_nf4": "bitsandbytes-nf4",
                    "load_bitsandbytes_int8": "bitsandbytes",
                },
            ),
            "fp8_block": _no(
                "tgi reads one scale a tensor or a row of compressed-tensors' FP8, none of blocks: choose fp8_dynamic",
                Evidence.SOURCE,
                f"{_TGI_LOADER}/w8an_fp.py",
            ),
            "nvfp4": _no("tgi has no loader for NVFP4: choose another engine", Evidence.SOURCE, _TGI_LOADER),
            "bitsandbytes": _no(
                "tgi quantizes with bitsandbytes while loading, and loads no packed checkpoint: use scheme="
                "load_bitsandbytes_nf4 or load_bitsandbytes_int8",
                Evidence.SOURCE,
                "text-generation-inference server/…/layers/bnb.py",
            ),
        }
    ),
    ("tensorrt_llm", CPU): Row(otherwise=_NO_GPU.format("tensorrt_llm"), where="TensorRT-LLM README"),
    ("tensorrt_llm", CUDA): Row(
        entries={
            "unquantized": _open(_DOCUMENTED.format("tensorrt_llm")),
            **{
                name: _open(_DOCUMENTED.format("tensorrt_llm"), Evidence.SOURCE, _TRT_LOADER)
                for name in ("fp8_dynamic", "fp8_block", "nvfp4")
            },
            "fp8_static": _no(
                "tensorrt_llm reads compressed-tensors' FP8 by channel or block, not with one scale: choose "
                "scheme=fp8_dynamic",
                Evidence.SOURCE,
                _TRT_LOADER,
            ),
            **{
                name: _no(
                    "tensorrt_llm reads no integers of compressed-tensors: choose scheme=fp8_dynamic",
                    Evidence.SOURCE,
                    _TRT_LOADER,
                )
                for name in ("int8", "w4a16", "w8a16")
            },
            **{name: _open(_DOCUMENTED.format("tensorrt_llm")) for name in ("gptq", "awq", "bitsandbytes")},
        }
    ),
}


def kinds() -> list[str]:
    """Engines that have a row."""
    return list(dict.fromkeys(kind for kind, _ in ROWS))


def entry(kind: str, accelerator: Accelerator, wanted: Format) -> Entry | None:
    """The answer for a format here; None for an engine that the table does not know."""
    row = ROWS.get((kind, accelerator))
    if row is None:
        return None
    if wanted.written_as != row.serves:
        return _no(wrong_format(kind, row.serves, wanted.written_as), Evidence.SOURCE, "")
    found = row.entries.get(wanted.name)
    if found is None:
        missing = f"{kind} does not quantize by {wanted.load_method} while loading: choose another engine"
        return _no(row.otherwise or missing, Evidence.SOURCE, row.where)
    if found.processor and found.processor not in processor_flags():
        return _no(found.without, found.evidence, found.where)
    return found


def answer(
    kind: str, accelerator: Accelerator, written_as: str, *, packing: str = "", load_method: str = ""
) -> Support | None:
    """The best answer for what is known of a model; None for an engine that the table does not know.

    Kernels differ inside a packing, so one that serves some of it is not refused the rest here.
    """
    row = ROWS.get((kind, accelerator))
    if row is None:
        return None
    if written_as != row.serves:
        return Support(answer=SupportAnswer.NO, reason=wrong_format(kind, row.serves, written_as))
    asked = [known for known in FORMATS if known.written_as == written_as and known.load_method == load_method]
    packed = [known for known in asked if known.packing == packing] or asked
    found = [entry(kind, accelerator, known) for known in packed]
    best = min((one for one in found if one is not None), key=lambda one: _ORDER.index(one.answer), default=None)
    return None if best is None else Support(answer=best.answer, reason=best.reason)


def of_checkpoint(kind: str, accelerator: Accelerator, folder: Path) -> Support | None:
    """The answer for a Hugging Face folder; None where its format is not known."""
    name = format_of_checkpoint(folder)
    found = entry(kind, accelerator, format_named(name)) if name else None
    return None if found is None else Support(answer=found.answer, reason=found.reason)


_ORDER = (SupportAnswer.YES, SupportAnswer.UNVERIFIED, SupportAnswer.NO)


def wrong_format(kind: str, serves: str, model_format: str) -> str:
    """Why an engine does not take a file format."""
    if serves == "gguf":
        return f"{kind} serves GGUF files, not {model_format}: choose a gguf scheme or another engine"
    return f"{kind} serves Hugging Face checkpoints, not {model_format}: choose engine=llama_cpp"


@functools.cache
def processor_flags() -> frozenset[str]:
    """What the processor can do, in the kernel's words; empty where it does not say."""
    try:
        return frozenset(Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split())
    except OSError:
        return frozenset()
