"""SGLang as an engine: its command line against a recorded table of its flags, where it serves, and its key."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path
from typing import Any

import pytest

from bench.base.compose import compose, options
from bench.base.errors import FailureKind, UsageError
from bench.base.validity import Reason
from bench.engines.base import Command, Launch, ServedModel, SpeculativeConfig, SupportAnswer, engine_of
from bench.engines.container import ContainerConfig
from bench.engines.flags import COMMON_SETTINGS
from bench.engines.launch import died, read_counters
from bench.engines.sglang import Sglang, SglangConfig
from bench.engines.workers import sglang_server
from bench.pipeline.schemas import register_all
from bench.plan.config import RunConfig
from tests.support import CHECKOUT

MODEL = ServedModel(format="hf", path=Path("/models/a b"), name="smol-BF16")
LAUNCH = Launch(host="127.0.0.1", port=8123, api_key="secret-key")
EAGLE = SpeculativeConfig(method="eagle", model="org/draft", tokens=3)
ALL = SglangConfig(
    tensor_parallel_size=2,
    pipeline_parallel_size=2,
    max_batched_tokens=4096,
    memory_fraction=0.85,
    attention_backend="flashinfer",
    prefix_caching=True,
    chunked_prefill=True,
    cuda_graphs=True,
    dtype="bfloat16",
    kv_cache_dtype="fp8",
    block_size=32,
    speculative=EAGLE,
    quantization="fp8",
    chunked_prefill_size=2048,
    cuda_graph_sizes=[1, 2, 8],
    host_cache_gib=6,
    deterministic=True,
    trust_remote_code=True,
    seed=3,
)
OTHERS = [
    SglangConfig(),
    SglangConfig(chunked_prefill=False, cuda_graphs=False, speculative=SpeculativeConfig(method="NGRAM", tokens=12)),
]


def command(config: SglangConfig, model: ServedModel = MODEL) -> Command:
    return engine_of(config).command(config, model, LAUNCH, None)


def recorded() -> dict[str, tuple[str, list[str]]]:
    """Flag → (what it takes, its choices) of SGLang 0.5.23."""
    with (CHECKOUT / "tests" / "data" / "flags" / "sglang_0.5.23.tsv").open(encoding="utf-8") as lines:
        rows = csv.DictReader(lines, delimiter="\t")
        return {row["flag"]: (row["value"], (row["choices"] or "").split()) for row in rows}


def fits(value: str, taken: str, choices: list[str]) -> bool:
    if choices and value not in choices:
        return False
    if taken in ("int", "ints"):
        return value.removeprefix("-").isdigit()
    return taken != "float" or float(value) >= 0


def said(argv: list[str]) -> dict[str, list[str]]:
    """Flag → the words after it."""
    found: dict[str, list[str]] = {}
    for word in argv:
        if word.startswith("--"):
            assert word not in found, f"{word} is said twice"
            found[word] = []
        else:
            found[list(found)[-1]].append(word)
    return found


def presets() -> list[SglangConfig]:
    register_all()
    names = [name for name in options("engine") if name.startswith("sglang")]
    made = [compose("run", ["scheme=bf16", f"engine={name}"], RunConfig).engine for name in names]
    assert len(made) >= 5
    return [config for config in made if isinstance(config, SglangConfig)]


def test_every_flag_is_one_that_sglang_has() -> None:
    table = recorded()
    unused = set(table)
    for config in (ALL, *OTHERS, *presets()):
        words = [str(word) for word in command(config).argv]
        for flag, values in said(words[3:]).items():
            taken, choices = table[flag]
            assert len(values) == {"none": 0}.get(taken, 1) or taken == "ints", flag
            assert all(fits(value, taken, choices) for value in values), (flag, values)
            unused.discard(flag)
    assert not unused, "the table holds no more than what is used"


def test_the_command_line() -> None:
    made = command(SglangConfig(max_model_len=1024, max_sequences=8, threads=4, extra_args=["--x"]))
    python, isolated, script, *argv = map(str, made.argv)
    assert (python, isolated) == ("python3", "-I")
    assert Path(script).is_file()
    assert argv == [
        *("--model-path", "/models/a b", "--served-model-name", "smol-BF16", "--host", "127.0.0.1", "--port", "8123"),
        *("--context-length", "1024", "--max-running-requests", "8", "--random-seed", "0"),
        *("--sampling-defaults", "openai", "--enable-metrics", "--log-level-http", "warning"),
        *("--disable-radix-cache", "--x"),
    ]
    assert made.env == {"OMP_NUM_THREADS": "4"}
    assert made.secret_env == {"SGLANG_API_KEY": "secret-key"}
    assert made.files == {}
    assert not any("secret-key" in word for word in argv)


def test_chains_of_guesses_count_the_token_they_start_from() -> None:
    words = said([str(word) for word in command(SglangConfig(speculative=EAGLE)).argv][3:])
    assert words["--speculative-algorithm"] == ["EAGLE"]
    assert words["--speculative-num-steps"] == ["3"]
    assert words["--speculative-num-draft-tokens"] == ["4"]
    words = said([str(word) for word in command(OTHERS[1]).argv][3:])
    assert words["--speculative-num-draft-tokens"] == ["12"]
    assert "--speculative-num-steps" not in words


def test_in_a_container_the_script_is_brought_along() -> None:
    made = command(SglangConfig(container=ContainerConfig(image="lmsysorg/sglang", gpus="all")))
    assert list(made.argv)[2] == "{file:sglang_server.py}"
    assert made.files["sglang_server.py"] == Path(sglang_server.__file__).read_text()


def test_quantizing_on_loading() -> None:
    load = dataclasses.replace(MODEL, load_method="fp8")
    assert list(command(SglangConfig(), load).argv)[-2:] == ["--quantization", "fp8"]
    with pytest.raises(UsageError, match=r"engine\.quantization=awq: the scheme asks for fp8"):
        command(SglangConfig(quantization="awq"), load)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"chunked_prefill_size": 0}, r"engine\.chunked_prefill_size=0 must be at least 1"),
        ({"chunked_prefill_size": 64, "chunked_prefill": False}, "prompts are not cut"),
        ({"host_cache_gib": 0}, r"engine\.host_cache_gib=0 must be at least 1"),
        ({"host_cache_gib": 4}, r"set engine\.prefix_caching=true"),
        ({"cuda_graph_sizes": [0]}, "must be batch sizes"),
        ({"cuda_graph_sizes": [1], "cuda_graphs": False}, "there are no CUDA graphs"),
    ],
)
def test_settings_that_cannot_be_meant(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SglangConfig(**settings)


def test_it_serves_checkpoints_on_gpus_only(monkeypatch: pytest.MonkeyPatch) -> None:
    config = SglangConfig()
    engine = engine_of(config)
    monkeypatch.setattr("bench.engines.sglang.has_gpu", lambda: False)
    monkeypatch.setattr("bench.engines.gpu.has_gpu", lambda: False)
    found = engine.serves(config, "hf")
    assert found.answer is SupportAnswer.UNVERIFIED
    assert "there is no NVIDIA driver here" in found.reason
    with pytest.raises(UsageError, match="toolchain sglang is for NVIDIA GPUs"):
        engine.check_machine(config)
    assert engine.footprint(config).needs_gpu == "engine=sglang"
    refused = engine.serves(SglangConfig(toolchain="vllm"), "hf")
    assert (refused.answer, "no kernels for CPUs" in refused.reason) == (SupportAnswer.NO, True)
    assert engine.serves(config, "gguf").answer is SupportAnswer.NO
    assert engine.serves(config, "hf", packing="bitsandbytes").answer is SupportAnswer.NO
    monkeypatch.setattr("bench.engines.sglang.has_gpu", lambda: True)
    monkeypatch.setattr("bench.engines.gpu.has_gpu", lambda: True)
    assert "NVIDIA" not in engine.serves(config, "hf").reason
    engine.check_machine(config)


def test_quality_is_scored_by_transformers_and_said_so() -> None:
    config = SglangConfig()
    engine = engine_of(config)
    assert engine.scoring_toolchain(config) == "llmcompressor"
    assert engine.scoring_reasons(config, "llmcompressor") == (Reason.SCORING_BUILD_DIFFERS,)


def test_swap_space_has_another_name_here() -> None:
    assert set(Sglang.flags) | set(Sglang.own_settings) == set(COMMON_SETTINGS)
    found = engine_of(ALL).serves(SglangConfig(swap_space_gib=4), "hf")
    assert (found.answer, found.reason) == (
        SupportAnswer.NO,
        "engine.swap_space_gib=4: with sglang use engine.host_cache_gib instead",
    )


@pytest.mark.parametrize(
    ("log", "kind"),
    [
        (
            "RuntimeError: Not enough memory. Please try to increase --mem-fraction-static. Current value: 0.8",
            FailureKind.OUT_OF_MEMORY,
        ),
        ("ValueError: Model architectures ['Foo'] are not supported for now.", FailureKind.UNSUPPORTED_ARCHITECTURE),
        ("ValueError: The quantization method x is not supported for the current GPU. ", FailureKind.MISSING_KERNEL),
        ("torch.OutOfMemoryError: CUDA out of memory.", FailureKind.OUT_OF_MEMORY),
        ("RuntimeError: The NVIDIA driver on your system is too old", FailureKind.DRIVER),
        ("something new", FailureKind.CRASHED),
    ],
)
def test_the_log_tells_why_it_died(log: str, kind: FailureKind) -> None:
    assert died(Sglang(), log, "sglang ended").kind is kind


def test_its_counters_are_read_over_streaming_and_other_requests() -> None:
    text = (
        "# TYPE sglang:prompt_tokens_total counter\n"
        'sglang:prompt_tokens_total{is_streaming="true",model_name="m"} 6.0\n'
        'sglang:prompt_tokens_total{is_streaming="false",model_name="m"} 1.0\n'
        "# TYPE sglang:generation_tokens_total counter\n"
        'sglang:generation_tokens_total{is_streaming="true",model_name="m"} 48.0\n'
    )
    counters = read_counters(Sglang(), text)
    assert (counters.prompt_tokens, counters.generation_tokens) == (7, 48)


def test_the_key_is_left_out_of_what_is_logged() -> None:
    told = sglang_server.silent(lambda settings: {"port": settings, "api_key": "secret-key"})
    assert told(30000) == {"port": 30000}
