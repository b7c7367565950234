"""Every scheme over llm-compressor and bitsandbytes on a tiny Llama, and FP8 and GPTQ on the packaged model."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bench.base.progress import Progress, ProgressEvent
from bench.engines.scoring import TokenScores, TokenWindows
from bench.engines.transformers_scoring import TransformersScorer
from bench.toolchains.toolchain import Toolchain
from bench.toolchains.worker import run_worker
from quantize.artefact import Artefact
from quantize.checkpoint import read_tensors
from quantize.layers import read_model_config
from quantize.models import LocalConfig
from quantize.run import ConfiguredToolchains, quantize
from quantize.samples import SampleSetConfig
from quantize.schemes.awq import AwqConfig
from quantize.schemes.base import SchemeConfig
from quantize.schemes.bitsandbytes import BitsandbytesConfig, BnbType
from quantize.schemes.fp8 import Fp8Activations, Fp8Config
from quantize.schemes.gptq import ActOrder, GptqConfig
from quantize.schemes.int8 import Int8Config, Int8Method
from quantize.schemes.nvfp4 import Nvfp4Config
from quantize.schemes.unquantized import UnquantizedConfig
from tests.integration.quantize.real_llama_cpp import scorable
from tests.support import CHECKOUT

pytestmark = pytest.mark.toolchains

WORKER = Path(__file__).with_name("tiny_checkpoint.py")
SET = SampleSetConfig(samples=8, length=64)
#: Seven linear layers in each of two blocks of the tiny Llama.
LAYERS, WEIGHTS = 14, 2 * (2 * 256 * 256 + 2 * 128 * 256 + 3 * 256 * 512)
WINDOW = 96


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tiny:
    """A tiny Llama that has learnt some of a text, artefacts of its own, and the text's ids."""

    folder: Path
    cache: Path
    work: Path
    tools: Toolchain
    ids: list[int]

    def make(self, scheme: SchemeConfig, progress: Progress | None = None) -> Artefact:
        model = LocalConfig(path=str(self.folder))
        return quantize(model, scheme, cache=self.cache, progress=progress or Progress())

    @functools.cached_property
    def baseline(self) -> Artefact:
        return self.make(UnquantizedConfig())

    def score(self, made: Artefact) -> TokenScores:
        """Two windows of the text the model has seen, against the unquantized checkpoint."""
        ids = np.array([[1, *self.ids[: WINDOW - 1]], [1, *self.ids[200 : 199 + WINDOW]]], dtype=np.int32)
        return TransformersScorer(self.tools).score(
            TokenWindows(ids=ids, first=8),
            variant=scorable(made),
            baseline=scorable(self.baseline),
            work_dir=self.work / made.key,
            progress=Progress(),
        )


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    root = tmp_path_factory.mktemp("hf-schemes")
    tools = ConfiguredToolchains().ensure("llmcompressor", Progress())
    text = str(CHECKOUT / "bench" / "quality" / "texts" / "default.txt")
    request = {"task": "make", "folder": str(root / "tiny"), "text": text, "dtype": "bfloat16", "steps": 40}
    made = run_worker(tools, WORKER, request, work_dir=root, log=root / "log", progress=Progress(), timeout_s=300)
    return Tiny(folder=root / "tiny", cache=root / "cache", work=root / "work", tools=tools, ids=made["ids"])


#: Scheme → label, bits of a packed weight with its scales (None: not looked at), bound on the divergence.
SCHEMES: list[tuple[SchemeConfig, str, float | None, float]] = [
    (Fp8Config(), "FP8 dynamic", 8.05, 0.05),
    (
        Fp8Config(activations=Fp8Activations.static, kv_cache=True, calibration=SET),
        "FP8 static KV samples=8 length=64",
        8.0,
        0.05,
    ),
    (Fp8Config(activations=Fp8Activations.block), "FP8 block", 8.0, 0.05),
    (Int8Config(), "INT8 W8A8 RTN", 8.05, 0.05),
    (
        Int8Config(method=Int8Method.smoothquant_gptq, calibration=SET),
        "INT8 W8A8 SmoothQuant+GPTQ samples=8 length=64",
        8.05,
        0.05,
    ),
    (GptqConfig(calibration=SET), "GPTQ W4A16 g128 samples=8 length=64", 4.13, 0.5),
    (
        GptqConfig(bits=8, group_size=32, symmetric=False, act_order=ActOrder.none, calibration=SET),
        "GPTQ W8A16 g32 samples=8 length=64 act_order=none symmetric=false",
        None,
        0.05,
    ),
    (AwqConfig(calibration=SET), "AWQ W4A16 g128 samples=8 length=64", 4.16, 0.5),
    (BitsandbytesConfig(double_quant=True), "bitsandbytes NF4 double", None, 0.5),
    (BitsandbytesConfig(type=BnbType.fp4), "bitsandbytes FP4", None, 1.0),
    (BitsandbytesConfig(type=BnbType.int8), "bitsandbytes INT8", 8.11, 0.05),
]


