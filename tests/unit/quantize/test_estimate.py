"""Sizes and memory of variants from headers, by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.base.errors import UsageError
from bench.pipeline.schemas import register_all
from quantize.estimate import Estimate, UnknownSize, estimate, gguf_name
from quantize.samples import SampleSetConfig
from quantize.schemes.awq import AwqConfig
from quantize.schemes.base import SchemeConfig
from quantize.schemes.bitsandbytes import BitsandbytesConfig
from quantize.schemes.fp8 import Fp8Activations, Fp8Config
from quantize.schemes.gguf import GgufConfig, GgufType
from quantize.schemes.gptq import GptqConfig
from quantize.schemes.load_time import LoadTimeConfig, LoadTimeMethod
from quantize.schemes.prequantized import PrequantizedConfig
from quantize.schemes.unquantized import FloatType, UnquantizedConfig
from quantize.source import Source, glance
from tests.unit.quantize.gguf_writer import write_gguf
from tests.unit.quantize.safetensors_writer import write_safetensors

register_all()

HIDDEN, INNER, VOCABULARY = 256, 512, 1000
CONFIG = {
    "model_type": "llama",
    "num_hidden_layers": 1,
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCABULARY,
}
MATRICES = {
    "self_attn.q_proj": (HIDDEN, HIDDEN),
    "self_attn.k_proj": (HIDDEN // 2, HIDDEN),
    "self_attn.v_proj": (HIDDEN // 2, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HIDDEN),
    "mlp.gate_proj": (INNER, HIDDEN),
    "mlp.up_proj": (INNER, HIDDEN),
    "mlp.down_proj": (HIDDEN, INNER),
}
LINEAR = sum(rows * columns for rows, columns in MATRICES.values())
NORMS = 3 * HIDDEN
#: An output of Q6_K takes 210000 bytes, which are filled up to a multiple of 32.
PADDING = 16
EMBEDDINGS = VOCABULARY * HIDDEN


def folder(tmp_path: Path, kind: str = "BF16", *, head: bool = True, **config: Any) -> Source:
    """A Llama of one layer; `head`: its output matrix is stored."""
    path = tmp_path / "model"
    path.mkdir()
    (path / "config.json").write_text(json.dumps({**CONFIG, **config}))
    tensors = {
        "model.embed_tokens.weight": (kind, (VOCABULARY, HIDDEN)),
        **({"lm_head.weight": (kind, (VOCABULARY, HIDDEN))} if head else {}),
        "model.norm.weight": (kind, (HIDDEN,)),
        "model.layers.0.input_layernorm.weight": (kind, (HIDDEN,)),
        "model.layers.0.post_attention_layernorm.weight": (kind, (HIDDEN,)),
        **{f"model.layers.0.{name}.weight": (kind, shape) for name, shape in MATRICES.items()},
    }
    write_safetensors(path / "model.safetensors", tensors)
    return glance(path)


def config_bytes(source: Source) -> int:
    return (source.path / "config.json").stat().st_size


def test_an_unquantized_folder_is_linked_to_and_takes_no_memory(tmp_path: Path) -> None:
    source = folder(tmp_path)
    found = estimate(source, UnquantizedConfig())
    assert found.weight_bytes == 2 * (LINEAR + NORMS + 2 * EMBEDDINGS)
    assert found.output_bytes == found.weight_bytes + config_bytes(source)
    assert found.quantizing_bytes == 0


def test_a_tied_output_counts_once_whether_it_is_stored_or_not(tmp_path: Path) -> None:
    source = folder(tmp_path, tie_word_embeddings=True)
    assert estimate(source, UnquantizedConfig()).weight_bytes == 2 * (LINEAR + NORMS + EMBEDDINGS)


def test_a_cast_has_every_weight_in_the_type_asked_for(tmp_path: Path) -> None:
    source = folder(tmp_path, head=False)
    found = estimate(source, UnquantizedConfig(dtype=FloatType.fp32))
    assert found.weight_bytes == 4 * (LINEAR + NORMS + EMBEDDINGS)
    assert found.quantizing_bytes > found.weight_bytes


@pytest.mark.parametrize(
    ("scheme", "bits"),
    [
        (Fp8Config(), 8.0),
        (GptqConfig(), 4 + 16 / 128),
        (GptqConfig(group_size=32), 4 + 16 / 32),
        (GptqConfig(bits=8, group_size=-1), 8.0),
        (AwqConfig(), 4 + (16 + 4) / 128),
        (BitsandbytesConfig(), 4.5),
    ],
    ids=lambda value: getattr(value, "kind", value),
)
def test_only_linear_layers_are_quantized_in_the_groups_they_allow(
    tmp_path: Path, scheme: SchemeConfig, bits: float
) -> None:
    source = folder(tmp_path)
    found = estimate(source, scheme)
    rest = 2 * (NORMS + 2 * EMBEDDINGS)
    assert found.weight_bytes == rest + round(LINEAR * bits / 8)
    assert found.unpacked_bytes == rest + 2 * LINEAR
    assert found.output_bytes == found.weight_bytes + config_bytes(source)


def test_an_ignored_layer_stays_as_it_is(tmp_path: Path) -> None:
    found = estimate(folder(tmp_path), Fp8Config(ignore=["re:.*down_proj"]))
    down = HIDDEN * INNER
    assert found.weight_bytes == 2 * (NORMS + 2 * EMBEDDINGS + down) + LINEAR - down


def test_calibration_adds_activations_of_all_samples_and_a_hessian(tmp_path: Path) -> None:
    source = folder(tmp_path)
    plain = estimate(source, BitsandbytesConfig())
    found = estimate(source, GptqConfig(calibration=SampleSetConfig(samples=10, length=100)))
    more = found.quantizing_bytes - found.weight_bytes - (plain.quantizing_bytes - plain.weight_bytes)
    assert more == 2 * 10 * 100 * HIDDEN * 2 + 3 * 4 * INNER**2


def test_quantizing_on_loading_stores_the_checkpoint_and_serves_less(tmp_path: Path) -> None:
    source = folder(tmp_path)
    found = estimate(source, LoadTimeConfig(method=LoadTimeMethod.fp8))
    assert found.output_bytes == sum(file.stat().st_size for file in source.path.iterdir()), "links to it"
    assert found.quantizing_bytes == 0
    assert found.weight_bytes == LINEAR + 2 * (NORMS + 2 * EMBEDDINGS)
    assert "while it loads" in found.notes[-1]


@pytest.mark.parametrize("scheme", [BitsandbytesConfig(), LoadTimeConfig(method=LoadTimeMethod.bitsandbytes_int8)])
def test_experts_that_stay_as_they_are_count_whole(tmp_path: Path, scheme: SchemeConfig) -> None:
    source = folder(tmp_path)
    before = estimate(source, scheme).weight_bytes
    experts = {f"model.layers.0.mlp.experts.{n}.up_proj.weight": ("BF16", (32, HIDDEN)) for n in range(2)}
    write_safetensors(source.path / "model-2.safetensors", experts)
    assert estimate(source, scheme).weight_bytes == before + 2 * 2 * 32 * HIDDEN
    plain = estimate(source, Fp8Config()).weight_bytes
    assert plain == LINEAR + 2 * 32 * HIDDEN + 2 * (NORMS + 2 * EMBEDDINGS), "one of llm-compressor's quantizes them"


def test_what_a_scheme_refuses_is_refused_here(tmp_path: Path) -> None:
    source = folder(tmp_path, head=False)
    with pytest.raises(UsageError, match="multiple of 48"):
        estimate(source, GptqConfig(group_size=48))
    packed = {**CONFIG, "quantization_config": {"quant_method": "fp8"}}
    (source.path / "config.json").write_text(json.dumps(packed))
    with pytest.raises(UsageError, match="is quantized already"):
        estimate(source, Fp8Config())


def test_blocks_that_do_not_fill_a_layer_are_refused(tmp_path: Path) -> None:
    source = folder(tmp_path)
    assert estimate(source, Fp8Config(activations=Fp8Activations.block)).weight_bytes
    (source.path / "model.safetensors").unlink()
    write_safetensors(source.path / "model.safetensors", {"model.layers.0.mlp.up_proj.weight": ("BF16", (96, 64))})
    with pytest.raises(UsageError, match="no multiple of 128"):
        estimate(source, Fp8Config(activations=Fp8Activations.block))


def test_a_scheme_that_says_nothing_is_unknown(tmp_path: Path) -> None:
    with pytest.raises(UnknownSize, match="says nothing"):
        estimate(folder(tmp_path), SchemeConfig(kind="mine"))


def gguf_of(tmp_path: Path, asked: GgufType, **options: Any) -> Estimate:
    return estimate(folder(tmp_path, **options), GgufConfig(type=asked))


def test_a_folder_as_gguf_keeps_norms_as_f32(tmp_path: Path) -> None:
    found = gguf_of(tmp_path, GgufType.F16)
    assert found.weight_bytes == 2 * (LINEAR + 2 * EMBEDDINGS) + 4 * NORMS


def test_a_folder_as_q8_0_takes_34_bytes_for_32_weights(tmp_path: Path) -> None:
    found = gguf_of(tmp_path, GgufType.Q8_0)
    assert found.weight_bytes == (LINEAR + 2 * EMBEDDINGS) // 32 * 34 + 4 * NORMS


def test_a_mix_gives_single_matrices_more_bits(tmp_path: Path) -> None:
    """Q4_K_M of one layer: the output is Q6_K, and so are values and ffn_down, being in the last eighth."""
    found = gguf_of(tmp_path, GgufType.Q4_K_M)
    six = EMBEDDINGS + HIDDEN // 2 * HIDDEN + HIDDEN * INNER
    four = LINEAR + 2 * EMBEDDINGS - six
    assert found.weight_bytes == six // 256 * 210 + four // 256 * 144 + 4 * NORMS + PADDING


def test_a_tied_embedding_is_quantized_as_the_output(tmp_path: Path) -> None:
    found = gguf_of(tmp_path, GgufType.Q4_0, head=False, tie_word_embeddings=True)
    assert found.weight_bytes == LINEAR // 32 * 18 + EMBEDDINGS // 256 * 210 + 4 * NORMS + PADDING


def test_packed_weights_are_not_known_after_conversion(tmp_path: Path) -> None:
    with pytest.raises(UnknownSize, match="F8_E4M3"):
        gguf_of(tmp_path, GgufType.Q8_0, kind="F8_E4M3")


def test_quantizing_a_gguf_holds_the_largest_matrix_three_times(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", [("blk.0.ffn_up.weight", (256, 4096), 1), ("norm.weight", (32,), 0)])
    found = estimate(glance(path), GgufConfig(type=GgufType.Q4_0))
    count = 256 * 4096
    assert found.quantizing_bytes - (24 << 20) == 2 * count + 4 * count + count // 32 * 18
    assert found.output_bytes == path.stat().st_size - 2 * count + count // 32 * 18


def test_a_matrix_of_importance_is_unknown_where_widths_are(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", [("blk.0.ffn_up.weight", (256, 64), 1)])
    with pytest.raises(UnknownSize, match="importance matrix"):
        estimate(glance(path), GgufConfig(type=GgufType.Q4_0, imatrix=True))


def test_a_prequantized_gguf_is_its_file(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", [("blk.0.ffn_up.weight", (256, 64), 8)])
    found = estimate(glance(path), PrequantizedConfig())
    assert (found.output_bytes, found.quantizing_bytes, found.words) == (path.stat().st_size, 0, "Q8_0")
    assert found.weight_bytes == 256 * 64 // 32 * 34


def test_a_prequantized_folder_is_its_files_and_says_its_format(tmp_path: Path) -> None:
    path = tmp_path / "packed"
    path.mkdir()
    packed = {"bits": 4, "group_size": 128, "quant_method": "awq"}
    (path / "config.json").write_text(json.dumps({**CONFIG, "quantization_config": packed}))
    write_safetensors(path / "model.safetensors", {"a.qweight": ("I32", (128, 16)), "a.scales": ("F16", (1, 128))})
    found = estimate(glance(path), PrequantizedConfig())
    assert (found.words, found.packing) == ("awq-w4g128", "awq")
    assert found.output_bytes == sum(file.stat().st_size for file in path.iterdir())
    assert (found.weight_bytes, found.unpacked_bytes) == (128 * 16 * 4 + 256, 2 * 128 * 16 * 8)


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("model.embed_tokens.weight", "token_embd.weight"),
        ("model.language_model.embed_tokens.weight", "token_embd.weight"),
        ("lm_head.weight", "output.weight"),
        ("model.layers.3.self_attn.q_proj.weight", "blk.3.attn_q.weight"),
        ("model.layers.3.mlp.experts.7.down_proj.weight", "blk.3.ffn_down_exps.weight"),
        ("model.layers.3.block_sparse_moe.experts.7.w2.weight", "blk.3.ffn_down_exps.weight"),
        ("model.layers.3.mlp.gate.weight", "blk.3.ffn_gate_inp.weight"),
        ("model.layers.3.input_layernorm.weight", "blk.3.input_layernorm_norm.weight"),
        ("model.norm.weight", "model.norm.weight"),
    ],
)
def test_names_of_a_checkpoint_as_llama_cpp_has_them(name: str, ours: str) -> None:
    assert gguf_name(name) == ours
