"""Whether cells fit: by hand for a model of known shape, on hardware that is given."""

from __future__ import annotations

import dataclasses
import json
import struct
from pathlib import Path
from typing import Any

import pytest

from bench.base.errors import UsageError
from bench.engines.base import SupportAnswer
from bench.engines.footprint import Footprint
from bench.engines.llama_cpp import CacheType, LlamaCpp, LlamaCppConfig
from bench.engines.transformers import Transformers, TransformersConfig
from bench.pipeline.schemas import register_all
from bench.plan.fit import CellFit, Need, Verdict, cache_bytes, fit_cells, gpu_share, serving_bytes
from bench.plan.plan import plan
from bench.telemetry.hardware import Hardware
from quantize.estimate import Estimate
from quantize.schemes.auto_gptq import AutoGptqConfig
from quantize.shape import CacheShape, ModelShape
from tests.unit.quantize.gguf_writer import STRING, UINT32, pair, text, write_gguf
from tests.unit.quantize.safetensors_writer import write_safetensors

register_all()

MIB, GIB = 1 << 20, 1 << 30
#: SmolLM2-135M: 30 layers, 3 heads of keys and values of 64 numbers.
SMOLLM2 = CacheShape(layers=30, keys=3 * 64, values=3 * 64)
SHAPE = ModelShape(layers=30, hidden=576, inner=1536, vocabulary=49152, heads=9, kv_heads=3, cache=SMOLLM2)
VARIANT = Estimate(
    output_bytes=140 * MIB, weight_bytes=136 * MIB, unpacked_bytes=256 * MIB, quantizing_bytes=200 * MIB, shape=SHAPE
)
CPU = Hardware(name="cpu", gpus=0, gpu_bytes=None, main_bytes=16 * GIB, compute_capability=None)
GPU = Hardware(name="gpu", gpus=1, gpu_bytes=16 * GIB, main_bytes=32 * GIB, compute_capability=7.5)


def llama(**settings: Any) -> Footprint:
    return LlamaCpp().footprint(LlamaCppConfig(**settings))


def test_the_cache_of_smollm2_is_keys_and_values_of_all_layers_tokens_and_sequences() -> None:
    """llama.cpp's log says 180.00 MiB of 4 × 2048 tokens."""
    by_hand = 2 * 30 * 3 * 64 * 2 * 2048 * 4
    assert by_hand == 180 * MIB
    assert cache_bytes(SMOLLM2, llama(max_model_len=2048, max_sequences=4)) == by_hand


def test_llama_cpp_rounds_a_context_up_to_256_tokens() -> None:
    assert cache_bytes(SMOLLM2, llama(max_model_len=1000, max_sequences=1)) == 2 * 30 * 192 * 2 * 1024


def test_a_packed_cache_takes_its_blocks() -> None:
    packed = llama(max_model_len=256, max_sequences=1, cache_type_k=CacheType.q8_0, cache_type_v=CacheType.q4_0)
    assert cache_bytes(SMOLLM2, packed) == 30 * 256 * 192 * 34 // 32 + 30 * 256 * 192 * 18 // 32


def test_layers_with_a_window_keep_what_they_see_and_what_is_computed() -> None:
    windowed = dataclasses.replace(SMOLLM2, layers=5, windowed=25, window=512)
    settings = Footprint(tokens=8192, sequences=2, batch_tokens=512)
    assert cache_bytes(windowed, settings) == (5 * 8192 + 25 * 1024) * 2 * 192 * 2 * 2


def test_latent_attention_is_kept_compressed_where_the_engine_can() -> None:
    latent = CacheShape(layers=60, keys=128 * 192, values=128 * 128, latent=576)
    folded, unfolded = Footprint(tokens=1000), Footprint(tokens=1000, latent_cache=False)
    assert cache_bytes(latent, folded) == 60 * 1000 * 576 * 2
    assert cache_bytes(latent, unfolded) == 60 * 1000 * (128 * 192 + 128 * 128) * 2


