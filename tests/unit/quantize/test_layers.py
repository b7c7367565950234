"""Which layers of a checkpoint are quantized and in what groups, from configurations and headers alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from bench.base.errors import UsageError
from quantize.layers import (
    LayerInventory,
    LinearLayer,
    choose_group_size,
    gguf_layers,
    held_notes,
    linear_layers,
    matches,
    refuse_held,
)
from tests.unit.quantize.gguf_writer import write_gguf
from tests.unit.quantize.safetensors_writer import write_safetensors

Shapes = Mapping[str, tuple[int, ...]]


def checkpoint(folder: Path, shapes: Shapes, **config: Any) -> Path:
    """A Hugging Face folder of BF16 tensors."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", **config}), encoding="utf-8")
    write_safetensors(folder / "model.safetensors", {name: ("BF16", shape) for name, shape in shapes.items()})
    return folder


def block(number: int, hidden: int = 256, inner: int = 512, keys: int = 128) -> dict[str, tuple[int, ...]]:
    """The tensors of a Llama's block."""
    attention, mlp = f"model.layers.{number}.self_attn", f"model.layers.{number}.mlp"
    return {
        f"{attention}.q_proj.weight": (hidden, hidden),
        f"{attention}.k_proj.weight": (keys, hidden),
        f"{attention}.v_proj.weight": (keys, hidden),
        f"{attention}.o_proj.weight": (hidden, hidden),
        f"{mlp}.gate_proj.weight": (inner, hidden),
        f"{mlp}.up_proj.weight": (inner, hidden),
        f"{mlp}.down_proj.weight": (hidden, inner),
        f"model.layers.{number}.input_layernorm.weight": (hidden,),
    }


LLAMA: Shapes = {
    "model.embed_tokens.weight": (1000, 256),
    **block(0),
    **block(1),
    "model.norm.weight": (256,),
    "lm_head.weight": (1000, 256),
}


def quantized(found: LayerInventory) -> set[str]:
    return {layer.name for layer in found.quantized}


def test_a_llama(tmp_path: Path) -> None:
    found = linear_layers(checkpoint(tmp_path / "m", LLAMA))
    assert len(found.quantized) == 14
    assert [layer.name for layer in found.skipped] == ["lm_head"]
    assert found.parameters == 2 * (2 * 256 * 256 + 2 * 128 * 256 + 3 * 256 * 512)
    assert found.other == 1000 * 256 + 3 * 256
    assert found.rest == found.other + 1000 * 256
    assert {layer.name.rsplit(".", 1)[-1] for layer in found.quantized if layer.splits_inputs} == {
        "o_proj",
        "down_proj",
    }
    down = next(layer for layer in found.quantized if layer.name.endswith("1.mlp.down_proj"))
    assert (down.outputs, down.inputs, down.count) == (256, 512, 1)


def test_ignore_takes_names_and_regexes_from_the_beginning(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "m", LLAMA)
    found = linear_layers(folder, ["model.layers.0.mlp.down_proj", "re:.*k_proj$"])
    assert {layer.name for layer in found.skipped} == {
        *("lm_head", "model.layers.0.mlp.down_proj"),
        *("model.layers.0.self_attn.k_proj", "model.layers.1.self_attn.k_proj"),
    }
    assert found.ignore[-2:] == ("model.layers.0.mlp.down_proj", "re:.*k_proj$")
    assert not matches("model.layers.0.mlp.down_proj", "re:down_proj"), "as compressed-tensors matches"
    assert not matches("model.layers.0.mlp.down_proj", "down_proj"), "a name is the whole name"
    assert not matches("model.layers.10", "model.layers.1.")


@pytest.mark.parametrize(
    ("ignore", "expected"),
    [
        (
            ["model.layers.7.mlp.up_proj"],
            "'model.layers.7.mlp.up_proj' fits no linear layer of m; names look like model",
        ),
        (["re:.*(k_proj"], r"'re:\.\*\(k_proj' is no regular expression"),
        (["re:.*"], "m: has no linear layer to quantize; all of 15 are skipped"),
    ],
)
def test_an_ignore_list_that_cannot_be_meant_is_refused(ignore: list[str], expected: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=expected):
        linear_layers(checkpoint(tmp_path / "m", LLAMA), ignore)


def test_a_name_with_a_bracket_is_no_regex(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "m", {**LLAMA, "odd(.weight": (128, 128)})
    assert "odd(" in {layer.name for layer in linear_layers(folder, ["odd("]).skipped}


