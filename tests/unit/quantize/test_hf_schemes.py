"""Schemes for Hugging Face checkpoints: labels, recipes, keys, and what is refused before any work."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from bench.base.errors import UsageError
from bench.base.progress import Progress
from bench.pipeline.schemas import register_all
from bench.plan.plan import plan
from bench.toolchains.toolchain import Toolchain
from quantize.layers import LayerInventory, LinearLayer, linear_layers
from quantize.models import LocalConfig
from quantize.run import artefact_key, quantize, scheme_key
from quantize.samples import SampleSetConfig
from quantize.schemes.awq import AwqConfig
from quantize.schemes.base import SchemeConfig
from quantize.schemes.bitsandbytes import BitsandbytesConfig, BnbType
from quantize.schemes.fp8 import Fp8Activations, Fp8Config
from quantize.schemes.gguf import GgufConfig, GgufType
from quantize.schemes.gptq import ActOrder, GptqConfig
from quantize.schemes.gptqmodel import GptqModelConfig
from quantize.schemes.hf import HfSchemeConfig
from quantize.schemes.int8 import Int8Config, Int8Method
from quantize.schemes.llmcompressor import Devices, LlmCompressorConfig
from quantize.schemes.nvfp4 import Nvfp4Config
from quantize.schemes.own_baseline import OwnBaselineConfig
from quantize.schemes.prequantized import PrequantizedConfig
from quantize.schemes.unquantized import FloatType, UnquantizedConfig
from quantize.source import Source, SourceFormat
from tests.unit.quantize.gguf_writer import write_gguf
from tests.unit.quantize.test_layers import LLAMA, block, checkpoint

register_all()

SET = SampleSetConfig(samples=8, length=64)
STATIC = Fp8Config(activations=Fp8Activations.static)
SMOOTH = Int8Config(method=Int8Method.smoothquant_gptq)


def inventory(*layers: LinearLayer, skipped: tuple[LinearLayer, ...] = ()) -> LayerInventory:
    return LayerInventory(quantized=layers, skipped=skipped, ignore=("lm_head", "re:.*gate$"), other=0)


def layer(name: str = "l", inputs: int = 256, outputs: int = 256, *, row: bool = False) -> LinearLayer:
    return LinearLayer(name=name, inputs=inputs, outputs=outputs, splits_inputs=row)


@pytest.mark.parametrize(
    ("scheme", "label"),
    [
        (Fp8Config(), "FP8 dynamic"),
        (Fp8Config(activations=Fp8Activations.block), "FP8 block"),
        (Fp8Config(kv_cache=True, calibration=SET), "FP8 dynamic KV samples=8 length=64"),
        (Fp8Config(ignore=["a.b", "re:.*v_proj$"]), "FP8 dynamic ignore=a.b+re:.*v_proj$"),
        (Int8Config(), "INT8 W8A8 RTN"),
        (dataclasses.replace(SMOOTH, smoothing=0.5), "INT8 W8A8 SmoothQuant+GPTQ smoothing=0.5"),
        (GptqConfig(), "GPTQ W4A16"),
        (GptqConfig(bits=8, group_size=32, symmetric=False), "GPTQ W8A16 g32 symmetric=false"),
        (GptqConfig(group_size=-1, act_order=ActOrder.none), "GPTQ W4A16 g-1 act_order=none"),
        (AwqConfig(tensor_parallel=2), "AWQ W4A16 tensor_parallel=2"),
        (
            AwqConfig(calibration=SampleSetConfig(text="/my/folder/c.jsonl", seed=3, chat_template=True)),
            "AWQ W4A16 text=c.jsonl seed=3 chat_template=true",
        ),
        (BitsandbytesConfig(double_quant=True), "bitsandbytes NF4 double"),
        (BitsandbytesConfig(type=BnbType.int8), "bitsandbytes INT8"),
        (Nvfp4Config(), "NVFP4"),
        (Nvfp4Config(weights_only=True), "NVFP4 W4A16"),
        (UnquantizedConfig(), "BF16"),
        (UnquantizedConfig(dtype=FloatType.fp32), "FP32"),
    ],
)
def test_labels(scheme: SchemeConfig, label: str) -> None:
    assert scheme.label == label
    how: dict[str, Any] = {"max_divergence": 9.0, "toolchain": "elsewhere"}
    if isinstance(scheme, HfSchemeConfig):
        how["threads"] = 3
    if isinstance(scheme, LlmCompressorConfig):
        how |= {"devices": Devices.disk, "activations_on": "cuda:1"}
    assert dataclasses.replace(scheme, **how).label == label, "how it is made is no other variant"


def test_group_sizes_of_a_sweep_are_told_apart() -> None:
    cells = plan(["scheme=gptq", "scheme.group_size=0,32,64"], multirun=True).cells
    assert [cell.label.split(" · ")[0] for cell in cells] == ["GPTQ W4A16", "GPTQ W4A16 g32", "GPTQ W4A16 g64"]


PLAIN = {"targets": ["Linear"]}


def groups(bits: int, *, symmetric: bool, **more: Any) -> dict[str, Any]:
    weights = {"num_bits": bits, "type": "int", "symmetric": symmetric, "dynamic": False, **more}
    return {"group_0": {"targets": ["Linear"], "weights": weights}}


@pytest.mark.parametrize(
    ("scheme", "steps"),
    [
        (Fp8Config(), [{"modifier": "QuantizationModifier", "scheme": "FP8_DYNAMIC", **PLAIN}]),
        (STATIC, [{"modifier": "QuantizationModifier", "scheme": "FP8", **PLAIN}]),
        (
            Fp8Config(activations=Fp8Activations.block),
            [{"modifier": "QuantizationModifier", "scheme": "FP8_BLOCK", **PLAIN}],
        ),
        (
            Fp8Config(kv_cache=True),
            [
                {
                    "modifier": "QuantizationModifier",
                    "scheme": "FP8_DYNAMIC",
                    **PLAIN,
                    "kv_cache_scheme": {
                        "num_bits": 8,
                        "type": "float",
                        "strategy": "tensor",
                        "dynamic": False,
                        "symmetric": True,
                    },
                }
            ],
        ),
        (Int8Config(), [{"modifier": "QuantizationModifier", "scheme": "W8A8", **PLAIN}]),
        (
            dataclasses.replace(SMOOTH, smoothing=0.5, damping=0.1),
            [
                {"modifier": "SmoothQuantModifier", "smoothing_strength": 0.5},
                {"modifier": "GPTQModifier", "scheme": "W8A8", **PLAIN, "dampening_frac": 0.1},
            ],
        ),
        (
            GptqConfig(),
            [
                {
                    "modifier": "GPTQModifier",
                    "config_groups": groups(4, symmetric=True, strategy="group", group_size=128),
                    "actorder": "static",
                    "dampening_frac": 0.01,
                }
            ],
        ),
        (
            GptqConfig(bits=8, group_size=-1, act_order=ActOrder.none, symmetric=False),
            [
                {
                    "modifier": "GPTQModifier",
                    "config_groups": groups(8, symmetric=False, strategy="channel"),
                    "actorder": None,
                    "dampening_frac": 0.01,
                }
            ],
        ),
        (
            AwqConfig(group_size=64, duo_scaling=False),
            [
                {"modifier": "AWQModifier", "duo_scaling": False},
                {
                    "modifier": "QuantizationModifier",
                    "config_groups": groups(4, symmetric=False, strategy="group", group_size=64),
                },
            ],
        ),
        (Nvfp4Config(), [{"modifier": "QuantizationModifier", "scheme": "NVFP4", **PLAIN}]),
        (Nvfp4Config(weights_only=True), [{"modifier": "QuantizationModifier", "scheme": "NVFP4A16", **PLAIN}]),
    ],
    ids=lambda value: value.label if isinstance(value, SchemeConfig) else "",
)
def test_recipes_of_llm_compressor(scheme: HfSchemeConfig, steps: list[dict[str, Any]]) -> None:
    layers = inventory(layer())
    recipe = scheme.recipe(layers, scheme.settle(layers))
    assert recipe == {"modifiers": steps, "ignore": ["lm_head", "re:.*gate$"]}
    json.dumps(recipe)


def test_recipes_of_bitsandbytes() -> None:
    """An output head that is tied to the embedding is in no header, but bitsandbytes would pack it."""
    tied, untied = inventory(layer()), inventory(layer(), skipped=(layer("lm_head"), layer("a.v_proj")))
    ignoring = inventory(layer(), skipped=(layer("a.v_proj"),))
    nf4 = BitsandbytesConfig(double_quant=True)
    assert nf4.recipe(untied, {}) == {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
        "bnb_4bit_compute_dtype": "bfloat16",
        "llm_int8_skip_modules": ["lm_head", "a.v_proj"],
    }
    assert BitsandbytesConfig(type=BnbType.int8).recipe(tied, {}) == {
        "load_in_8bit": True,
        "llm_int8_skip_modules": ["lm_head"],
    }
    assert nf4.recipe(ignoring, {})["llm_int8_skip_modules"] == ["lm_head", "a.v_proj"]


@pytest.mark.parametrize(
    ("scheme", "bits"),
    [
        (GptqConfig(group_size=128), 4 + 16 / 128),
        (GptqConfig(), 4 + 16 / 32),
        (GptqConfig(bits=8, group_size=-1), 8.0),
        (AwqConfig(group_size=128), 4 + 20 / 128),
        (BitsandbytesConfig(), 4.5),
        (BitsandbytesConfig(double_quant=True), 4 + 8 / 64 + 32 / 16384),
        (Nvfp4Config(), 4.5),
    ],
)
def test_bits_of_a_weight_with_its_scales(scheme: HfSchemeConfig, bits: float) -> None:
    assert scheme.weight_bits == pytest.approx(bits)


@pytest.mark.parametrize(
    ("kind", "settings", "expected"),
    [
        (GptqConfig, {"bits": 3}, "bits=3 must be one of 4, 8"),
        (GptqConfig, {"damping": 0.0}, "damping=0.0 must be above 0"),
        (GptqConfig, {"group_size": -2}, "group_size=-2 must be 0"),
        (AwqConfig, {"tensor_parallel": 0}, "tensor_parallel=0 must be 1"),
        (AwqConfig, {"threads": -1}, "threads=-1 must be 0"),
        (AwqConfig, {"activations_on": "gpu"}, "activations_on='gpu' must be cpu"),
        (Int8Config, {"smoothing": 1.5}, "smoothing=1.5 must be between"),
        (Int8Config, {"smoothing": 0.5}, "smoothing is of method smoothquant_gptq"),
        (Int8Config, {"calibration": SET}, "calibration is not used by INT8 W8A8 RTN"),
        (Fp8Config, {"calibration": SET}, "calibration is not used by FP8 dynamic"),
        (Nvfp4Config, {"weights_only": True, "calibration": SET}, "calibration is not used by NVFP4 W4A16"),
        (BitsandbytesConfig, {"type": BnbType.int8, "double_quant": True}, "double_quant is for nf4 and fp4"),
    ],
)
def test_settings_that_make_no_sense_are_refused(kind: Any, settings: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        kind(**settings)


def test_only_schemes_that_look_at_activations_have_a_calibration_digest() -> None:
    assert {scheme.calibration_digest() for scheme in (Fp8Config(), Int8Config(), Nvfp4Config(weights_only=True))} == {
        None
    }
    digests = {
        scheme.calibration_digest()
        for scheme in (STATIC, Fp8Config(kv_cache=True), SMOOTH, GptqConfig(), AwqConfig(), Nvfp4Config())
    }
    assert digests == {SampleSetConfig().digest()}


# Keys

SOURCE = "sha256:" + "5" * 64


@pytest.mark.parametrize(
    ("scheme", "changes"),
    [
        (Fp8Config(), [{"activations": Fp8Activations.static}, {"kv_cache": True}, {"ignore": ["a"]}]),
        (SMOOTH, [{"method": Int8Method.rtn}, {"smoothing": 0.5}, {"damping": 0.1}, {"calibration": SET}]),
        (
            GptqConfig(),
            [
                *({"bits": 8}, {"group_size": 64}, {"symmetric": False}, {"act_order": ActOrder.none}),
                *({"damping": 0.1}, {"tensor_parallel": 2}, {"ignore": ["a"]}, {"calibration": SET}),
            ],
        ),
        (AwqConfig(), [{"bits": 8}, {"zero_point": False}, {"duo_scaling": False}, {"group_size": 64}]),
        (BitsandbytesConfig(), [{"type": BnbType.fp4}, {"double_quant": True}, {"ignore": ["a"]}]),
        (Nvfp4Config(), [{"weights_only": True}]),
        (UnquantizedConfig(), [{"dtype": FloatType.fp16}]),
    ],
    ids=lambda value: value.label if isinstance(value, SchemeConfig) else "",
)
def test_keys_change_with_what_is_written_and_with_nothing_else(
    scheme: SchemeConfig, changes: list[dict[str, Any]]
) -> None:
    def key(**change: Any) -> str:
        return artefact_key(dataclasses.replace(scheme, **change), SOURCE, "lock")

    assert len({key(), *(key(**change) for change in changes)}) == 1 + len(changes)
    how: dict[str, Any] = {"max_divergence": 0.01, "toolchain": "elsewhere"}
    if isinstance(scheme, HfSchemeConfig):
        how["threads"] = 7
    if isinstance(scheme, LlmCompressorConfig):
        how |= {"devices": Devices.gpus, "activations_on": "cuda:1"}
    if isinstance(scheme, Nvfp4Config):
        how["tensor_parallel"] = 2  # its groups are of 16 whatever the split
    assert {key(**{name: value}) for name, value in how.items()} == {key()}


class Locks:
    """Toolchains that are asked for their locks only."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def lock(self, name: str) -> str:
        return f"lock of {name}"

    def ensure(self, name: str, progress: Progress) -> Toolchain:
        self.asked.append(name)
        raise AssertionError(f"{name} was asked for before the check")


