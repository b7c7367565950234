"""What engines are asked: command lines (golden), support, registration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.base.errors import CellFailure, FailureKind, UsageError
from bench.base.validity import Reason
from bench.engines.base import Command, EngineConfig, Launch, ServedModel, SupportAnswer, engine, engine_of
from bench.engines.llama_cpp import CacheType, FlashAttention, LlamaCppConfig
from bench.engines.llama_cpp_python import LlamaCppPythonConfig
from bench.engines.xllamacpp import XllamacppConfig

MODEL = ServedModel(format="gguf", path=Path("/models/a b.gguf"), name="smol-Q8_0")
LAUNCH = Launch(host="127.0.0.1", port=8123, api_key="secret-key")


def command(config: EngineConfig) -> Command:
    return engine_of(config).command(config, MODEL, LAUNCH, None)


def test_llama_server_command_line() -> None:
    config = LlamaCppConfig(max_model_len=1024, max_sequences=4, threads=1, extra_args=["--flash-attn", "on"])
    made = command(config)
    assert list(made.argv) == [
        *("llama-server", "--model", "/models/a b.gguf", "--alias", "smol-Q8_0"),
        *("--host", "127.0.0.1", "--port", "8123", "--ctx-size", "4096", "--parallel", "4"),
        *("--n-gpu-layers", "0", "--cache-ram", "0", "--metrics", "--no-webui"),
        *("--threads-http", "256", "--verbosity", "4"),
        *("--threads", "1", "--flash-attn", "on"),
    ]
    assert made.secret_env == {"LLAMA_API_KEY": "secret-key"}


def test_llama_server_settings_become_flags_only_where_they_were_chosen() -> None:
    plain = list(command(LlamaCppConfig()).argv)
    chosen = LlamaCppConfig(
        gpu_layers=12,
        batch_size=512,
        ubatch_size=256,
        flash_attention=FlashAttention.on,
        cache_type_k=CacheType.q8_0,
        cache_type_v=CacheType.q4_0,
    )
    made = list(command(chosen).argv)
    layers = plain.index("--n-gpu-layers") + 1
    assert made[: len(plain)] == [*plain[:layers], "12", *plain[layers + 1 :]]
    assert made[len(plain) :] == [
        *("--batch-size", "512", "--ubatch-size", "256", "--flash-attn", "on"),
        *("--cache-type-k", "q8_0", "--cache-type-v", "q4_0"),
    ]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "engine.batch_size=0 must be at least 1"),
        ({"batch_size": 128, "ubatch_size": 256}, "engine.ubatch_size=256 must not exceed batch_size=128"),
        ({"cache_type_v": CacheType.q8_0, "flash_attention": FlashAttention.off}, "needs flash attention"),
    ],
)
def test_settings_that_llama_server_would_refuse_are_refused_before_it_starts(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        LlamaCppConfig(**settings)


CPU_BUILD = (
    "warning: no usable GPU found, --gpu-layers option will be ignored\n"
    "0.00.128.640 I load_tensors:   CPU_Mapped model buffer size =   136.73 MiB\n"
)
NOT_USED = (
    "0.00.121.001 I load_tensors: offloaded 0/31 layers to GPU\n"
    "0.00.128.640 I load_tensors:    CUDA_Host model buffer size =   136.73 MiB\n"
)
DEVICE_NONE = "load_tensors: offloaded 31/31 layers to GPU\nload_tensors:   CPU_Mapped model buffer size = 136.73 MiB\n"
PARTLY = (
    "load_tensors: offloaded 20/31 layers to GPU\n"
    "load_tensors:   CPU_Mapped model buffer size =    40.00 MiB\n"
    "load_tensors:        CUDA0 model buffer size =    96.73 MiB\n"
)


@pytest.mark.parametrize("log", [CPU_BUILD, NOT_USED, DEVICE_NONE])
@pytest.mark.parametrize("kind", [LlamaCppConfig, XllamacppConfig, LlamaCppPythonConfig])
def test_falling_back_to_the_cpu_is_a_failure_with_advice(kind: Any, log: str) -> None:
    config = kind(gpu_layers=20)
    with pytest.raises(CellFailure, match=r"put no layer on a GPU .* or set engine\.gpu_layers=0") as caught:
        engine_of(config).check_log(config, log)
    assert caught.value.kind is FailureKind.CPU_FALLBACK
    assert caught.value.log_tail in log


@pytest.mark.parametrize(("layers", "log"), [(0, CPU_BUILD), (20, PARTLY), (20, ""), (99, PARTLY)])
def test_layers_on_the_gpu_and_a_run_that_asked_for_none_are_fine(layers: int, log: str) -> None:
    config = LlamaCppConfig(gpu_layers=layers)
    engine_of(config).check_log(config, log)


def test_llama_cpp_python_never_cuts_an_answer_off_for_the_next_request() -> None:
    config = LlamaCppPythonConfig(max_model_len=512, max_sequences=4, threads=1)
    argv = list(command(config).argv)
    assert argv[:2] == ["python", "-I"]
    given = dict(zip(argv[3::2], argv[4::2], strict=True))
    assert given["--n_ctx"] == "512", "it holds one request at a time"
    assert given["--interrupt_requests"] == "false"
    assert given["--n_threads"] == given["--n_threads_batch"] == "1"
    assert engine_of(config).scoring_toolchain(config) == "llama_cpp"


@pytest.mark.parametrize("config", [LlamaCppConfig(), XllamacppConfig(), LlamaCppPythonConfig()])
def test_keys_travel_in_the_environment_only(config: EngineConfig) -> None:
    made = command(config)
    assert "secret-key" not in " ".join(str(word) for word in made.argv)
    assert list(made.secret_env.values()) == ["secret-key"]


def test_xllamacpp_gets_its_settings_as_json() -> None:
    settings = json.loads(command(XllamacppConfig(max_model_len=512, max_sequences=2)).argv[-1])
    assert settings["n_ctx"] == 1024
    assert settings["n_threads"] is None
    with pytest.raises(UsageError, match="use engine=llama_cpp"):
        command(XllamacppConfig(extra_args=["--mlock"]))


def test_xllamacpp_says_that_another_build_scores() -> None:
    config = XllamacppConfig()
    assert engine_of(config).scoring_toolchain(config) == "llama_cpp"
    assert engine_of(config).scoring_reasons(config, "llama_cpp") == (Reason.SCORING_BUILD_DIFFERS,)
    assert engine_of(LlamaCppConfig()).scoring_reasons(LlamaCppConfig(), "llama_cpp") == ()


def test_llama_cpp_python_scores_with_the_library_that_serves_unless_a_scheme_names_another() -> None:
    config = LlamaCppPythonConfig()
    assert engine_of(config).scoring_reasons(config, "llama_cpp") == ()
    assert engine_of(config).scoring_reasons(config, "another") == (Reason.SCORING_BUILD_DIFFERS,)


@pytest.mark.parametrize("config", [LlamaCppConfig(), XllamacppConfig(), LlamaCppPythonConfig()])
def test_only_gguf_is_served(config: EngineConfig) -> None:
    assert engine_of(config).support(config, "gguf").answer is SupportAnswer.YES
    refused = engine_of(config).support(config, "hf")
    assert refused.answer is SupportAnswer.NO
    assert "serves GGUF files, not hf" in refused.reason


def test_an_unknown_engine_names_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"did you mean 'llama_cpp'\?"):
        engine_of(EngineConfig(kind="lama_cpp"))


def test_a_kind_is_registered_once() -> None:
    with pytest.raises(ValueError, match="registered twice"):

        @engine("llama_cpp")
        class Impostor(type(engine_of(LlamaCppConfig()))):  # type: ignore[misc]  # a dynamic base is fine in a test
            pass


LLAMA_LOG = (
    "0.00.318.321 I load_tensors:   CPU_Mapped model buffer size =   136.40 MiB\n"
    "0.00.318.400 I load_tensors:        CUDA0 model buffer size =    10.00 MiB\n"
    "0.00.321.799 I llama_context:        CPU  output buffer size =     0.75 MiB\n"
    "0.00.322.186 I llama_kv_cache:        CPU KV buffer size =   180.00 MiB\n"
    "0.00.322.190 I llama_kv_cache:      CUDA0 KV buffer size =    20.00 MiB\n"
    "0.00.519.039 I sched_reserve:        CPU compute buffer size =    15.51 MiB\n"
)


@pytest.mark.parametrize("config", [LlamaCppConfig(), XllamacppConfig(), LlamaCppPythonConfig()])
def test_what_llama_cpp_allocated_is_in_its_log_over_all_devices(config: EngineConfig) -> None:
    told = engine_of(config).memory_of(LLAMA_LOG)
    assert told.weights_bytes == round(146.4 * 2**20)
    assert told.kv_cache_bytes == 200 << 20
    silent = engine_of(config).memory_of("loading model")
    assert (silent.weights_bytes, silent.kv_cache_bytes) == (None, None)