def test_serving_is_weights_cache_and_overhead() -> None:
    footprint = Footprint(tokens=1024, batch_tokens=100, logit_tokens=2, process_bytes=MIB)
    found = serving_bytes(VARIANT, footprint)
    assert found.weights == 136 * MIB
    assert found.cache == 2 * 30 * 192 * 2 * 1024
    assert found.overhead == MIB + 4 * (2 * 49152 + 100 * (3 * 1536 + 4 * 576)) + 2 * 100 * 1024
    assert found.total == found.weights + found.cache + found.overhead


def test_the_compute_buffer_is_what_llama_cpp_logs() -> None:
    """15.51 MiB of compute buffer and 0.75 MiB of output with 4 × 2048 tokens."""
    footprint = llama(max_model_len=2048, max_sequences=4)
    overhead = serving_bytes(VARIANT, footprint).overhead
    assert overhead is not None
    assert (overhead - footprint.process_bytes) / MIB == pytest.approx(15.51 + 0.75, abs=0.05)


def test_an_engine_that_unpacks_holds_16_bit_weights() -> None:
    footprint = Transformers().footprint(TransformersConfig())
    packed = dataclasses.replace(VARIANT, packing="compressed-tensors")
    assert serving_bytes(packed, footprint).weights == 256 * MIB
    assert serving_bytes(dataclasses.replace(VARIANT, packing="bitsandbytes"), footprint).weights == 136 * MIB


def test_what_is_missing_is_not_nothing() -> None:
    bare = dataclasses.replace(VARIANT, shape=ModelShape(layers=30))
    found = serving_bytes(bare, Footprint(tokens=10))
    assert (found.cache, found.overhead, found.total) == (None, None, None)


@pytest.mark.parametrize(
    ("gpu_layers", "hardware", "share"),
    [
        (0, GPU, 0.0),
        (None, GPU, 1.0),
        (99, GPU, 1.0),
        (31, GPU, 1.0),
        (15, GPU, 15 / 31),
        (99, CPU, 0.0),
        (None, CPU, 0),
    ],
)
def test_layers_go_to_a_gpu_as_they_are_told(gpu_layers: int | None, hardware: Hardware, share: float) -> None:
    assert gpu_share(SHAPE, Footprint(tokens=1, gpu_layers=gpu_layers), hardware) == share


def test_a_share_of_an_unknown_number_of_layers_is_unknown() -> None:
    assert gpu_share(ModelShape(), Footprint(tokens=1, gpu_layers=5), GPU) is None


@pytest.mark.parametrize(
    ("needed", "there", "verdict"),
    [
        (100, 1000, Verdict.FITS),
        (900, 1000, Verdict.FITS),
        (901, 1000, Verdict.TIGHT),
        (1000, 1000, Verdict.TIGHT),
        (1001, 1000, Verdict.NO),
        (None, 1000, Verdict.UNKNOWN),
        (1, None, Verdict.UNKNOWN),
    ],
)
def test_above_nine_tenths_a_fit_is_tight(needed: int | None, there: int | None, verdict: Verdict) -> None:
    assert Need(what="serving", needed=needed, there=there).verdict is verdict


# Whole cells


def smollm(folder: Path, name: str = "model.gguf") -> Path:
    """A header that says SmolLM2's shape, over few weights."""
    u32 = {
        "block_count": 30,
        "embedding_length": 576,
        "feed_forward_length": 1536,
        "attention.head_count": 9,
        "attention.head_count_kv": 3,
    }
    pairs = [
        pair("general.architecture", STRING, text("llama")),
        *(pair(f"llama.{key}", UINT32, struct.pack("<I", value)) for key, value in u32.items()),
    ]
    tensors = [("token_embd.weight", (256, 512), 1), ("blk.0.ffn_up.weight", (256, 4096), 1)]
    return write_gguf(folder / name, tensors, pairs=pairs, odd=False)


def fits(tmp_path: Path, hardware: Hardware, *overrides: str, **options: Any) -> list[CellFit]:
    found = plan(list(overrides), **options)
    return fit_cells(found.cells, hardware, cache=tmp_path / "cache")


def local(tmp_path: Path, hardware: Hardware, *overrides: str) -> CellFit:
    path = tmp_path / "model.gguf"
    if not path.exists():
        smollm(tmp_path)
    (found,) = fits(tmp_path, hardware, "model=local", f"model.path={path}", *overrides)
    return found


