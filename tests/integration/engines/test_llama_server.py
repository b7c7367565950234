"""The real llama-server takes every setting we can give it, and says so when it does not use the GPU it was to use."""

from __future__ import annotations

import dataclasses
import functools
import math
import subprocess
from pathlib import Path

import pytest

from bench.base.errors import CellFailure, FailureKind, UsageError
from bench.base.progress import Progress
from bench.engines.base import EngineConfig, Launch, ServedModel, engine_of
from bench.engines.launch import launched
from bench.engines.llama_cpp import CacheType, FlashAttention, LlamaCppConfig
from bench.engines.served_logprobs import next_logprobs, prompt_logprobs, top_logprobs
from quantize.schemes.gguf import GgufType
from tests.integration.quantize.real_llama_cpp import artefact, toolchain

pytestmark = pytest.mark.llama_cpp

EVERYTHING = LlamaCppConfig(
    max_model_len=256,
    max_sequences=2,
    threads=1,
    batch_size=128,
    ubatch_size=64,
    flash_attention=FlashAttention.on,
    cache_type_k=CacheType.q8_0,
    cache_type_v=CacheType.q8_0,
    start_timeout_s=60.0,
)


@functools.cache
def help_text() -> str:
    program = str(toolchain().executable("llama-server"))
    return subprocess.run([program, "--help"], capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def model() -> ServedModel:
    return ServedModel(format="gguf", path=artefact(GgufType.Q8_0).model_path, name="smol")


def test_every_flag_is_one_that_llama_server_knows(model: ServedModel) -> None:
    config = dataclasses.replace(EVERYTHING, gpu_layers=1)
    launch = Launch(host="127.0.0.1", port=1, api_key="k")
    argv = engine_of(config).command(config, model, launch, None).argv
    flags = [word for word in argv if word.startswith("--")]
    assert len(flags) >= 16
    known = {word.strip(",") for line in help_text().splitlines() if line.startswith("-") for word in line.split()}
    assert [flag for flag in flags if flag not in known] == []


def test_our_cache_types_and_flash_attention_are_the_ones_it_takes() -> None:
    text = " ".join(help_text().split())
    allowed = text.split("KV cache data type for K allowed values: ", 1)[1].split(" (default", 1)[0]
    assert set(allowed.split(", ")) == {kind.value for kind in CacheType}
    choices = text.split("--flash-attn [", 1)[1].split("]", 1)[0]
    assert set(choices.split("|")) == {choice.value for choice in FlashAttention}


def serve(config: EngineConfig, model: ServedModel, log: Path) -> str:
    with launched(engine_of(config), config, model, toolchain=toolchain(), log=log, progress=Progress()):
        return log.read_text()


def test_it_serves_with_every_setting_at_once(model: ServedModel, tmp_path: Path) -> None:
    assert "n_slots = 2, n_ctx_slot = 256" in serve(EVERYTHING, model, tmp_path / "engine.log")


@pytest.mark.parametrize("cache", list(CacheType))
def test_flash_attention_by_itself_goes_with_every_cache_type(
    model: ServedModel, tmp_path: Path, cache: CacheType
) -> None:
    config = LlamaCppConfig(max_model_len=256, max_sequences=1, threads=1, cache_type_k=cache, cache_type_v=cache)
    assert serve(config, model, tmp_path / "engine.log")


def test_a_cpu_build_that_is_asked_for_gpu_layers_is_a_failure(model: ServedModel, tmp_path: Path) -> None:
    log = tmp_path / "engine.log"
    log.write_text("load_tensors: CUDA0 model buffer size = 96.73 MiB\n")  # of an earlier server: not this one's
    config = LlamaCppConfig(max_model_len=256, max_sequences=1, threads=1, gpu_layers=99)
    with pytest.raises(CellFailure, match="put no layer on a GPU") as caught:
        serve(config, model, log)
    assert caught.value.kind is FailureKind.CPU_FALLBACK
    assert "no usable GPU found" in caught.value.log_tail
    assert "CPU_Mapped model buffer size" in caught.value.log_tail, "the level of logging that tells was asked for"


def test_the_likeliest_next_tokens_are_told_by_id_and_prompts_are_not(model: ServedModel, tmp_path: Path) -> None:
    config = LlamaCppConfig(max_model_len=256, max_sequences=1, threads=1)
    with launched(
        engine_of(config), config, model, toolchain=toolchain(), log=tmp_path / "log", progress=Progress()
    ) as endpoint:
        ids = [504, 3575, 282, 4649, 314]
        top = top_logprobs(endpoint, ids, 50)
        assert len(top) == 50
        assert 0.5 < sum(math.exp(logprob) for logprob in top.values()) <= 1.0 + 1e-6
        likeliest = max(top, key=lambda token: top[token])
        assert isinstance(likeliest, int)
        found = next_logprobs(endpoint, ids, [likeliest, 0])
        assert found == [pytest.approx(top[likeliest], abs=1e-4), None], "an unlikely token is not among those told"
        with pytest.raises(UsageError, match="no log-probabilities of prompts"):
            prompt_logprobs(endpoint, ids)
