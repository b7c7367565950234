"""What engines are asked: command lines (golden), support, registration."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.base.errors import UsageError
from bench.base.validity import Reason
from bench.engines.base import Command, EngineConfig, Launch, ServedModel, SupportAnswer, engine, engine_of
from bench.engines.llama_cpp import LlamaCppConfig
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
        *("--n-gpu-layers", "0", "--cache-ram", "0", "--metrics", "--no-webui", "--threads", "1"),
        *("--flash-attn", "on"),
    ]
    assert made.secret_env == {"LLAMA_API_KEY": "secret-key"}


@pytest.mark.parametrize("config", [LlamaCppConfig(), XllamacppConfig()])
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
    assert engine_of(config).scoring_reasons(config) == (Reason.SCORING_BUILD_DIFFERS,)
    assert engine_of(LlamaCppConfig()).scoring_reasons(LlamaCppConfig()) == ()


@pytest.mark.parametrize("config", [LlamaCppConfig(), XllamacppConfig()])
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