def test_a_cell_on_the_cpu_is_held_against_main_memory(tmp_path: Path) -> None:
    found = local(tmp_path, CPU, "scheme=gguf_q8_0")
    assert found.verdict is Verdict.FITS
    assert [need.what for need in found.needs] == ["quantizing", "serving in main memory"]
    assert found.support.answer is SupportAnswer.YES
    assert found.serving is not None
    assert found.serving.cache == 180 * MIB


def test_a_longer_context_decides(tmp_path: Path) -> None:
    found = local(tmp_path, CPU, "scheme=gguf_q8_0", "engine.max_model_len=262144")
    assert found.verdict is Verdict.NO
    assert found.deciding is not None
    assert found.deciding.what == "serving in main memory"
    assert (found.deciding.needed or 0) > 22 * GIB


def test_layers_on_the_gpu_are_held_against_its_memory(tmp_path: Path) -> None:
    whole = local(tmp_path, GPU, "engine.gpu_layers=99")
    assert [need.what for need in whole.needs] == ["quantizing", "serving on a GPU"]
    half = local(tmp_path, GPU, "engine.gpu_layers=15")
    assert [need.what for need in half.needs] == ["quantizing", "serving on a GPU", "serving in main memory"]
    assert half.serving is not None
    on_gpu = half.needs[1].needed
    assert half.serving.cache is not None
    assert half.serving.overhead is not None
    model = half.serving.weights + half.serving.cache
    assert on_gpu == round(model * 15 / 31) + half.serving.overhead


def test_two_gpus_share_what_llama_cpp_gives_them(tmp_path: Path) -> None:
    two = dataclasses.replace(GPU, gpus=2)
    found = local(tmp_path, two, "engine.gpu_layers=99")
    assert found.needs[-1].what == "serving on each of 2 GPUs"
    alone = local(tmp_path, GPU, "engine.gpu_layers=99")
    assert (found.needs[-1].needed or 0) < (alone.needs[-1].needed or 0)


def test_layers_for_a_gpu_that_is_not_there_are_not_supported(tmp_path: Path) -> None:
    found = local(tmp_path, CPU, "engine.gpu_layers=99")
    assert found.support.answer is SupportAnswer.NO
    assert "there is no GPU" in found.support.reason


def folder_of(tmp_path: Path) -> Path:
    """A checkpoint of one layer."""
    folder = tmp_path / "folder"
    folder.mkdir()
    config = {"num_hidden_layers": 1, "hidden_size": 64, "num_attention_heads": 1, "vocab_size": 9}
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", **config}))
    write_safetensors(folder / "model.safetensors", {"model.layers.0.mlp.up_proj.weight": ("BF16", (64, 64))})
    return folder


@pytest.mark.parametrize("known", [True, False])
def test_a_gpu_that_is_named_must_be_there(known: bool, tmp_path: Path) -> None:
    model = ("model=local", f"model.path={folder_of(tmp_path)}") if known else ("model=smollm2",)
    overrides = (*model, "scheme=fp8_dynamic", "engine=transformers")
    (there,) = fits(tmp_path, GPU, *overrides, "engine.device=cuda:0")
    assert there.support.answer is SupportAnswer.UNVERIFIED
    (missing,) = fits(tmp_path, CPU, *overrides, "engine.device=cuda:0")
    assert missing.support.answer is SupportAnswer.NO
    assert missing.support.reason == "engine.device=cuda:0, and there is no GPU"
    (free,) = fits(tmp_path, CPU, *overrides, "engine.device=auto")
    assert free.support.answer is SupportAnswer.YES


def test_a_scheme_that_needs_a_gpu_is_held_against_the_hardware_that_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AutoGptqConfig, "check_machine", lambda _: pytest.fail("this machine was asked"))
    model = ("model=local", f"model.path={folder_of(tmp_path)}")
    overrides = (*model, "engine=vllm", "scheme=auto_gptq", "scheme.group_size=64")
    (there,) = fits(tmp_path, GPU, *overrides)
    assert (there.support.answer, there.verdict) == (SupportAnswer.YES, Verdict.FITS)
    (missing,) = fits(tmp_path, CPU, *overrides)
    assert missing.support.answer is SupportAnswer.NO
    assert "on an NVIDIA GPU only; use scheme=gptqmodel_gptq" in missing.support.reason


