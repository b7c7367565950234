"""The unquantized checkpoint: linked where it is stored so, else written by a worker (here one of ours)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.base.errors import CellFailure, FailureKind, UsageError
from quantize.schemes import unquantized
from quantize.schemes.fp8 import Fp8Config
from quantize.schemes.unquantized import FloatType, UnquantizedConfig
from tests.unit.quantize.fake_workers import FakeBench
from tests.unit.quantize.gguf_writer import write_gguf
from tests.unit.quantize.safetensors_writer import write_safetensors
from tests.unit.quantize.test_layers import checkpoint

SHAPES = {"model.embed_tokens.weight": (64, 32), "model.layers.0.mlp.up_proj.weight": (32, 32)}
WEIGHTS = 64 * 32 + 32 * 32


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeBench:
    bench = FakeBench(tmp_path, monkeypatch, "quantize.schemes.hf")
    bench.result = {"warnings": ["of the worker"]}
    (bench.written / "config.json").write_text("{}")
    write_safetensors(bench.written / "model.safetensors", {"a": ("F16", (32, 4)), "n": ("F32", (32,))})
    monkeypatch.setattr(unquantized, "_WORKER", bench.workers / "hf_checkpoint.py")
    bench.behave("hf_checkpoint")
    return bench


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = checkpoint(tmp_path / "my-model", SHAPES)
    for name in ("tokenizer.json", "modeling.py", "README.md"):
        (folder / name).write_text(name)
    return folder


def test_a_folder_that_is_stored_so_is_linked(tools: FakeBench, model: Path) -> None:
    # Vectors may be finer, and another set of weights beside is not counted.
    write_safetensors(
        model / "model.safetensors", {**{name: ("BF16", shape) for name, shape in SHAPES.items()}, "n": ("F32", (32,))}
    )
    write_safetensors(model / "consolidated.safetensors", {"again": ("F32", (99, 99))})
    made = tools.make(model, UnquantizedConfig())
    assert tools.asked == []
    links = {file.name: file.resolve() for file in made.directory.iterdir() if file.is_symlink()}
    names = {"config.json", "model.safetensors", "consolidated.safetensors", "tokenizer.json", "README.md"}
    assert links == {name: model / name for name in names}
    assert (made.label, made.manifest["parameters"], made.manifest["warnings"]) == ("BF16", WEIGHTS + 32, [])
    assert {row["type"]: row["parameters"] for row in made.manifest["tensor_types"]} == {"BF16": WEIGHTS, "F32": 32}
    assert made.manifest["effective_bits_per_weight"] == pytest.approx((16 * WEIGHTS + 32 * 32) / (WEIGHTS + 32))
    assert (made.manifest["packing"], made.manifest["command"]) == ("none", [])


def test_a_folder_that_moved_is_linked_again(tools: FakeBench, model: Path, tmp_path: Path) -> None:
    first = tools.make(model, UnquantizedConfig())
    again = tools.make(model, UnquantizedConfig())
    assert again.manifest["created"] == first.manifest["created"]
    moved = model.rename(tmp_path / "moved")
    second = tools.make(moved, UnquantizedConfig())
    assert second.key == first.key
    assert (second.directory / "config.json").resolve() == moved / "config.json"


def test_another_precision_is_cast_by_the_worker(tools: FakeBench, model: Path) -> None:
    made = tools.make(model, UnquantizedConfig(dtype=FloatType.fp16))
    (asked,) = tools.asked
    assert (asked["task"], asked["dtype"]) == ("cast", "fp16")
    assert "modeling.py" not in asked["seen"]
    names = [file["path"] for file in made.manifest["files"]]
    assert names == ["model.safetensors", "README.md", "config.json", "tokenizer.json"]
    assert not any(file.is_symlink() for file in made.directory.iterdir())
    assert not (made.directory / "scratch").exists()
    assert made.manifest["command"] == ["hf_checkpoint", "hf", "fp16"]
    assert (made.label, made.manifest["warnings"]) == ("FP16", ["of the worker"])
    assert made.manifest["parameters"] == 32 * 4 + 32


def test_a_gguf_goes_to_the_worker_as_it_is_and_schemes_share_what_it_wrote(tools: FakeBench, tmp_path: Path) -> None:
    gguf = write_gguf(tmp_path / "m.gguf", [("blk.0.ffn_up.weight", (32, 4), 0)])
    made = tools.make(gguf, UnquantizedConfig())
    (asked,) = tools.asked
    assert (asked["task"], asked["source"], asked["dtype"]) == ("gguf", str(gguf), "bf16")
    assert str(tools.root) not in json.dumps(made.manifest)
    # The worker of ours writes no linear layers: the scheme comes as far as looking at what was made, made once.
    with pytest.raises(UsageError, match="has no linear layer to quantize"):
        tools.make(gguf, Fp8Config())
    assert len(tools.asked) == 1


@pytest.mark.parametrize(
    ("behaviour", "kind", "expected"),
    [
        ("unsupported", FailureKind.QUANTIZER, r"^my-model: scheme\.x: it failed in .*; choose another dtype or use"),
        ("out_of_range", FailureKind.QUANTIZER, r"^my-model: scheme\.x: it failed in .*; choose another dtype or use"),
        ("disk_full", FailureKind.DISK_FULL, "^transformers: .*; free some space$"),
        ("killed", FailureKind.OUT_OF_MEMORY, "^transformers: .*; free memory"),
    ],
)
def test_failures_are_typed(behaviour: str, kind: FailureKind, expected: str, tools: FakeBench, model: Path) -> None:
    tools.behave("hf_checkpoint", behaviour)
    with pytest.raises(CellFailure, match=expected) as caught:
        tools.make(model, UnquantizedConfig(dtype=FloatType.fp16))
    assert caught.value.kind is kind
    assert str(tools.root) not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", [FloatType.fp16, FloatType.fp32])
def test_too_little_space_is_said_before_the_work(
    dtype: FloatType, tools: FakeBench, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = WEIGHTS * dtype.width
    for space in (free, free - 1):
        monkeypatch.setattr("shutil.disk_usage", lambda _, space=space: type("Usage", (), {"free": space})())
        if space == free:
            assert tools.make(model, UnquantizedConfig(dtype=dtype)).label == dtype.value.upper()
            model.joinpath("README.md").write_text("another key")
    with pytest.raises(CellFailure, match=f"{dtype.value} takes about 0 MiB of disk") as caught:
        tools.make(model, UnquantizedConfig(dtype=dtype))
    assert caught.value.kind is FailureKind.DISK_FULL
    assert len(tools.asked) == 1
