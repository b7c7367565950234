"""GPTQ, AWQ, FP8 and INT8 variants of the packaged model in real vLLM: it is the variant that runs there."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
import pytest
from numpy.typing import NDArray

from bench.base.progress import Progress
from bench.engines.transformers_scoring import TransformersScorer
from bench.engines.vllm_reference import PLUGIN, lacks_kernel, reference_environment
from bench.toolchains.toolchain import Toolchain
from bench.toolchains.worker import run_worker
from quantize.artefact import Artefact
from quantize.run import ConfiguredToolchains
from quantize.samples import SampleSetConfig
from quantize.schemes.awq import AwqConfig
from quantize.schemes.base import SchemeConfig
from quantize.schemes.fp8 import Fp8Config
from quantize.schemes.gptq import GptqConfig
from quantize.schemes.int8 import Int8Config
from quantize.schemes.unquantized import UnquantizedConfig
from tests.integration.quantize.real_llama_cpp import scorable
from tests.support import CHECKOUT

pytestmark = pytest.mark.toolchains

WORKER = Path(__file__).with_name("full_logprobs.py")
TEXT = CHECKOUT / "bench" / "quality" / "texts" / "default.txt"
WINDOWS, CONTEXT = 2, 96
#: vLLM multiplies FP8 on a CPU by oneDNN's plain reference, at seconds a token.
FEWER = {"fp8": (1, 24)}
#: What is done to the embeddings to see how far a variant is from itself, as a share of each number.
PERTURBATION = 1e-6
SET = SampleSetConfig(samples=4, length=128)
VARIANTS: dict[str, SchemeConfig] = {
    "fp8": Fp8Config(),
    "int8": Int8Config(),
    "gptq": GptqConfig(calibration=SET),
    "awq": AwqConfig(calibration=SET),
}

Floats = NDArray[np.float64]
Made = Callable[[SchemeConfig], Artefact]


class Scored(Protocol):
    """Log-probabilities of an artefact in an engine, shape (windows, context - 1, vocabulary)."""

    def __call__(
        self, engine: str, artefact: Artefact, shape: tuple[int, int], *, perturbation: float = ...
    ) -> Floats: ...


def divergence(reference: Floats, other: Floats) -> float:
    """Mean KL(reference ‖ other) in nat a token, over the whole vocabulary."""
    return float((np.exp(reference) * (reference - other)).sum(axis=-1).mean())


def processor_flags() -> set[str]:
    return set(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())


def multiplies_bytes_exactly() -> bool:
    """Whether the processor has VNNI. Without it oneDNN's products of 8-bit integers, which vLLM uses, lose precision
    or saturate (its developer guide, "Nuances of int8 computations")."""
    return bool({"avx512_vnni", "avx_vnni"} & processor_flags())


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory, made_of_packaged: Made) -> Scored:
    root = tmp_path_factory.mktemp("scored")
    names = {"transformers": "llmcompressor", "vllm": "vllm"}
    tools: dict[str, Toolchain] = {
        engine: ConfiguredToolchains().ensure(name, Progress()) for engine, name in names.items()
    }
    tokens = TransformersScorer(tools["transformers"]).tokenize(
        scorable(made_of_packaged(UnquantizedConfig())), TEXT, work_dir=root, progress=Progress()
    )

    def score(engine: str, artefact: Artefact, shape: tuple[int, int], *, perturbation: float = 0.0) -> Floats:
        work = root / f"{engine}-{shape[0]}x{shape[1]}-{perturbation}-{artefact.key}"
        windows, arrays = work / "windows.npy", work / "logprobs.npy"
        if not arrays.exists():
            work.mkdir(parents=True, exist_ok=True)
            np.save(windows, tokens.ids[: shape[0] * shape[1]].reshape(shape), allow_pickle=False)
            request = {
                "engine": engine,
                "model": str(artefact.directory),
                "perturbation": perturbation,
                "windows": str(windows),
                "arrays": str(arrays),
                "path": [str(PLUGIN)] if lacks_kernel() else [],
            }
            run_worker(
                tools[engine],
                WORKER,
                request,
                work_dir=work,
                log=work / "log",
                progress=Progress(),
                env={
                    "VLLM_CPU_KVCACHE_SPACE": "1",
                    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
                    **(reference_environment() if lacks_kernel() else {}),
                },
                timeout_s=900,
            )
        return np.asarray(np.load(arrays, allow_pickle=False), dtype=np.float64)

    return score


@pytest.mark.parametrize("name", VARIANTS)
def test_the_variant_itself_runs_in_vllm(name: str, made_of_packaged: Made, scored: Scored) -> None:
    """Across engines it differs by a fifth of what quantizing changed at most, beyond the noise of both measurements.

    The noise: the base across engines, and the variant against itself when its embeddings change by a millionth. Where
    activations are quantized, a change however small moves some to the next step, and thirty layers make much of it.
    Without AVX-512 vLLM's kernel for 4-bit weights does not exist, and the plugin's runs. FP8 and GPTQ run always, what
    is left of the four in `make test-whole`.
    """
    if name not in ("fp8", "gptq") and not os.environ.get("QUANTBENCH_TEST_WHOLE"):
        pytest.skip("on demand: make test-whole")
    base, variant = made_of_packaged(UnquantizedConfig()), made_of_packaged(VARIANTS[name])
    shape = FEWER.get(name, (WINDOWS, CONTEXT))
    base_elsewhere, variant_elsewhere = scored("transformers", base, shape), scored("transformers", variant, shape)
    in_vllm = scored("vllm", variant, shape)
    base_floor = divergence(base_elsewhere, scored("vllm", base, shape))
    own_floor = divergence(variant_elsewhere, scored("transformers", variant, shape, perturbation=PERTURBATION))
    across = divergence(in_vllm, variant_elsewhere)
    lost = divergence(base_elsewhere, variant_elsewhere)
    from_base = divergence(base_elsewhere, in_vllm)
    figures = {
        "variant": name,
        "variant across engines": across,
        "base to variant": lost,
        "base across engines": base_floor,
        "variant to itself perturbed": own_floor,
        "base to variant in vLLM": from_base,
    }
    print(figures)
    assert from_base > 5 * base_floor, f"what runs there is the base: {figures}"
    exact = name != "int8" or multiplies_bytes_exactly()
    assert across <= (lost / 5 if exact else lost) + base_floor + own_floor, figures