@pytest.mark.parametrize("scheme", ["gptqmodel_gptq", "gptqmodel_awq", "autoawq", "auto_gptq"])
def test_what_transformers_cannot_load_is_not_supported(scheme: str, tmp_path: Path) -> None:
    (found,) = fits(tmp_path, GPU, "model=smollm2", f"scheme={scheme}")
    assert found.support.answer is SupportAnswer.NO
    assert "serve it with vLLM" in found.support.reason
    cells = plan(["model=smollm2", f"scheme={scheme}"]).cells
    (unserved,) = fit_cells(cells, GPU, cache=tmp_path / "cache", served=False)
    assert unserved.support.answer is SupportAnswer.YES


def test_main_memory_that_is_not_given_is_not_judged(tmp_path: Path) -> None:
    elsewhere = dataclasses.replace(GPU, main_bytes=None)
    found = local(tmp_path, elsewhere, "engine.gpu_layers=99")
    assert [need.what for need in found.needs] == ["serving on a GPU"]
    assert any("hardware.main_memory_gib" in note for note in found.notes)
    on_cpu = local(tmp_path, elsewhere)
    assert on_cpu.verdict is Verdict.UNKNOWN
    assert "engine.gpu_layers=999 puts it on the GPU" in on_cpu.unknown


def test_a_model_that_is_not_here_is_unknown_in_one_line(tmp_path: Path) -> None:
    (found,) = fits(tmp_path, CPU, "model=smollm2", "scheme=gguf_q8_0")
    assert found.verdict is Verdict.UNKNOWN
    assert found.estimate is None
    assert "not on this machine" in found.unknown
    assert not (tmp_path / "cache").exists()


def test_a_path_where_there_is_nothing_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no such file"):
        fits(tmp_path, CPU, "model=local", f"model.path={tmp_path / 'nothing.gguf'}")


def test_an_engine_and_a_scheme_that_refuse_say_so(tmp_path: Path) -> None:
    found = local(tmp_path, CPU, "engine=transformers", "scheme=gguf_q8_0")
    assert found.support.answer is SupportAnswer.NO
    assert "not gguf" in found.support.reason
    refused = local(tmp_path, CPU, "scheme=gptq_w4a16", "scheme.ignore=[nothing]")
    assert refused.support.answer is SupportAnswer.NO
    assert "fits no linear layer" in refused.support.reason
    assert refused.verdict is Verdict.UNKNOWN


def test_a_cell_that_does_not_compose_has_its_reason(tmp_path: Path) -> None:
    folder = tmp_path / "conf" / "experiment"
    folder.mkdir(parents=True)
    body = "defaults: [base_experiment, _self_]\nname: mine\nbase: [model=local, model.path=PATH]\n"
    body += "product: [[scheme=gguf_f16, scheme.type=Q99]]\n"
    (folder / "mine.yaml").write_text(body.replace("PATH", str(smollm(tmp_path))))
    good, bad = fits(tmp_path, CPU, "experiment=mine", config_dir=tmp_path / "conf")
    assert good.verdict is Verdict.FITS
    assert (bad.verdict, bad.support.answer) == (Verdict.UNKNOWN, SupportAnswer.NO)


def test_a_gpu_without_kernels_for_a_format_is_told_of_engines_that_use_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = ("model=local", f"model.path={folder_of(tmp_path)}", "scheme=fp8_dynamic")
    (unpacking,) = fits(tmp_path, GPU, *overrides)
    assert unpacking.support.answer is SupportAnswer.YES
    monkeypatch.setattr(Transformers, "footprint", lambda *_: Footprint(tokens=100))
    (native,) = fits(tmp_path, GPU, *overrides)
    assert native.support.answer is SupportAnswer.YES
    assert native.support.reason.startswith("weights only")
    (old,) = fits(tmp_path, dataclasses.replace(GPU, compute_capability=7.0), *overrides)
    assert old.support.answer is SupportAnswer.NO
    monkeypatch.setattr(Transformers, "footprint", lambda *_: Footprint(tokens=100, gpus=4))
    (wide,) = fits(tmp_path, GPU, *overrides)
    assert "set to use 4 GPUs, there are 1" in wide.support.reason
