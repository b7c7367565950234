"""The table of support held against what vLLM and SGLang list themselves."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest

from bench.base.progress import Progress
from bench.engines.base import SupportAnswer
from bench.engines.support_matrix import CPU, CUDA, ROWS, Evidence
from bench.toolchains.config import Accelerator
from bench.toolchains.worker import run_worker
from quantize.run import ConfiguredToolchains

pytestmark = pytest.mark.toolchains

WORKER = Path(__file__).with_name("quantization_methods.py")


@pytest.fixture(scope="module")
def vllm(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("methods")
    toolchain = ConfiguredToolchains().ensure("vllm", Progress())
    return run_worker(toolchain, WORKER, {}, work_dir=folder, log=folder / "log", progress=Progress())


@pytest.fixture(scope="module")
def sglang() -> Path:
    python = ConfiguredToolchains().ensure("sglang_parser", Progress()).python
    return next((python.parents[1] / "lib").glob("python3*/site-packages"))


def listed(kind: str, accelerator: Accelerator, *, served: bool) -> dict[str, str]:
    """Format → the engine's word for it, of those that are, or are not, to be found in its list."""
    return {
        name: found.method
        for name, found in ROWS[kind, accelerator].entries.items()
        if found.evidence is Evidence.LIST and (found.answer is not SupportAnswer.NO) == served
    }


@pytest.mark.parametrize("accelerator", [CPU, CUDA])
def test_vllm_lists_what_the_table_serves_and_nothing_else(vllm: dict[str, Any], accelerator: Accelerator) -> None:
    served, refused = (listed("vllm", accelerator, served=served) for served in (True, False))
    if accelerator is CUDA:
        assert set(served.values()) == {"compressed-tensors", "gptq", "awq", "fp8_per_channel"}
    assert set(served.values()) <= set(vllm["methods"])
    assert refused == {"bitsandbytes": "bitsandbytes"}
    assert not set(refused.values()) & set(vllm["methods"])


def test_vllm_has_the_kernels_on_cpus_that_the_table_says(vllm: dict[str, Any]) -> None:
    assert vllm["on_cpu"]["nvfp4"] == []
    assert vllm["on_cpu"]["fp8_block"], "some, which need AMX"
    assert sorted(vllm["packed_on_cpu"]) == ["uint4", "uint4b8"]


def test_sglang_lists_what_the_table_serves(sglang: Path) -> None:
    source = (sglang / "sglang/srt/layers/quantization/__init__.py").read_text(encoding="utf-8")
    tables = [
        node.value
        for node in ast.parse(source).body
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "BASE_QUANTIZATION_METHODS"
    ]
    (table,) = [value for value in tables if isinstance(value, ast.Dict)]
    names = {key.value for key in table.keys if isinstance(key, ast.Constant)}
    served = set(listed("sglang", CUDA, served=True).values())
    assert served
    assert served <= names


def test_sglang_asks_for_no_bitsandbytes(sglang: Path) -> None:
    (metadata,) = sglang.glob("sglang-*.dist-info/METADATA")
    needs = [
        line for line in metadata.read_text(encoding="utf-8").splitlines() if line.startswith("Requires-Dist: bits")
    ]
    assert all("extra ==" in line for line in needs)
