"""Schemes that the engine carries out while it loads: nothing is written, and memory is said for what it will be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.base.errors import UsageError
from bench.base.progress import Progress
from bench.engines.base import Launch, ServedModel, SupportAnswer, engine_of
from bench.engines.logit_scoring import LogitScorer
from bench.engines.scoring import ScorableModel, ScoredOn
from bench.engines.transformers import TransformersConfig
from bench.engines.transformers_scoring import TransformersScorer
from bench.engines.xllamacpp import XllamacppConfig
from bench.pipeline.schemas import register_all
from bench.toolchains.toolchain import Toolchain
from quantize.artefact import Artefact
from quantize.models import LocalConfig
from quantize.run import quantize
from quantize.schemes.load_time import LoadTimeConfig, LoadTimeMethod
from quantize.schemes.unquantized import UnquantizedConfig
from quantize.source import Source, SourceFormat
from tests.unit.quantize.safetensors_writer import write_safetensors

register_all()

LINEAR, EMBEDDING, HEAD, NORM = 64 * 128, 100 * 64, 100 * 64, 64


class NoToolchains:
    """Nothing may be asked for."""

    def lock(self, name: str) -> str:
        raise AssertionError(name)

    def ensure(self, name: str, progress: Progress) -> Toolchain:
        raise AssertionError(name)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}), encoding="utf-8")
    write_safetensors(
        folder / "model.safetensors",
        {
            "model.embed_tokens.weight": ("BF16", (100, 64)),
            "model.layers.0.mlp.down_proj.weight": ("BF16", (64, 128)),
            "model.norm.weight": ("BF16", (64,)),
            "lm_head.weight": ("BF16", (100, 64)),
        },
    )
    return folder


def take(checkpoint: Path, method: LoadTimeMethod) -> Artefact:
    return quantize(
        LocalConfig(path=str(checkpoint)),
        LoadTimeConfig(method=method),
        cache=checkpoint.parent / "cache",
        progress=Progress(),
        toolchains=NoToolchains(),
    )


@pytest.mark.parametrize(("method", "linear_bytes"), [("fp8", LINEAR), ("bitsandbytes_nf4", 4_240), ("eetq", LINEAR)])
def test_disk_is_the_checkpoints_and_memory_is_the_methods(checkpoint: Path, method: str, linear_bytes: int) -> None:
    """NF4: 8192 weights × (4 + 8/64 + 32/16384) bits = 4226 bytes, rounded down."""
    if method == "bitsandbytes_nf4":
        linear_bytes = int(LINEAR * (4 + 8 / 64 + 32 / 16384) / 8)
    made = take(checkpoint, LoadTimeMethod(method))
    manifest = made.manifest
    parameters = LINEAR + EMBEDDING + HEAD + NORM
    assert (manifest["load_method"], made.load_method) == (method, method)
    assert manifest["parameters"] == parameters
    assert manifest["size_bytes"] == sum((checkpoint / name).stat().st_size for name in checkpoint_files(checkpoint))
    assert manifest["loaded_bytes"] == linear_bytes + 2 * (EMBEDDING + HEAD + NORM)
    assert manifest["effective_bits_per_weight"] == pytest.approx(8 * manifest["loaded_bytes"] / parameters)
    assert sum(row["parameters"] for row in manifest["tensor_types"]) == parameters
    assert manifest["skipped_layers"] == ["lm_head"]
    assert any("on loading" in warning for warning in manifest["warnings"])
    assert all((made.directory / name).is_symlink() for name in checkpoint_files(checkpoint))


@pytest.mark.parametrize(("method", "experts_bits"), [("fp8", 8), ("bitsandbytes_nf4", 16), ("bitsandbytes_int8", 16)])
def test_experts_count_as_what_they_will_be(checkpoint: Path, method: str, experts_bits: int) -> None:
    """bitsandbytes in transformers leaves experts, whether they are stored one by one or in one tensor."""
    (checkpoint / "config.json").write_text(json.dumps({"model_type": "qwen3_moe"}), encoding="utf-8")
    one, four = "model.layers.1.mlp.experts.0.up_proj.weight", "model.layers.2.mlp.experts.down_proj"
    write_safetensors(checkpoint / "model-2.safetensors", {one: ("BF16", (32, 64)), four: ("BF16", (4, 64, 32))})
    manifest = take(checkpoint, LoadTimeMethod(method)).manifest
    experts = 5 * 32 * 64
    linear = int(LINEAR * (4 + 8 / 64 + 32 / 16384) / 8) if method == "bitsandbytes_nf4" else LINEAR
    assert manifest["loaded_bytes"] == linear + experts * experts_bits // 8 + 2 * (EMBEDDING + HEAD + NORM)
    left = experts_bits == 16
    assert manifest["quantized_layers"] == (1 if left else 6)
    modules = [f"model.layers.{n}.mlp.experts" for n in (1, 2)] if left else []
    assert manifest["skipped_layers"] == ["lm_head", *modules]
    assert any("experts, 33 % of the weights" in warning for warning in manifest["warnings"]) == left


def test_bitsandbytes_is_refused_where_most_is_experts(checkpoint: Path) -> None:
    write_safetensors(checkpoint / "model-2.safetensors", {"model.layers.1.mlp.experts.w": ("BF16", (16, 64, 64))})
    with pytest.raises(UsageError, match=r"^model: 76 % of its weights are experts, which bitsandbytes leaves"):
        take(checkpoint, LoadTimeMethod.bitsandbytes_nf4)
    assert take(checkpoint, LoadTimeMethod.fp8).manifest["quantized_layers"] == 17


def checkpoint_files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_methods_are_variants_of_their_own_and_links_are_made_again(checkpoint: Path) -> None:
    fp8, nf4 = take(checkpoint, LoadTimeMethod.fp8), take(checkpoint, LoadTimeMethod.bitsandbytes_nf4)
    assert fp8.key != nf4.key
    assert (fp8.label, nf4.label) == ("FP8 on loading", "bitsandbytes NF4 on loading")
    (fp8.directory / "model.safetensors").unlink()
    assert (take(checkpoint, LoadTimeMethod.fp8).directory / "model.safetensors").exists()


def test_what_is_quantized_already_is_refused(checkpoint: Path) -> None:
    config = {"model_type": "llama", "quantization_config": {"quant_method": "awq"}}
    (checkpoint / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(UsageError, match="is quantized already"):
        take(checkpoint, LoadTimeMethod.fp8)


def test_an_engine_is_asked_in_its_own_words_or_refuses() -> None:
    config = TransformersConfig()
    engine = engine_of(config)
    assert engine.serves(config, "hf", "bitsandbytes_nf4").answer is SupportAnswer.YES
    refused = engine.serves(config, "hf", "eetq")
    assert refused.answer is SupportAnswer.NO
    assert "eetq" in refused.reason
    assert "bitsandbytes_nf4" in refused.reason
    assert "not hf" in engine_of(XllamacppConfig()).serves(XllamacppConfig(), "hf", "fp8").reason
    launch = Launch(host="127.0.0.1", port=1, api_key="k")
    asked = ServedModel(format="hf", path=Path("m"), name="m", load_method="bitsandbytes_int8")
    settings = json.loads(str(engine.command(config, asked, launch, None).argv[-1]))
    assert settings["options"]["quantization"] == "bnb-8bit"
    plain = ServedModel(format="hf", path=Path("m"), name="m")
    assert "quantization" not in json.loads(str(engine.command(config, plain, launch, None).argv[-1]))["options"]


def test_a_scorer_refuses_what_it_would_score_unquantized(tmp_path: Path) -> None:
    """Else the figures would be those of the unquantized checkpoint."""
    toolchain = Toolchain(name="t", prefix=tmp_path, python=tmp_path / "python", lock_hash="0" * 64)
    model = ScorableModel(format="hf", path=tmp_path, key="k", label="FP8 on loading", load_method="fp8")
    scorer: LogitScorer = TransformersScorer(toolchain, scored_on=ScoredOn.SAME_ARTEFACT_ELSEWHERE)
    with pytest.raises(UsageError, match="does not quantize by fp8"):
        scorer.tokenize(model, tmp_path / "text", work_dir=tmp_path, progress=Progress())


def test_a_checkpoint_of_other_precision_is_cast_first(checkpoint: Path) -> None:
    """Else the rest would take twice what the manifest says."""
    source = Source(path=checkpoint, format=SourceFormat.hf, name="m", digest="d", license=None, notes=())
    assert LoadTimeConfig().prior(source) is None
    tensors: dict[str, tuple[str, tuple[int, ...]]] = {"model.layers.0.mlp.down_proj.weight": ("F32", (64, 128))}
    write_safetensors(checkpoint / "model.safetensors", tensors)
    assert LoadTimeConfig().prior(source) == UnquantizedConfig()