def test_over_a_gguf_the_unquantized_checkpoint_enters_the_key() -> None:
    def key(form: SourceFormat) -> str:
        source = Source(path=Path("anywhere"), format=form, digest=SOURCE, name="m")
        return scheme_key(source, Fp8Config(), Locks())

    lock = "lock of llmcompressor"
    assert key(SourceFormat.hf) == artefact_key(Fp8Config(), SOURCE, lock)
    prior = artefact_key(UnquantizedConfig(), SOURCE, lock)
    assert key(SourceFormat.gguf) == artefact_key(Fp8Config(), f"artefact:{prior}", lock)


# Refusals before any work

NARROW = {**LLAMA, **block(1, inner=576)}


@pytest.mark.parametrize(
    ("scheme", "shapes", "config", "expected"),
    [
        (
            GptqConfig(group_size=128),
            NARROW,
            {},
            r"model\.layers\.1\.mlp\.down_proj has 576 inputs .* use scheme\.group_size=64 ",
        ),
        (
            AwqConfig(tensor_parallel=16),
            LLAMA,
            {},
            r"model\.layers\.0\.self_attn\.o_proj has 256 inputs, 16 on each of 16 ranks",
        ),
        (
            Fp8Config(activations=Fp8Activations.block),
            NARROW,
            {},
            r"3 layers are no multiple of 128 both ways, first model\.layers\.1\.mlp\.gate_proj \(576 × 256\)",
        ),
        (Nvfp4Config(tensor_parallel=32), LLAMA, {}, r"self_attn\.o_proj has 8 inputs on a rank, .* multiple of 16"),
        (Fp8Config(ignore=["nothing"]), LLAMA, {}, "'nothing' fits no linear layer"),
        (Int8Config(ignore=["re:("]), LLAMA, {}, "is no regular expression"),
        (
            BitsandbytesConfig(),
            {**LLAMA, "model.layers.0.mlp.experts.down_proj": (64, 256, 256)},
            {"model_type": "qwen3_5_moe"},
            r"^m: 71 % of its weights are experts, which bitsandbytes leaves as they are; use a scheme over llm-comp",
        ),
        (
            GptqModelConfig(calibration=SET),
            {**LLAMA, "model.layers.0.mlp.experts.down_proj": (4, 256, 256)},
            {"model_type": "qwen3_5_moe"},
            "holds 4 experts in one tensor, which GPTQModel does not take apart",
        ),
        (
            Fp8Config(ignore=["re:.*experts.*"]),
            {**LLAMA, "model.layers.0.mlp.experts.down_proj": (4, 256, 256)},
            {"model_type": "gpt_oss"},
            "^m: llm-compressor writes the experts of gpt_oss one by one, .*; use a scheme of GGUF",
        ),
        (Fp8Config(), LLAMA, {"model_type": "gpt2"}, "Conv1D"),
        (Fp8Config(), LLAMA, {"quantization_config": {"quant_method": "awq"}}, r"is quantized already \(awq\)"),
        (UnquantizedConfig(), LLAMA, {"quantization_config": {"load_in_4bit": True}}, r"already \(bitsandbytes\)"),
        (GptqConfig(calibration=SampleSetConfig(text="no.txt")), LLAMA, {}, "there is no file"),
    ],
)
def test_what_cannot_be_made_asks_for_no_toolchain(
    scheme: SchemeConfig, shapes: Any, config: dict[str, Any], expected: str, tmp_path: Path
) -> None:
    folder, provider = checkpoint(tmp_path / "m", shapes, **config), Locks()
    with pytest.raises(UsageError, match=expected) as caught:
        quantize(LocalConfig(path=str(folder)), scheme, cache=tmp_path / "c", progress=Progress(), toolchains=provider)
    assert provider.asked == []
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "c" / "artefacts").exists()


