"""Making a quantized Hugging Face checkpoint, with a worker of ours in the place of the quantizer's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.base.errors import CellFailure, FailureKind, UsageError
from quantize.samples import SampleSetConfig
from quantize.schemes.bitsandbytes import BitsandbytesConfig
from quantize.schemes.gptq import GptqConfig
from quantize.schemes.hf import as_failure
from quantize.schemes.llmcompressor import Devices
from tests.unit.quantize.fake_workers import FakeBench
from tests.unit.quantize.safetensors_writer import write_safetensors
from tests.unit.quantize.test_layers import LLAMA, checkpoint

WORKER = "llmcompressor_worker"
PACKED = {"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": {"num_bits": 4}}}}
USAGE = {"windows": 3, "tokens": 96, "overlapping": True, "truncated": 0}
LAYERS = 14


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeBench:
    bench = FakeBench(tmp_path, monkeypatch, "quantize.schemes.hf")
    bench.result = {
        "quantized_layers": LAYERS,
        "skipped_layers": ["lm_head"],
        "calibration": USAGE,
        "warnings": [],
        "peak_gpu_bytes": None,
    }
    (bench.written / "config.json").write_text(json.dumps({"quantization_config": PACKED}))
    (bench.written / "generation_config.json").write_text("{}")
    write_safetensors(bench.written / "model.safetensors", {"a.weight_packed": ("I32", (64, 8)), "b": ("BF16", (64,))})
    bench.behave(WORKER)
    return bench


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = checkpoint(tmp_path / "my-model", LLAMA, auto_map={"AutoModel": "modeling.My"})
    for name in ("tokenizer.json", "tokenizer.model", "merges.txt", "chat_template.jinja", "README.md"):
        (folder / name).write_text(name)
    (folder / "tokenizer_config.json").write_text(json.dumps({"auto_map": {}, "model_max_length": 7}))
    (folder / "modeling.py").write_text("raise SystemExit")
    (folder / "pytorch_model.bin").touch()
    return folder


def test_request_product_and_manifest(tools: FakeBench, model: Path) -> None:
    scheme = GptqConfig(
        calibration=SampleSetConfig(samples=8, length=32, seed=3), threads=3, devices=Devices.disk, activations_on="cpu"
    )
    made = tools.make(model, scheme)
    (asked,) = tools.asked
    assert asked["recipe"]["modifiers"][0]["config_groups"]["group_0"]["weights"]["group_size"] == 128
    assert len(asked["layers"]) == LAYERS
    assert (asked["skip"], asked["ignore"][0], asked["asked_ignore"]) == (["lm_head"], "lm_head", [])
    assert (asked["threads"], asked["omp"], asked["accelerator"], asked["devices"]) == (3, "3", "cpu", "disk")
    calibration = asked["calibration"]
    told = {name: calibration[name] for name in ("samples", "length", "chat_template", "seed")}
    assert told == {"samples": 8, "length": 32, "chat_template": False, "seed": 3}
    assert Path(calibration["loader"]).name == "calibration_tokens.py"
    assert asked["lines"] == 1
    assert not {"modeling.py", "pytorch_model.bin"} & set(asked["seen"]), "nothing that could run is shown to it"
    manifest = made.manifest
    assert manifest["label"] == "GPTQ W4A16 g128 samples=8 length=32 seed=3"
    assert (manifest["group_size"], manifest["quantized_layers"]) == (128, LAYERS)
    assert (manifest["packing"], manifest["format"], manifest["made_from"]) == ("compressed-tensors", "hf", None)
    assert manifest["parameters"] == 64 * 8 * 8 + 64
    recorded = {name: manifest["calibration"][name] for name in ("name", "samples", "windows", "tokens")}
    assert recorded == {"name": "default", "samples": 8, "windows": 3, "tokens": 96}
    (warning,) = manifest["warnings"]
    assert "96 tokens: 3 samples instead of 8" in warning
    assert manifest["command"][0] == "llm-compressor"
    assert json.loads(manifest["command"][1]) == asked["recipe"]
    assert str(tools.root) not in json.dumps(manifest)
    assert manifest["peak_rss_bytes"] > 0
    assert ("working", 1, 2) in [(event.message, event.done, event.total) for event in tools.events]


def test_the_checkpoints_own_tokenizer_is_kept_and_nothing_of_the_work(tools: FakeBench, model: Path) -> None:
    (tools.written / "tokenizer.json").write_text("the quantizer's opinion")
    made = tools.make(model, GptqConfig())
    assert {file.name for file in made.directory.iterdir()} >= {
        *("model.safetensors", "config.json", "generation_config.json", "manifest.json", "quantize.log"),
        *("tokenizer.json", "tokenizer.model", "merges.txt", "chat_template.jinja", "tokenizer_config.json"),
    }
    assert not (made.directory / "scratch").exists()
    assert not (made.directory / "README.md").exists()
    assert made.manifest["files"][0]["path"] == "model.safetensors"
    assert (made.directory / "tokenizer.json").read_text() == "tokenizer.json"
    assert not any(file.is_symlink() for file in made.directory.iterdir())
    assert json.loads((made.directory / "tokenizer_config.json").read_text()) == {"model_max_length": 7}


def test_without_calibration_nothing_of_it_is_told(tools: FakeBench, model: Path) -> None:
    tools.result |= {"calibration": None, "quantized_layers": LAYERS - 2, "warnings": ["of the worker"]}
    tools.behave("bitsandbytes_worker")
    made = tools.make(model, BitsandbytesConfig())
    assert tools.asked[0]["calibration"] is None
    assert made.manifest["calibration"] is None
    assert made.manifest["group_size"] is None
    fewer, own = made.manifest["warnings"]
    assert fewer.startswith("12 of 14 linear layers were quantized")
    assert own == "of the worker"


@pytest.mark.parametrize(
    ("behaviour", "kind", "expected"),
    [
        ("out_of_memory", FailureKind.OUT_OF_MEMORY, "llm-compressor: .*; free memory"),
        ("killed", FailureKind.OUT_OF_MEMORY, "killed by SIGKILL .*; free memory"),
        ("disk_full", FailureKind.DISK_FULL, "; free some space"),
        ("import_error", FailureKind.TOOLCHAIN, "llm-compressor: "),
        ("error", FailureKind.QUANTIZER, r"Failed: scheme\.x: it failed in scratch.out$"),
    ],
)
def test_failures_are_typed_and_leave_nothing(
    behaviour: str, kind: FailureKind, expected: str, tools: FakeBench, model: Path
) -> None:
    tools.behave(WORKER, behaviour)
    with pytest.raises(CellFailure, match=expected) as caught:
        tools.make(model, GptqConfig())
    assert caught.value.kind is kind
    assert "\n" not in str(caught.value)
    assert str(tools.root) not in str(caught.value)
    assert not list((tools.cache / "artefacts").glob("[!.]*"))
    tools.behave(WORKER)
    assert tools.make(model, GptqConfig()).label.startswith("GPTQ")


def test_what_the_worker_calls_a_mistake_of_the_user_is_one(tools: FakeBench, model: Path) -> None:
    tools.behave(WORKER, "usage")
    with pytest.raises(UsageError, match=r"^scheme\.x: it failed in scratch.out$"):
        tools.make(model, GptqConfig())


def test_a_worker_that_wrote_nothing_packed_is_the_quantizers_failure(tools: FakeBench, model: Path) -> None:
    (tools.written / "config.json").write_text("{}")
    with pytest.raises(
        CellFailure, match=r"llm-compressor wrote no quantized checkpoint: config\.json: has no"
    ) as caught:
        tools.make(model, GptqConfig())
    assert caught.value.kind is FailureKind.QUANTIZER


def test_more_layers_than_were_asked_for_are_the_quantizers_failure(tools: FakeBench, model: Path) -> None:
    """A name that is another one after loading is not ignored."""
    tools.result["quantized_layers"] = LAYERS
    tools.behave(WORKER)
    with pytest.raises(CellFailure, match="llm-compressor quantized 14 layers, at most 13 were asked for") as caught:
        tools.make(model, GptqConfig(ignore=["model.layers.0.mlp.down_proj"]))
    assert caught.value.kind is FailureKind.QUANTIZER
    assert tools.asked[0]["asked_ignore"] == ["model.layers.0.mlp.down_proj"]
    assert not list((tools.cache / "artefacts").glob("[!.]*"))


def test_two_layers_of_an_expert_may_lie_in_one_tensor(tools: FakeBench, tmp_path: Path) -> None:
    fused = {"model.layers.0.mlp.experts.gate_up_proj": (4, 256, 128)}
    folder = checkpoint(tmp_path / "moe", {**LLAMA, **fused}, model_type="qwen3_5_moe")
    tools.result["quantized_layers"] = LAYERS + 8
    tools.behave(WORKER)
    assert tools.make(folder, GptqConfig(group_size=-1)).manifest["quantized_layers"] == LAYERS + 8


def test_experts_that_are_left_are_told(tools: FakeBench, tmp_path: Path) -> None:
    experts = {f"model.layers.0.mlp.experts.{n}.down_proj.weight": (256, 64) for n in range(4)}
    folder = checkpoint(tmp_path / "moe", {**LLAMA, **experts}, model_type="qwen3_moe")
    tools.result["calibration"] = None
    tools.behave("bitsandbytes_worker")
    manifest = tools.make(folder, BitsandbytesConfig()).manifest
    assert manifest["skipped_layers"] == ["lm_head", "model.layers.0.mlp.experts"]
    (warning,) = manifest["warnings"]
    assert warning.startswith("the experts, 4 % of the weights, are not quantized: bitsandbytes packs linear layers")


def test_too_little_space_is_said_before_the_work(
    tools: FakeBench, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 10})())
    with pytest.raises(CellFailure, match="GPTQ W4A16 takes about 1 MiB of disk, 0 MiB are free") as caught:
        tools.make(model, GptqConfig())
    assert caught.value.kind is FailureKind.DISK_FULL
    assert tools.asked == []


def test_an_error_of_another_kind_of_crash_keeps_its_words(tmp_path: Path) -> None:
    from bench.toolchains.worker import WorkerError

    failure: Any = as_failure(WorkerError("crashed", "w was killed by SIGSEGV", log_tail="end"), "tool", tmp_path)
    assert (failure.kind, failure.log_tail) == (FailureKind.QUANTIZER, "end")
    assert str(failure) == "tool: w was killed by SIGSEGV"
