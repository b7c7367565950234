"""The server of transformers as we start it: ready when it generates, closed to others, loaded by us, then gone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from bench.base.errors import CellFailure
from bench.base.progress import Progress
from bench.engines.base import ServedModel, engine_of
from bench.engines.launch import Endpoint, launched
from bench.engines.transformers import TransformersConfig
from tests.integration.quantize.real_transformers import packaged_checkpoint, transformers_toolchain
from tests.support import quantbench

pytestmark = pytest.mark.toolchains

#: A name with everything in it that transformers would take for a repository, a revision and a file.
NAME = "org/SmolLM2-GPTQ text=rows:train@0123"


@pytest.fixture(scope="module", params=[True, False], ids=["batching", "one by one"])
def endpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    config = TransformersConfig(max_model_len=256, max_sequences=2, threads=1, continuous_batching=request.param)
    model = ServedModel(format="hf", path=packaged_checkpoint().model_path, name=NAME)
    log = tmp_path_factory.mktemp("serves") / "engine.log"
    with launched(
        engine_of(config), config, model, toolchain=transformers_toolchain(), log=log, progress=Progress()
    ) as started:
        yield started
        pid = started.tree_pid
        assert pid is not None
        processes = psutil.Process(pid).children(recursive=True)
        assert processes
    assert not any(process.is_running() for process in processes)
    assert not psutil.pid_exists(pid)
    with pytest.raises(CellFailure, match="ended while it was needed"):
        started.raise_if_dead()
    assert "Traceback" not in log.read_text(), "it ends in good order"


def ask(endpoint: Endpoint, path: str, key: str | None = None, **body: Any) -> httpx.Response:
    headers = {"Authorization": f"Bearer {endpoint.api_key if key is None else key}"}
    asked = {"model": endpoint.model, "max_tokens": 12, "temperature": 0, **body}
    return httpx.post(f"{endpoint.url}/v1/{path}", headers=headers, json=asked, timeout=120, trust_env=False)


def test_nobody_is_served_without_the_key(endpoint: Endpoint) -> None:
    for key in ("wrong", endpoint.api_key[:-1]):
        assert ask(endpoint, "completions", key, prompt="The").status_code == 401
        assert ask(endpoint, "chat/completions", key, messages=[]).status_code == 401
    models = f"{endpoint.url}/v1/models"
    assert httpx.get(models, timeout=60, trust_env=False).status_code == 401
    headers = {"Authorization": f"Bearer {endpoint.api_key}"}
    listed = httpx.get(models, headers=headers, timeout=60, trust_env=False).json()["data"]
    assert [model["id"] for model in listed] == [NAME], "and nothing of the user's own cache"
    assert httpx.get(f"{endpoint.url}/health", timeout=60, trust_env=False).status_code == 200
    process = psutil.Process(endpoint.tree_pid)
    words = [word for one in (process, *process.children(recursive=True)) for word in one.cmdline()]
    assert not any(endpoint.api_key in word for word in words)


def test_a_completion_continues_the_text(endpoint: Endpoint) -> None:
    answer = ask(endpoint, "completions", prompt="The capital of France is").json()
    assert "Paris" in answer["choices"][0]["text"]
    assert answer["usage"]["prompt_tokens"] == 5


def test_a_chat_is_streamed_with_its_usage(endpoint: Endpoint) -> None:
    answer = ask(
        endpoint,
        "chat/completions",
        messages=[{"role": "user", "content": "What is the capital of France? One word."}],
        stream=True,
        stream_options={"include_usage": True},
    )
    assert answer.status_code == 200
    events = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
    said = [choice["delta"].get("content", "") for event in events for choice in event["choices"]]
    assert "Paris" in "".join(said)
    (usage,) = [event["usage"] for event in events if event.get("usage")]
    assert 0 < usage["completion_tokens"] <= 12
    assert usage["prompt_tokens"] > 20, "the chat template is in it"


@pytest.mark.parametrize("api", ["completions", "chat"])
def test_our_client_loads_it_and_answers_have_the_asked_length(endpoint: Endpoint, api: str, tmp_path: Path) -> None:
    answer = quantbench(
        *("load", f"endpoint.url={endpoint.url}", f"endpoint.model='{endpoint.model}'", "scenario=closed"),
        *("scenario.concurrency=2", "scenario.requests=2", "workload.input_tokens=16", "workload.output_tokens=24"),
        *(f"workload.api={api}", "endpoint.api_key_env=TESTED_KEY", "out=record"),
        cwd=tmp_path,
        env={"TESTED_KEY": endpoint.api_key},
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    summary = json.loads((tmp_path / "record" / "summary.json").read_text())
    assert summary["errors"] == {}
    assert summary["metrics"]["output_tokens_total"]["value"] == 2 * 24, "ignore_eos is taken"
    assert summary["metrics"]["ttft"]["p50"] > 0
