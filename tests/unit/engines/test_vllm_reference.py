"""Which processors get the plugin for 4-bit weights in vLLM, and that vLLM would find it."""

from __future__ import annotations

import importlib.metadata
import platform

import pytest

from bench.engines.vllm_reference import PLUGIN, SAYS, lacks_kernel, reference_environment


@pytest.mark.parametrize(
    ("machine", "flags", "lacks"),
    [
        ("x86_64", "flags : fma avx2", True),
        ("x86_64", "flags : avx2 avx512f avx512_vnni", False),
        ("aarch64", "Features : asimd bf16", False),
    ],
)
def test_only_x86_without_avx512_lacks_the_kernel(
    machine: str, flags: str, lacks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    assert lacks_kernel(flags) is lacks


def test_the_plugin_is_found_on_the_path_that_vllm_is_given() -> None:
    assert reference_environment()["PYTHONPATH"] == str(PLUGIN)
    (found,) = importlib.metadata.distributions(path=[str(PLUGIN)])
    (entry,) = found.entry_points.select(group="vllm.general_plugins")
    source = (PLUGIN / f"{entry.module}.py").read_text(encoding="utf-8")
    assert f"def {entry.attr}(" in source
    assert SAYS in source
