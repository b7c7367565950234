"""TGI's command line, held against the flags that its documentation lists."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.base.schema import identity
from bench.base.validity import Reason
from bench.engines.base import Launch, ServedModel, SpeculativeConfig, SupportAnswer, engine_of
from bench.engines.container import ContainerConfig
from bench.engines.launch import read_counters
from bench.engines.tgi import FLAGS, QUANTIZE, TgiConfig
from bench.toolchains.config import load_toolchain_config
from quantize.schemes.load_time import LoadTimeMethod
from tests.support import test_data
from tests.unit.engines.flag_tables import RECORDED, given_flags, read_table

LAUNCH = Launch(host="127.0.0.1", port=8123, api_key="secret-key")
MODEL = ServedModel(format="hf", path=Path("/models/m"), name="smol-bf16")
EVERYTHING = TgiConfig(
    max_model_len=4096,
    max_sequences=64,
    tensor_parallel_size=2,
    max_batched_tokens=4096,
    memory_fraction=0.9,
    dtype="bfloat16",
    kv_cache_dtype="fp8_e5m2",
    speculative=SpeculativeConfig(method="ngram", tokens=3),
    max_input_tokens=3072,
    max_batch_total_tokens=32000,
    waiting_served_ratio=0.3,
    max_waiting_tokens=20,
    max_concurrent_requests=128,
    max_client_batch_size=8,
    validation_workers=4,
    enforce_batch_size=True,
    cuda_graph_sizes=[1, 2, 4],
    trust_remote_code=True,
)


def argv(config: TgiConfig, load_method: str = "") -> list[str]:
    model = ServedModel(format="hf", path=MODEL.path, name=MODEL.name, load_method=load_method)
    return [str(word) for word in engine_of(config).command(config, model, LAUNCH, None).argv]


def test_what_is_chosen_becomes_flags_and_nothing_else() -> None:
    plain = ["--model-id", "/models/m", "--hostname", "127.0.0.1", "--port", "8123", "--usage-stats", "off"]
    assert argv(TgiConfig()) == ["text-generation-launcher", *plain, "--max-total-tokens", "2048"]
    chosen = argv(EVERYTHING)
    assert chosen[-3:] == ["--speculate", "3", "--trust-remote-code"]
    assert " ".join(chosen).endswith(
        "--max-total-tokens 4096 --num-shard 2 --max-batch-prefill-tokens 4096 --cuda-memory-fraction 0.9 "
        "--dtype bfloat16 --kv-cache-dtype fp8_e5m2 --max-input-tokens 3072 --max-batch-total-tokens 32000 "
        "--waiting-served-ratio 0.3 --max-waiting-tokens 20 --max-concurrent-requests 128 --max-client-batch-size 8 "
        "--validation-workers 4 --max-batch-size 64 --cuda-graphs 1,2,4 --speculate 3 --trust-remote-code"
    )


@pytest.mark.parametrize("where", ["recorded", "whole"])
def test_every_flag_is_one_that_the_launcher_documents(where: str) -> None:
    path = RECORDED / "tgi_launcher.tsv" if where == "recorded" else test_data("flags/tgi_launcher_flags.tsv")
    rows = {row["flag"]: row for row in read_table(path)}
    lines = [argv(EVERYTHING), argv(TgiConfig(cuda_graphs=False))]
    lines += [argv(TgiConfig(quantization=word)) for word in QUANTIZE]
    lines += [argv(TgiConfig(kv_cache_dtype=word)) for word in FLAGS["kv_cache_dtype"].words]
    lines += [argv(TgiConfig(), method) for method in engine_of(TgiConfig()).load_methods]
    used = [pair for line in lines for pair in given_flags(line)]
    for flag, value in used:
        assert flag in rows, flag
        assert (value is None) == (rows[flag]["kind"] == "flag"), flag
        allowed = rows[flag]["possible_values"]
        assert not allowed or value in allowed.split(", "), (flag, value)
    if where == "recorded":
        assert set(rows) - {flag for flag, _ in used} == {"--api-key"}, "the table holds what is used"


def test_it_is_given_no_key_which_it_would_log() -> None:
    made = engine_of(EVERYTHING).command(EVERYTHING, MODEL, LAUNCH, None)
    assert (made.env, made.secret_env) == ({}, {})
    assert "secret-key" not in " ".join(made.argv)
    assert "127.0.0.1" in made.argv


def test_its_program_is_a_place_only_where_no_other_is_given() -> None:
    assert identity(TgiConfig())["executable"] == TgiConfig().executable == "text-generation-launcher"
    assert TgiConfig(executable="/opt/launcher").executable == "/opt/launcher"
    assert TgiConfig(base_url="http://127.0.0.1:1").executable == ""
    assert TgiConfig(container=ContainerConfig(image="name:tag")).executable == ""
    assert TgiConfig(toolchain="own").uses_toolchain


def test_every_way_to_quantize_on_loading_is_a_word_of_its_own() -> None:
    assert {method.value for method in LoadTimeMethod} == set(engine_of(TgiConfig()).load_methods)
    assert argv(TgiConfig(), "bitsandbytes_nf4")[-2:] == ["--quantize", "bitsandbytes-nf4"]


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"swap_space_gib": 4.0}, "engine.swap_space_gib=4.0: tgi has no such setting"),
        ({"prefix_caching": True}, "engine.prefix_caching=True: tgi has no such setting"),
        ({"quantization": "nvfp4"}, "engine.quantization=nvfp4: tgi knows only awq"),
        ({"dtype": "float32"}, "engine.dtype=float32: tgi knows only float16, bfloat16"),
        ({"speculative": SpeculativeConfig(method="eagle")}, "tgi speculates by ngram"),
        ({"threads": 8}, "engine.threads=8: tgi has no such setting"),
        ({"max_sequences": 64}, "engine.max_sequences=64: tgi fits its batches to the memory"),
    ],
)
def test_what_it_cannot_be_told_is_refused(settings: dict[str, Any], reason: str) -> None:
    config = TgiConfig(**settings)
    answer = engine_of(config).serves(config, "hf")
    assert answer.answer is SupportAnswer.NO
    assert reason in answer.reason


def test_a_batch_size_that_is_enforced_is_told() -> None:
    config = TgiConfig(max_sequences=64, enforce_batch_size=True)
    assert engine_of(config).serves(config, "hf").answer is SupportAnswer.UNVERIFIED


def test_it_says_that_nobody_ran_it_here() -> None:
    answer = engine_of(TgiConfig()).serves(TgiConfig(), "hf", "eetq")
    assert answer.answer is SupportAnswer.UNVERIFIED
    assert "never run here" in answer.reason
    assert engine_of(TgiConfig()).serves(TgiConfig(), "gguf").answer is SupportAnswer.NO


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_input_tokens": 2048}, "max_input_tokens=2048 must be below max_model_len=2048"),
        ({"max_batch_total_tokens": 100}, "max_batch_total_tokens=100 holds no request of 2048 tokens"),
        ({"waiting_served_ratio": 0.0}, "waiting_served_ratio=0.0 must be positive"),
        ({"dtype": "float16", "quantization": "awq"}, "cannot be used with engine.quantization"),
        ({"cuda_graph_sizes": [2], "cuda_graphs": False}, "cuda_graphs=false says there are none"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TgiConfig(**settings)


def test_its_token_counters_are_found_in_a_real_scrape() -> None:
    text = test_data("metrics/tgi_scrape_datadog.txt").read_text()
    counters = read_counters(engine_of(TgiConfig()), text)
    said = {line.split()[0]: float(line.split()[1]) for line in text.splitlines() if not line.startswith("#") and line}
    assert counters.prompt_tokens == said["tgi_request_input_length_sum"] > 0
    assert counters.generation_tokens == said["tgi_request_generated_tokens_sum"] > 0


def test_its_checkpoints_are_scored_by_another_build_which_is_said() -> None:
    tgi = engine_of(TgiConfig())
    toolchain = tgi.scoring_toolchain(TgiConfig())
    assert load_toolchain_config(toolchain).name == toolchain
    assert tgi.scoring_reasons(TgiConfig(), toolchain) == (Reason.SCORING_BUILD_DIFFERS,)


def test_requests_never_name_an_adapter() -> None:
    assert engine_of(TgiConfig()).request_name(MODEL) == "tgi"