def test_what_is_always_skipped_may_be_named_again(tmp_path: Path) -> None:
    """`ignore: [lm_head]` is what every example of llm-compressor says; a tied head is in no header."""
    tied = {name: shape for name, shape in LLAMA.items() if name != "lm_head.weight"}
    found = linear_layers(checkpoint(tmp_path / "m", tied), ["lm_head"])
    assert len(found.quantized) == 14
    assert found.skipped == ()


def test_a_folder_without_weights_of_that_name_says_so(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "m", LLAMA)
    (folder / "model.safetensors").rename(folder / "consolidated.safetensors")
    with pytest.raises(UsageError, match=r"holds no weights named model\*\.safetensors"):
        linear_layers(folder)


EXPERTS = {"num_hidden_layers": 1}


def moe(router: str, *, experts: str = "mlp.experts.0", more: Shapes | None = None) -> Shapes:
    return {
        "model.embed_tokens.weight": (1000, 256),
        **{f"model.layers.0.self_attn.{name}_proj.weight": (256, 256) for name in "qkvo"},
        f"model.layers.0.{router}.weight": (8, 256),
        f"model.layers.0.{experts}.down_proj.weight": (256, 128),
        **(more or {}),
    }


@pytest.mark.parametrize(
    ("model_type", "router", "more", "routers"),
    [
        ("mixtral", "block_sparse_moe.gate", {}, {"block_sparse_moe.gate"}),
        ("mixtral", "mlp.gate", {}, {"mlp.gate"}),
        (
            "qwen2_moe",
            "mlp.gate",
            {"model.layers.0.mlp.shared_expert_gate.weight": (1, 256)},
            {"mlp.gate", "mlp.shared_expert_gate"},
        ),
        ("qwen3_moe", "mlp.gate", {}, {"mlp.gate"}),
        ("deepseek_v3", "mlp.gate", {"model.layers.0.mlp.shared_experts.gate_proj.weight": (64, 256)}, {"mlp.gate"}),
        ("gpt_oss", "mlp.router", {}, {"mlp.router"}),
        ("granitemoe", "block_sparse_moe.router.layer", {}, {"block_sparse_moe.router.layer"}),
        ("imaginary_moe", "moe.router", {"model.layers.0.mlp.gate_proj.weight": (64, 256)}, {"moe.router"}),
    ],
)
def test_routers_stay_as_they_are(
    model_type: str, router: str, more: Shapes, routers: set[str], tmp_path: Path
) -> None:
    folder = checkpoint(tmp_path / "m", moe(router, more=more), model_type=model_type, num_experts=8)
    found = linear_layers(folder)
    assert {layer.name for layer in found.skipped} == {f"model.layers.0.{name}" for name in routers}
    assert "model.layers.0.mlp.experts.0.down_proj" in quantized(found)
    for name in more:
        plain = name.removesuffix(".weight")
        assert (plain in quantized(found)) == plain.endswith("gate_proj"), "a gated MLP's gate is no router"


def test_the_text_model_of_a_multimodal_one_counts(tmp_path: Path) -> None:
    shapes = {
        "model.visual.blocks.0.attn.qkv.weight": (384, 128),
        "model.vision_tower.layers.0.fc1.weight": (384, 128),
        **moe("mlp.gate"),
    }
    outer = {"model_type": "imaginary_vl", "text_config": {"model_type": "qwen3_moe", "num_experts": 8}}
    found = linear_layers(checkpoint(tmp_path / "m", shapes, **outer))
    assert {layer.name for layer in found.skipped} == {
        *("model.visual.blocks.0.attn.qkv", "model.vision_tower.layers.0.fc1", "model.layers.0.mlp.gate"),
    }


@pytest.mark.parametrize(
    ("model_type", "shape", "inputs", "outputs"),
    [
        ("gpt_oss", (32, 2880, 5760), 2880, 5760),
        ("qwen3_vl_moe", (128, 2048, 1536), 2048, 1536),  # transformers' conversion_mapping.py transposes it
        ("qwen3_5_moe", (256, 1024, 2048), 2048, 1024),
    ],
)
def test_experts_in_one_tensor(
    model_type: str, shape: tuple[int, int, int], inputs: int, outputs: int, tmp_path: Path
) -> None:
    stored = "model.layers.0.mlp.experts.gate_up_proj"
    more = {stored: shape, f"{stored}_bias": shape[:2], "model.layers.0.conv.weight": (4, 1, 4)}
    folder = checkpoint(tmp_path / "m", moe("mlp.gate", more=more), model_type=model_type)
    (fused,) = linear_layers(folder).fused
    assert (fused.name, fused.count, fused.inputs, fused.outputs) == (stored, shape[0], inputs, outputs)
    assert fused.parameters == shape[0] * shape[1] * shape[2]
    assert not fused.splits_inputs


