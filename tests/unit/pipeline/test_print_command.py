"""`quantbench serve --print` says the exact command of every shipped engine, and makes nothing."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from bench.base.errors import UsageError
from bench.engines.launch import HOST
from bench.pipeline.schemas import register_all
from bench.pipeline.serve import print_command
from bench.plan.plan import plan
from tests.support import CHECKOUT

PRESETS = sorted(path.stem for path in (CHECKOUT / "conf" / "engine").glob("*.yaml"))
#: Engines of GGUF files; the others take Hugging Face folders.
GGUF = ("llama_cpp", "llama_cpp_python", "llama_cpp_edge", "llama_cpp_gpu", "xllamacpp")


def printed(*overrides: str) -> tuple[str, list[str]]:
    register_all()
    (cell,) = plan(list(overrides)).cells
    assert cell.config is not None
    return print_command(cell.config, port=None)


@pytest.mark.parametrize("preset", [name for name in PRESETS if name != "openai"])
def test_every_preset_has_a_command_on_loopback_without_a_key(preset: str) -> None:
    line, secrets = printed(f"engine={preset}", f"scheme={'gguf_q8_0' if preset in GGUF else 'bf16'}")
    words = shlex.split(line)
    assert all(f"{name}=$API_KEY" in words for name in secrets)
    assert any(HOST in word for word in words)
    assert "docker" in words or "0.0.0.0" not in words


def test_a_container_is_printed_whole() -> None:
    line, secrets = printed("engine=tgi_container", "scheme=bf16")
    assert secrets == []
    assert line == (
        "docker run --rm --publish 127.0.0.1:8080:80 --gpus all --shm-size 1g "
        "--mount type=bind,source=MODEL,target=/model,readonly --volume quantbench-tgi:/data "
        "ghcr.io/huggingface/text-generation-inference:latest --model-id /model --hostname 0.0.0.0 --port 80 "
        "--usage-stats off --max-total-tokens 4096 --num-shard 2 --max-input-tokens 3072 "
        "--max-batch-total-tokens 32000 --waiting-served-ratio 0.3 --max-waiting-tokens 20 "
        "--max-concurrent-requests 128 --cuda-graphs 1,2,4,8,16,32"
    )


@pytest.mark.parametrize(
    ("preset", "end"),
    [
        ("tgi_awq", "--num-shard 2 --quantize awq"),
        ("tgi_gptq", "--num-shard 2 --quantize gptq"),
        ("tgi_fp8", "--num-shard 4 --quantize fp8"),
    ],
)
def test_tgi_presets_say_their_format(preset: str, end: str) -> None:
    assert printed(f"engine={preset}", "scheme=bf16")[0].endswith(end)


def test_files_are_written_by_the_printed_line() -> None:
    line, _ = printed("engine=tensorrt_llm", "scheme=bf16", "engine.block_size=64")
    write, _, start = line.partition(" && ")
    assert shlex.split(write)[2:] == [
        '{"enable_iter_perf_stats": true, "kv_cache_config": {"tokens_per_block": 64}}',
        ">",
        "trtllm_options.yaml",
    ]
    assert start.endswith("--extra_llm_api_options trtllm_options.yaml")


def test_variables_are_named_and_secrets_stay_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    line, secrets = printed("scheme=gguf_q8_0", "engine.pass_env=[HF_TOKEN]", "+engine.env.A='b c'")
    assert line.startswith("LLAMA_API_KEY=$API_KEY HF_TOKEN=$HF_TOKEN A='b c' llama-server")
    assert secrets == ["HF_TOKEN", "LLAMA_API_KEY"]


def test_a_program_of_ones_own_is_printed_by_its_path() -> None:
    path = Path("/opt/llama/llama-server")
    assert f" {path} --model" in printed("scheme=gguf_q8_0", f"engine.executable={path}")[0]


def test_an_attached_server_has_no_command() -> None:
    with pytest.raises(UsageError, match="there is no command"):
        printed("engine=openai", "engine.base_url=http://127.0.0.1:1/v1", "scheme=as_served")