@pytest.mark.parametrize(("scheme", "label", "bits", "bound"), SCHEMES, ids=[entry[1] for entry in SCHEMES])
def test_a_scheme_writes_what_it_says(
    scheme: SchemeConfig, label: str, bits: float | None, bound: float, tiny: Tiny
) -> None:
    made = tiny.make(scheme)
    manifest = made.manifest
    assert manifest["label"] == label
    assert manifest["quantized_layers"] == LAYERS
    assert manifest["skipped_layers"] == ["lm_head"]
    assert manifest["warnings"] == []
    assert manifest["packing"] == read_model_config(made.directory)["quantization_config"]["quant_method"]
    assert manifest["parameters"] == WEIGHTS + 2 * 1000 * 256 + 5 * 256, "packed weights are counted as weights"
    assert 0 < manifest["peak_rss_bytes"] < 3e9
    assert str(tiny.work.parent) not in str(manifest)
    if bits is not None:
        assert packed_bits(made.directory) == pytest.approx(bits, abs=0.01)
    scores = tiny.score(made)
    assert scores.non_finite == 0
    assert scores.baseline is not None
    assert 1e-7 < scores.baseline.divergence.mean() < bound, "quantized, and not broken"


def packed_bits(folder: Path) -> float:
    """Bits that quantized layers take with all that belongs to them, per weight."""
    layers = [tensor for tensor in read_tensors(folder) if ".self_attn." in tensor.name or ".mlp." in tensor.name]
    return 8 * sum(tensor.size_bytes for tensor in layers) / WEIGHTS


def test_ignored_layers_stay_as_they_are(tiny: Tiny) -> None:
    ignore = ["model.layers.0.mlp.down_proj", "re:.*v_proj$"]
    for scheme in (Fp8Config(ignore=ignore), BitsandbytesConfig(ignore=ignore)):
        made = tiny.make(scheme)
        skipped = ["lm_head", *(f"model.layers.{n}.self_attn.v_proj" for n in (0, 1)), "model.layers.0.mlp.down_proj"]
        assert sorted(made.manifest["skipped_layers"]) == sorted(skipped)
        assert made.manifest["quantized_layers"] == LAYERS - 3
        plain = {tensor.name for tensor in read_tensors(made.directory) if tensor.type == "BF16"}
        assert {f"{name}.weight" for name in skipped} <= plain
        assert "model.layers.1.mlp.down_proj.weight" not in plain
        assert made.label.endswith("ignore=model.layers.0.mlp.down_proj+re:.*v_proj$")


def test_nvfp4_is_written_and_called_unverified(tiny: Tiny) -> None:
    made = tiny.make(Nvfp4Config(calibration=SET))
    assert "Blackwell" in made.manifest["warnings"][0]
    assert made.manifest["group_size"] == 16
    kinds = {tensor.name.rsplit(".", 1)[-1] for tensor in read_tensors(made.directory)}
    assert {"weight_packed", "weight_scale", "weight_global_scale", "input_global_scale"} <= kinds
    assert packed_bits(made.directory) == pytest.approx(4.5, abs=0.01)


def test_kv_cache_scales_are_written(tiny: Tiny) -> None:
    made = tiny.make(Fp8Config(activations=Fp8Activations.static, kv_cache=True, calibration=SET))
    names = {tensor.name for tensor in read_tensors(made.directory)}
    assert {f"model.layers.{n}.self_attn.{kind}_scale" for n in (0, 1) for kind in "kv"} <= names
    scheme = read_model_config(made.directory)["quantization_config"]["kv_cache_scheme"]
    assert (scheme["num_bits"], scheme["type"]) == (8, "float")


def test_progress_goes_layer_by_layer(tiny: Tiny) -> None:
    events: list[ProgressEvent] = []
    scheme = Int8Config(method=Int8Method.smoothquant_gptq, calibration=SampleSetConfig(samples=2, length=32))
    tiny.make(scheme, Progress(events.append))
    counted = [(event.done, event.total) for event in events if event.message == "calibrating"]
    # Two modifiers look at activations; two blocks and what comes after them.
    assert counted == [(done, 6) for done in range(1, 7)]
    assert [event.done for event in events if event.message == "packing"] == list(range(1, LAYERS + 1))


def test_the_packaged_model_in_fp8_and_gptq(made_of_packaged: Callable[[SchemeConfig], Artefact]) -> None:
    """From the GGUF: by way of one BF16 checkpoint, with groups of 64 because 576 is no multiple of 128."""
    fp8 = made_of_packaged(Fp8Config()).manifest
    gptq = made_of_packaged(GptqConfig(calibration=SampleSetConfig(samples=4, length=128))).manifest
    assert fp8["made_from"] == gptq["made_from"] is not None
    assert (gptq["label"], gptq["group_size"]) == ("GPTQ W4A16 g64 samples=4 length=128", 64)
    for manifest, size in ((fp8, 166.8e6), (gptq, 116.7e6)):
        assert manifest["quantized_layers"] == 210
        assert manifest["parameters"] == 134_515_008
        assert manifest["size_bytes"] == pytest.approx(size, rel=0.01)
        assert manifest["peak_rss_bytes"] < 3e9
    assert gptq["calibration"]["tokens"] == 4 * 128