@pytest.mark.parametrize(
    ("name", "count", "module"),
    [
        ("model.layers.0.mlp.experts.11.down_proj", 1, "model.layers.0.mlp.experts"),
        ("model.layers.0.block_sparse_moe.experts.0.w1", 1, "model.layers.0.block_sparse_moe.experts"),
        ("model.layers.0.mlp.experts.gate_up_proj", 8, "model.layers.0.mlp.experts"),
        ("model.layers.0.block_sparse_moe.input_linear", 8, "model.layers.0.block_sparse_moe.input_linear"),
        ("model.layers.0.mlp.shared_experts.down_proj", 1, ""),
        ("model.layers.0.mlp.shared_expert.down_proj", 1, ""),
        ("model.layers.0.mlp.down_proj", 1, ""),
    ],
)
def test_layers_of_routed_experts_are_known_by_their_names(name: str, count: int, module: str) -> None:
    assert LinearLayer(name=name, inputs=1, outputs=1, count=count).experts == module


def test_a_quantizer_without_experts_leaves_them_all(tmp_path: Path) -> None:
    """One expert by its own name, 4 in one tensor of another block; attention is quantized."""
    fused = {"model.layers.1.mlp.experts.down_proj": (4, 256, 128)}
    folder = checkpoint(tmp_path / "m", moe("mlp.gate", more=fused), model_type="qwen3_moe")
    whole = linear_layers(folder)
    found = whole.without_experts()
    assert quantized(found) == {f"model.layers.0.self_attn.{name}_proj" for name in "qkvo"}
    assert [layer.name for layer in found.skipped] == ["model.layers.0.mlp.gate"]
    assert found.expert_modules == ("model.layers.0.mlp.experts", "model.layers.1.mlp.experts")
    assert found.fused == ()
    experts = 5 * 256 * 128
    assert found.parameters == whole.parameters - experts
    assert found.rest == whole.rest + experts
    assert found.held_percent == round(100 * experts / (whole.parameters + whole.rest))
    refuse_held(found, "tool", "m")
    assert held_notes(found, "tool")[0].startswith(f"the experts, {found.held_percent} % of the weights, are not")
    assert held_notes(whole, "tool") == []
    asked = linear_layers(folder, ["re:.*experts.*"]).without_experts()
    assert (asked.held, asked.expert_modules) == ((), found.expert_modules), "who names them knows"


def test_where_most_is_experts_nothing_is_made(tmp_path: Path) -> None:
    more = {"model.layers.1.mlp.experts.down_proj": (64, 256, 128)}
    found = linear_layers(checkpoint(tmp_path / "m", moe("mlp.gate", more=more), model_type="qwen3_moe"))
    refuse_held(found, "tool", "m")
    with pytest.raises(
        UsageError, match=r"^m: \d\d % of its weights are experts, which tool leaves .*fp8_dynamic.*gguf"
    ):
        refuse_held(found.without_experts(), "tool", "m")


def test_architectures_that_cannot_be_quantized_by_layer_say_why(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="m: its layers are Conv1D modules"):
        linear_layers(checkpoint(tmp_path / "m", LLAMA, model_type="gpt2"))


@pytest.mark.parametrize("said", ["{", "[]"])
def test_a_broken_configuration_is_named(said: str, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "m", LLAMA)
    (folder / "config.json").write_text(said)
    with pytest.raises(UsageError, match=r"config\.json: (cannot be read as JSON|is not a JSON object)"):
        linear_layers(folder)


def layer(name: str, inputs: int, *, row: bool = False) -> LinearLayer:
    return LinearLayer(name=name, inputs=inputs, outputs=64, splits_inputs=row)


