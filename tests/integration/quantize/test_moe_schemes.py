"""Mixtures of experts by llm-compressor and bitsandbytes: tiny ones, whose experts transformers fuses on loading."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from bench.base.errors import UsageError
from bench.base.progress import Progress
from bench.toolchains.worker import run_worker
from quantize.checkpoint import read_tensors
from quantize.run import ConfiguredToolchains
from quantize.schemes.bitsandbytes import BitsandbytesConfig
from quantize.schemes.fp8 import Fp8Config
from quantize.schemes.load_time import LoadTimeConfig, LoadTimeMethod
from tests.integration.quantize.test_hf_schemes import WORKER, Tiny
from tests.support import CHECKOUT

pytestmark = pytest.mark.toolchains

#: Four experts in each of two blocks, three matrices each; four of attention in each block.
EXPERTS, ATTENTION = 2 * 4 * 3, 2 * 4
MADE: dict[str, dict[str, Any]] = {
    "Qwen3Moe": {"num_experts": 4, "moe_intermediate_size": 64, "num_experts_per_tok": 2, "head_dim": 64},
    "Mixtral": {"num_local_experts": 4, "intermediate_size": 64, "num_experts_per_tok": 2},
}
#: Which tensors are of experts, and which are routers, in the checkpoint's own words.
EXPERT = {"Qwen3Moe": r"\.mlp\.experts\.\d\.(gate|up|down)_proj\.", "Mixtral": r"\.experts\.\d\.w[123]\."}
ROUTER = {"Qwen3Moe": ".mlp.gate.weight", "Mixtral": ".block_sparse_moe.gate.weight"}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Tiny]:
    made: dict[str, Tiny] = {}

    def make(kind: str) -> Tiny:
        if kind not in made:
            root = tmp_path_factory.mktemp(kind)
            tools = ConfiguredToolchains().ensure("llmcompressor", Progress())
            text = str(CHECKOUT / "bench" / "quality" / "texts" / "default.txt")
            request = {
                "task": "make",
                "folder": str(root / "tiny"),
                "text": text,
                "dtype": "bfloat16",
                "experts": kind,
                "settings": MADE[kind],
            }
            answer = run_worker(tools, WORKER, request, work_dir=root, log=root / "log", progress=Progress())
            work = {"cache": root / "cache", "work": root / "work"}
            made[kind] = Tiny(folder=root / "tiny", **work, tools=tools, ids=answer["ids"])
        return made[kind]

    return make


@pytest.mark.parametrize("kind", ["Qwen3Moe", "Mixtral"])
def test_experts_are_quantized_routers_are_not_and_it_loads_again(kind: str, tiny: Callable[[str], Tiny]) -> None:
    model = tiny(kind)
    made = model.make(Fp8Config())
    manifest = made.manifest
    assert manifest["quantized_layers"] == EXPERTS + ATTENTION
    assert manifest["warnings"] == []
    stored = {tensor.name: tensor for tensor in read_tensors(model.folder)}
    written = {tensor.name: tensor for tensor in read_tensors(made.directory)}
    assert stored.keys() <= written.keys(), "the checkpoint's own names are kept"
    assert {name.rpartition(".")[2] for name in written.keys() - stored.keys()} == {"weight_scale"}
    experts = [name for name in stored if re.search(EXPERT[kind], name)]
    routers = [name for name in stored if name.endswith(ROUTER[kind])]
    assert (len(experts), len(routers)) == (EXPERTS, 2)
    assert {written[name].type for name in experts} == {"F8_E4M3"}
    assert {written[name].type for name in routers} == {"BF16"}
    assert manifest["parameters"] == sum(tensor.count for tensor in stored.values())
    scores = model.score(made)
    assert scores.non_finite == 0
    assert scores.baseline is not None
    assert 1e-7 < scores.baseline.divergence.mean() < 0.1


def test_bitsandbytes_says_that_it_leaves_experts(tiny: Callable[[str], Tiny]) -> None:
    model = tiny("Qwen3Moe")
    blocks = [f"model.layers.{n}.mlp.experts" for n in (0, 1)]
    made = model.make(BitsandbytesConfig(double_quant=True))
    manifest = made.manifest
    assert manifest["quantized_layers"] == ATTENTION
    assert manifest["skipped_layers"] == ["lm_head", *blocks]
    (warning,) = manifest["warnings"]
    assert re.match(r"the experts, \d+ % of the weights, are not quantized: bitsandbytes packs linear", warning)
    written = {tensor.name: tensor.type for tensor in read_tensors(made.directory)}
    assert {kind for name, kind in written.items() if re.search(EXPERT["Qwen3Moe"], name)} == {"BF16"}
    on_loading = model.make(LoadTimeConfig(method=LoadTimeMethod.bitsandbytes_nf4)).manifest
    assert on_loading["quantized_layers"] == ATTENTION
    assert set(blocks) < set(on_loading["skipped_layers"])
    assert warning in on_loading["warnings"]
    # What is computed beforehand is what the written tensors take.
    assert on_loading["effective_bits_per_weight"] == pytest.approx(manifest["effective_bits_per_weight"], rel=0.02)


def test_an_ignored_name_that_loading_changes_is_refused(tiny: Callable[[str], Tiny]) -> None:
    stored = "model.layers.0.block_sparse_moe.experts.0.w2"
    with pytest.raises(UsageError, match=rf"^scheme\.ignore: '{stored}' fits no layer of the loaded model") as caught:
        tiny("Mixtral").make(Fp8Config(ignore=[stored]))
    assert "mlp.experts." in str(caught.value)
