"""Checkpoints that are quantized already: what they say of themselves, and that nothing is copied."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from bench.base.compose import compose
from bench.base.errors import UsageError
from bench.base.progress import Progress
from bench.pipeline.schemas import register_all
from bench.plan.config import RunConfig
from bench.toolchains.toolchain import Toolchain
from quantize.artefact import Artefact
from quantize.models import HubConfig, LocalConfig
from quantize.packed import label_of
from quantize.run import quantize
from quantize.schemes.prequantized import PrequantizedConfig
from tests.unit.quantize.gguf_writer import UINT32, pair, write_gguf
from tests.unit.quantize.safetensors_writer import write_safetensors

register_all()

AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True, "version": "gemm"}
#: A matrix of 256 x 512 packed by each method, and 32 weights in 16 bits. 131,104 weights in all.
WEIGHTS = 256 * 512 + 32


class NoToolchains:
    """Nothing may be asked for."""

    def lock(self, name: str) -> str:
        raise AssertionError(name)

    def ensure(self, name: str, progress: Progress) -> Toolchain:
        raise AssertionError(name)


def take(path: Path, tmp_path: Path) -> Artefact:
    return quantize(
        LocalConfig(path=str(path)),
        PrequantizedConfig(),
        cache=tmp_path / "cache",
        progress=Progress(),
        toolchains=NoToolchains(),
    )


def folder(path: Path, config: Mapping[str, Any] | None, tensors: Mapping[str, tuple[str, tuple[int, ...]]]) -> Path:
    path.mkdir()
    whole = {"model_type": "llama"} if config is None else {"model_type": "llama", "quantization_config": config}
    (path / "config.json").write_text(json.dumps(whole), encoding="utf-8")
    write_safetensors(path / "model.safetensors", {"norm.weight": ("F16", (32,)), **tensors})
    return path


@pytest.mark.parametrize(
    ("config", "label"),
    [
        (AWQ, "awq-w4g128"),
        ({"quant_method": "gptq", "bits": 8, "group_size": -1, "desc_act": False}, "gptq-w8"),
        ({"quant_method": "gptq", "bits": 4, "group_size": 32}, "gptq-w4g32"),
        ({"quant_method": "fp8", "activation_scheme": "static"}, "fp8-static"),
        (
            {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]},
            "fp8-dynamic-block128x128",
        ),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"group_0": {"weights": {"num_bits": 4, "type": "int", "group_size": 128}}},
            },
            "compressed-tensors-w4a16g128",
        ),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {
                    "group_0": {
                        "weights": {"num_bits": 8, "type": "float", "group_size": None},
                        "input_activations": {"num_bits": 8, "type": "float"},
                    }
                },
            },
            "compressed-tensors-w8a8-fp",
        ),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, "bitsandbytes-nf4"),
        ({"load_in_8bit": True}, "bitsandbytes-int8"),
        ({"quant_method": "mxfp4"}, "mxfp4"),
        ({"quant_method": "<script>alert(1)</script>", "bits": 4}, "script-alert-1-script-w4"),
    ],
)
def test_labels(config: dict[str, Any], label: str) -> None:
    assert label_of(config) == label


@pytest.mark.parametrize(
    ("config", "tensors", "size"),
    [
        (
            AWQ,
            {"m.qweight": ("I32", (256, 64)), "m.qzeros": ("I32", (2, 64)), "m.scales": ("F16", (2, 512))},
            65536 + 512 + 2048,
        ),
        (
            {"quant_method": "gptq", "bits": 4, "group_size": 128},
            {"m.qweight": ("I32", (32, 512)), "m.scales": ("F16", (2, 512)), "m.g_idx": ("I32", (256,))},
            65536 + 2048 + 1024,
        ),
        (
            {"quant_method": "fp8", "activation_scheme": "dynamic"},
            {"m.weight": ("F8_E4M3", (512, 256)), "m.weight_scale": ("F32", (1,))},
            131072 + 4,
        ),
        (
            {"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": {"num_bits": 4}}}},
            {"m.weight_packed": ("I32", (512, 32)), "m.weight_shape": ("I64", (2,))},
            65536 + 16,
        ),
        (
            {"quant_method": "bitsandbytes", "load_in_4bit": True},
            {
                "m.weight": ("U8", (65536, 1)),
                "m.weight.absmax": ("F32", (2048,)),
                "m.weight.quant_state.bitsandbytes__nf4": ("U8", (80,)),
            },
            65536 + 8192 + 80,
        ),
    ],
)
def test_packed_weights_are_counted(
    config: dict[str, Any], tensors: dict[str, tuple[str, tuple[int, ...]]], size: int, tmp_path: Path
) -> None:
    manifest = take(folder(tmp_path / "model", config, tensors), tmp_path).manifest
    assert manifest["parameters"] == WEIGHTS
    assert manifest["effective_bits_per_weight"] == pytest.approx(8 * (size + 64) / WEIGHTS)
    assert sum(row["tensors"] for row in manifest["tensor_types"]) == len(tensors) + 1
    assert manifest["format"] == "hf"


def test_a_folder_is_linked_without_code_and_pickles(tmp_path: Path) -> None:
    model = folder(tmp_path / "model", AWQ, {"m.qweight": ("I32", (256, 64))})
    for name in ("modeling.py", "pytorch_model.bin", "tokenizer.json", ".hidden", "other.gguf"):
        (model / name).write_text("{}", encoding="utf-8")
    made = take(model, tmp_path)
    assert made.model_path == made.directory
    links = {file.name for file in made.directory.iterdir() if file.is_symlink()}
    assert links == {"config.json", "model.safetensors", "tokenizer.json"}
    assert {file["path"] for file in made.manifest["files"]} == links
    assert made.manifest["size_bytes"] == sum((model / name).stat().st_size for name in links)
    assert (made.label, made.manifest["toolchain"], made.manifest["command"]) == ("awq-w4g128", None, [])
    assert str(tmp_path) not in json.dumps(made.manifest)


def test_a_gguf_is_linked_and_says_what_it_is(tmp_path: Path) -> None:
    plain = write_gguf(tmp_path / "a.gguf")
    kind = pair("general.file_type", UINT32, struct.pack("<I", 15))
    matrix = pair("quantize.imatrix.entries_count", UINT32, struct.pack("<I", 7))
    guessed = pair("general.file_type", UINT32, struct.pack("<I", 1024 + 3))
    said = write_gguf(tmp_path / "b.gguf", pairs=[kind])
    guided = write_gguf(tmp_path / "c.gguf", pairs=[kind, matrix])
    unsure = write_gguf(tmp_path / "d.gguf", pairs=[guessed])
    assert [take(path, tmp_path).label for path in (plain, said, guided, unsure)] == [
        "Q8_0",
        "Q4_K_M",
        "Q4_K_M imatrix",
        "Q4_1",
    ]
    made = take(plain, tmp_path)
    assert made.model_path.is_symlink()
    assert made.model_path.read_bytes() == plain.read_bytes()
    assert made.manifest["parameters"] == 160
    assert made.manifest["files"][0]["sha256"] == made.manifest["model"]["digest"].removeprefix("sha256:")


def test_a_source_that_moved_is_linked_again(tmp_path: Path) -> None:
    first = take(write_gguf(tmp_path / "a.gguf"), tmp_path)
    (tmp_path / "a.gguf").rename(tmp_path / "b.gguf")
    assert not first.model_path.exists()
    second = take(tmp_path / "b.gguf", tmp_path)
    assert second.key == first.key
    assert second.model_path.resolve() == tmp_path / "b.gguf"
    created = second.manifest["created"]
    assert take(tmp_path / "b.gguf", tmp_path).manifest["created"] == created


def test_bad_input_is_one_line(tmp_path: Path) -> None:
    novel = tmp_path / "novel.gguf"
    novel.write_text("Call me Ishmael.", encoding="utf-8")
    broken = folder(tmp_path / "broken", AWQ, {})
    (broken / "config.json").write_text("{", encoding="utf-8")
    cut = folder(tmp_path / "cut", AWQ, {"m.qweight": ("I32", (256, 64))})
    (cut / "model.safetensors").write_bytes((cut / "model.safetensors").read_bytes()[:-9])
    cases = {
        novel: "is not a GGUF file",
        folder(tmp_path / "plain", None, {}): "has no quantization_config, so the checkpoint is not quantized",
        folder(tmp_path / "nameless", {"bits": 4}, {}): "names no quant_method",
        broken: "is not JSON",
        cut: "is cut short",
    }
    for path, expected in cases.items():
        with pytest.raises(UsageError, match=expected) as caught:
            take(path, tmp_path)
        assert "\n" not in str(caught.value)
    assert not list((tmp_path / "cache" / "artefacts").glob("[!.]*"))


def test_the_format_is_known_before_anything_is_fetched(tmp_path: Path) -> None:
    scheme = compose("run", ["scheme=prequantized"], RunConfig).scheme
    assert scheme.format_of(HubConfig(repo="org/name")) == "hf"
    assert scheme.format_of(HubConfig(repo="org/name", file="a.gguf")) == "gguf"
    assert scheme.format_of(LocalConfig(path=str(tmp_path))) == "hf"
    assert scheme.format_of(LocalConfig(path=str(tmp_path / "a.gguf"))) == "gguf"