@pytest.mark.parametrize(
    ("widths", "ranks", "chosen"),
    [
        ([(256, False), (512, True)], 1, 128),
        ([(256, False), (576, False)], 1, 64),
        ([(256, False), (96, False)], 1, 32),
        ([(256, False), (512, True)], 4, 128),
        ([(256, False), (512, True)], 8, 64),  # 512 inputs are 64 on each of 8 ranks
        ([(256, False), (512, False)], 8, 128),  # only layers that split their inputs have fewer on a rank
        ([(512, True)], 16, 32),
    ],
)
def test_the_largest_group_that_fits_is_chosen(widths: list[tuple[int, bool]], ranks: int, chosen: int) -> None:
    layers = [layer(f"l{n}", inputs, row=row) for n, (inputs, row) in enumerate(widths)]
    assert choose_group_size(layers, 0, ranks) == chosen
    assert choose_group_size(layers, 16, ranks) == 16, "an explicit size need not be one of ours"


@pytest.mark.parametrize(
    ("asked", "widths", "ranks", "expected"),
    [
        (128, [256, 576], 1, r"group_size=128: l1 has 576 inputs which is no multiple of 128; use .*group_size=64 "),
        (
            0,
            [256, 100],
            1,
            r"l1 has 100 inputs which is no multiple of 32; none of 128, 64, 32 fits; use scheme\.ignore",
        ),
        (
            128,
            [256, 512],
            8,
            r"l0 has 256 inputs, 32 on each of 8 ranks, .*no multiple of 128; use scheme.group_size=32 ",
        ),
        (0, [256], 16, r"l0 has 256 inputs, 16 on each of 16 ranks, .* use a smaller scheme\.tensor_parallel"),
        (0, [250], 4, r"tensor_parallel=4: l0 has 250 inputs, which cannot be split evenly"),
    ],
)
def test_what_does_not_fit_names_the_layer_and_what_would(
    asked: int, widths: list[int], ranks: int, expected: str
) -> None:
    layers = [layer(f"l{n}", inputs, row=True) for n, inputs in enumerate(widths)]
    with pytest.raises(UsageError, match=expected):
        choose_group_size(layers, asked, ranks)


GGUF = [("token_embd.weight", (256, 1000), 0), ("output.weight", (256, 1000), 0), ("output_norm.weight", (256,), 0)]
GGUF_BLOCK = [
    ("blk.0.attn_q.weight", (256, 256), 0),
    ("blk.0.attn_output.weight", (256, 256), 0),
    ("blk.0.ffn_up.weight", (256, 512), 0),
    ("blk.0.ffn_down.weight", (512, 256), 0),
    ("blk.0.attn_norm.weight", (256,), 0),
]


def test_a_ggufs_layers_have_their_future_names(tmp_path: Path) -> None:
    found = gguf_layers(write_gguf(tmp_path / "m.gguf", [*GGUF, *GGUF_BLOCK]), ["model.layers.0.mlp.up_proj"])
    assert {layer.name: (layer.inputs, layer.outputs, layer.splits_inputs) for layer in found.quantized} == {
        "model.layers.0.self_attn.q_proj": (256, 256, False),
        "model.layers.0.self_attn.o_proj": (256, 256, True),
        "model.layers.0.mlp.down_proj": (512, 256, True),
    }
    assert {layer.name for layer in found.skipped} == {"lm_head", "model.layers.0.mlp.up_proj"}
    assert found.other == 256 * 1000 + 2 * 256
    with pytest.raises(UsageError, match="up_proj' fits no linear layer of m"):
        gguf_layers(tmp_path / "m.gguf", ["model.layers.9.mlp.up_proj"])


def test_what_a_gguf_calls_otherwise_is_left_to_the_checkpoint_made_of_it(tmp_path: Path) -> None:
    experts = [("blk.0.ffn_gate_inp.weight", (256, 8), 0), ("blk.0.ffn_down_exps.weight", (128, 256, 8), 0)]
    mixed = write_gguf(tmp_path / "moe.gguf", [*GGUF, *GGUF_BLOCK, *experts])
    found = gguf_layers(mixed, ["re:.*shared_expert.*"])
    assert found.other == 256 * 1000 + 2 * 256 + 256 * 8
    assert [layer.parameters for layer in found.held] == [128 * 256 * 8]
    assert len(found.quantized) == 4
    unknown = write_gguf(tmp_path / "ssm.gguf", [*GGUF, ("blk.0.ssm_in.weight", (256, 512), 0)])
    assert gguf_layers(unknown).quantized == ()
    with pytest.raises(UsageError, match="has no linear layer to quantize"):
        gguf_layers(write_gguf(tmp_path / "none.gguf", GGUF))