def test_too_few_rows_ask_for_no_toolchain(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n')
    scheme = GptqConfig(calibration=SampleSetConfig(text=str(tmp_path / "rows.jsonl"), samples=2))
    model = LocalConfig(path=str(checkpoint(tmp_path / "m", LLAMA)))
    with pytest.raises(UsageError, match="has 1 rows that can be used, 2 samples are asked"):
        quantize(model, scheme, cache=tmp_path / "c", progress=Progress(), toolchains=Locks())


def test_a_gguf_is_checked_by_its_header(tmp_path: Path) -> None:
    tensors = [("blk.0.attn_q.weight", (576, 576), 0), ("blk.0.ffn_down.weight", (1536, 576), 0)]
    model = LocalConfig(path=str(write_gguf(tmp_path / "m.gguf", tensors)))
    with pytest.raises(UsageError, match=r"model\.layers\.0\.self_attn\.q_proj has 576 inputs .*group_size=64 "):
        quantize(model, GptqConfig(group_size=128), cache=tmp_path / "c", progress=Progress(), toolchains=Locks())


def test_a_gguf_of_experts_is_refused_where_they_would_stay(tmp_path: Path) -> None:
    tensors = [("blk.0.attn_q.weight", (256, 256), 0), ("blk.0.ffn_down_exps.weight", (256, 256, 8), 0)]
    model = LocalConfig(path=str(write_gguf(tmp_path / "m.gguf", tensors)))
    with pytest.raises(UsageError, match=r"m\.gguf: 89 % of its weights are experts"):
        quantize(model, BitsandbytesConfig(), cache=tmp_path / "c", progress=Progress(), toolchains=Locks())


def test_modules_that_bitsandbytes_skips_name_no_expert(tmp_path: Path) -> None:
    experts = {f"model.layers.0.mlp.experts.{n}.down_proj.weight": (256, 64) for n in range(4)}
    folder = checkpoint(tmp_path / "m", {**LLAMA, **experts}, model_type="qwen3_moe")
    scheme = BitsandbytesConfig(ignore=["re:.*(experts|k_proj).*"])
    skipped = scheme.recipe(scheme.layers_of(folder), {})["llm_int8_skip_modules"]
    assert skipped == ["lm_head", *(f"model.layers.{n}.self_attn.k_proj" for n in (0, 1))]


def test_groups_of_whole_rows_fit_everywhere(tmp_path: Path) -> None:
    odd = checkpoint(tmp_path / "m", {"model.layers.0.mlp.up_proj.weight": (64, 100)})
    layers = linear_layers(odd)
    assert GptqConfig(group_size=-1).settle(layers) == {"group_size": -1}
    with pytest.raises(UsageError, match="100 inputs"):
        GptqConfig().settle(layers)


# Baselines


def test_a_schemes_own_baseline_is_unquantized_in_its_format(tmp_path: Path) -> None:
    hf, gguf = LocalConfig(path=str(tmp_path)), LocalConfig(path=str(tmp_path / "m.gguf"))
    for model in (hf, gguf):
        assert Fp8Config().own_baseline(model) == UnquantizedConfig()
        baseline = GgufConfig(type=GgufType.Q4_0).own_baseline(model)
        assert isinstance(baseline, GgufConfig)
        assert baseline.type is GgufType.F16
        assert not Fp8Config().needs_base(model)
    assert PrequantizedConfig().own_baseline(hf) == UnquantizedConfig()
    assert PrequantizedConfig().needs_base(hf)
    assert not PrequantizedConfig().needs_base(gguf)
    with pytest.raises(NotImplementedError):
        OwnBaselineConfig().launch(None)  # type: ignore[arg-type]  # it never looks at its job
