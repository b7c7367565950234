"""trtllm-serve's command line and options file, held against the options of its release."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.engines.base import Launch, ServedModel, SpeculativeConfig, SupportAnswer, engine_of, file_word
from bench.engines.tensorrt_llm import OPTIONS_FILE, TensorRtLlmConfig, file_options
from tests.support import test_data
from tests.unit.engines.flag_tables import RECORDED, given_flags, read_table

LAUNCH = Launch(host="127.0.0.1", port=8123, api_key="secret-key")
MODEL = ServedModel(format="hf", path=Path("/models/m"), name="smol-bf16")
EVERYTHING = TensorRtLlmConfig(
    tensor_parallel_size=2,
    pipeline_parallel_size=2,
    max_batched_tokens=4096,
    memory_fraction=0.8,
    chunked_prefill=True,
    expert_parallel_size=2,
    postprocess_workers=4,
    trust_remote_code=True,
)


def argv(config: TensorRtLlmConfig) -> list[str]:
    return [str(word) for word in engine_of(config).command(config, MODEL, LAUNCH, None).argv]


def test_what_is_chosen_becomes_flags_and_nothing_else() -> None:
    start = ["trtllm-serve", "serve", "/models/m", "--backend", "pytorch", "--host", "127.0.0.1", "--port", "8123"]
    lengths = ["--max_seq_len", "2048", "--max_batch_size", "4"]
    assert argv(TensorRtLlmConfig(iteration_statistics=False)) == [*start, *lengths]
    assert argv(EVERYTHING) == [
        *(*start, *lengths, "--tp_size", "2", "--pp_size", "2", "--max_num_tokens", "4096"),
        *("--kv_cache_free_gpu_memory_fraction", "0.8", "--enable_chunked_prefill", "--ep_size", "2"),
        *("--num_postprocess_workers", "4", "--trust_remote_code"),
        *("--extra_llm_api_options", file_word(OPTIONS_FILE)),
    ]


@pytest.mark.parametrize("where", ["recorded", "whole"])
def test_every_flag_is_an_option_of_trtllm_serve(where: str) -> None:
    path = RECORDED / "trtllm_serve.tsv" if where == "recorded" else test_data("flags/trtllm_serve_flags.tsv")
    rows = {
        name.strip(): row
        for row in read_table(path)
        if row.get("command", "serve") == "serve"
        for name in row["flags"].split("/")
    }
    used = given_flags(argv(EVERYTHING))
    for flag, value in used:
        assert flag in rows, flag
        assert (value is None) == (rows[flag]["is_flag"] == "True"), flag
        kind = {"int": int, "float": float}.get(rows[flag]["type"], str)
        assert value is None or kind(value) is not None
    assert "'pytorch'" in rows["--backend"]["type"]
    assert not any("key" in name for name in rows), "it has no API key, which its docstring says"


def test_settings_without_a_flag_go_into_the_file() -> None:
    config = TensorRtLlmConfig(
        attention_backend="FLASHINFER",
        dtype="bfloat16",
        prefix_caching=False,
        kv_cache_dtype="fp8",
        block_size=64,
        cuda_graph_sizes=[1, 2],
        speculative=SpeculativeConfig(method="draft_model", model="draft", tokens=3),
        options={"kv_cache_config": {"host_cache_size": 1024}, "sampler_type": "auto"},
    )
    made = engine_of(config).command(config, MODEL, LAUNCH, None)
    assert json.loads(made.files[OPTIONS_FILE]) == {
        "attn_backend": "FLASHINFER",
        "dtype": "bfloat16",
        "kv_cache_config": {
            "enable_block_reuse": False,
            "dtype": "fp8",
            "tokens_per_block": 64,
            "host_cache_size": 1024,
        },
        "cuda_graph_config": {"batch_sizes": [1, 2]},
        "speculative_config": {"decoding_type": "DraftTarget", "max_draft_len": 3, "speculative_model_dir": "draft"},
        "enable_iter_perf_stats": True,
        "sampler_type": "auto",
    }
    assert file_options(TensorRtLlmConfig(cuda_graphs=False))["cuda_graph_config"] is None


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"swap_space_gib": 4.0}, "engine.swap_space_gib=4.0: tensorrt_llm has no such setting"),
        ({"quantization": "fp8"}, "engine.quantization=fp8: tensorrt_llm has no such setting"),
        ({"threads": 8}, "engine.threads=8: tensorrt_llm has no such setting"),
        ({"chunked_prefill": None, "speculative": SpeculativeConfig(method="medusa")}, "tensorrt_llm knows ngram"),
    ],
)
def test_what_it_cannot_be_told_is_refused(settings: dict[str, Any], reason: str) -> None:
    config = TensorRtLlmConfig(**settings)
    answer = engine_of(config).serves(config, "hf")
    assert answer.answer is SupportAnswer.NO
    assert reason in answer.reason


def test_the_key_that_it_does_not_ask_for_goes_nowhere() -> None:
    made = engine_of(EVERYTHING).command(EVERYTHING, MODEL, LAUNCH, None)
    assert made.secret_env == {}
    assert "secret-key" not in " ".join([*made.argv, *made.files.values()])
    assert "127.0.0.1" in made.argv


def test_a_backend_that_it_lacks_is_refused() -> None:
    with pytest.raises(ValueError, match="backend=vllm must be pytorch or tensorrt"):
        TensorRtLlmConfig(backend="vllm")


def test_its_program_is_a_place_only_where_no_other_is_given() -> None:
    assert TensorRtLlmConfig().executable == "trtllm-serve"
    assert TensorRtLlmConfig(base_url="http://127.0.0.1:1").executable == ""
