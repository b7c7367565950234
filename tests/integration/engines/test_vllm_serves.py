"""Real vLLM on a CPU: one server for what a run asks of it, and what goes wrong with it under load and at its start."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pyarrow.parquet
import pytest

from bench.base.errors import CellFailure, FailureKind
from bench.base.progress import Progress
from bench.engines.base import ServedModel, engine_of
from bench.engines.health import HealthWatch
from bench.engines.histogram import Histogram
from bench.engines.launch import Endpoint, launched
from bench.engines.metrics import Timing, read_sample
from bench.engines.served_logprobs import next_logprobs, prompt_logprobs, top_logprobs
from bench.engines.vllm import VllmConfig
from quantize.run import ConfiguredToolchains
from tests.integration.quantize.real_transformers import packaged_checkpoint
from tests.support import quantbench

pytestmark = pytest.mark.toolchains

CONFIG = VllmConfig(
    max_model_len=512, max_sequences=4, threads=1, cuda_graphs=False, dtype="bfloat16", unhealthy_after_s=5.0
)


def model() -> ServedModel:
    return ServedModel(format="hf", path=packaged_checkpoint().model_path, name="smol")


def start(config: VllmConfig, served: ServedModel, log: Path) -> contextlib.AbstractContextManager[Endpoint]:
    toolchain = ConfiguredToolchains().ensure("vllm", Progress())
    return launched(engine_of(config), config, served, toolchain=toolchain, log=log, progress=Progress())


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    """The server; the last test of this module ends it."""
    with start(CONFIG, model(), tmp_path_factory.mktemp("vllm") / "engine.log") as started:
        yield started


def tree(endpoint: Endpoint) -> list[psutil.Process]:
    return psutil.Process(endpoint.tree_pid).children(recursive=True)


def ask(endpoint: Endpoint, **body: Any) -> httpx.Response:
    headers = {"Authorization": f"Bearer {endpoint.api_key}"}
    asked = {"model": endpoint.model, "temperature": 0, **body}
    return httpx.post(f"{endpoint.url}/v1/completions", headers=headers, json=asked, timeout=120, trust_env=False)


def load(endpoint: Endpoint, folder: Path, *, requests: int, tokens: int) -> dict[str, Any]:
    answer = quantbench(
        *("load", f"endpoint.url={endpoint.url}", f"endpoint.model={endpoint.model}", "scenario=closed"),
        *("scenario.concurrency=2", f"scenario.requests={requests}", "workload.input_tokens=16"),
        *(f"workload.output_tokens={tokens}", "endpoint.api_key_env=TESTED_KEY", "out=record"),
        cwd=folder,
        env={"TESTED_KEY": endpoint.api_key},
    )
    summary: dict[str, Any] = json.loads((folder / "record" / "summary.json").read_text())
    return summary | {"exit": answer.returncode}


def test_it_serves_those_with_the_key_and_continues_a_text(endpoint: Endpoint) -> None:
    asked = {"model": "smol", "prompt": "The"}
    refused = httpx.post(f"{endpoint.url}/v1/completions", json=asked, timeout=60, trust_env=False)
    assert refused.status_code == 401
    words = [word for process in tree(endpoint) for word in process.cmdline()]
    assert not any(endpoint.api_key in word for word in words)
    answer = ask(endpoint, prompt="The capital of France is", max_tokens=8).json()
    assert "Paris" in answer["choices"][0]["text"]


def test_tokens_and_first_tokens_are_those_that_it_counts_itself(endpoint: Endpoint, tmp_path: Path) -> None:
    """Its own TTFT begins when it has read a request, ours when that was sent: its mean cannot be above ours."""
    before, counted = endpoint.counters(), own_ttft(endpoint)
    summary = load(endpoint, tmp_path, requests=6, tokens=12)
    after, ended = endpoint.counters(), own_ttft(endpoint)
    assert summary["errors"] == {}
    ours = sum(part["output_tokens"] for part in summary["tokens"].values())
    assert before is not None
    assert after is not None
    assert after.generation_tokens is not None
    assert before.generation_tokens is not None
    assert after.generation_tokens - before.generation_tokens == ours >= 6 * 12
    seen = ended.since(counted)
    assert seen is not None
    assert seen.mean is not None
    assert seen.count == ours / 12
    times = pyarrow.parquet.read_table(tmp_path / "record" / "requests.parquet").to_pydict()
    ttft_s = [(first - sent) / 1e9 for first, sent in zip(times["first_token_ns"], times["sent_ns"], strict=True)]
    assert len(ttft_s) == seen.count
    assert 0.5 * min(ttft_s) < seen.mean <= sum(ttft_s) / len(ttft_s)


def own_ttft(endpoint: Endpoint) -> Histogram:
    assert endpoint.engine.metrics is not None
    text = httpx.get(f"{endpoint.url}/metrics", timeout=60, trust_env=False).text
    found = read_sample(endpoint.engine.metrics, {"/metrics": text}).timings[Timing.TTFT]
    assert found is not None
    return found


def test_its_log_probabilities_agree_however_they_are_asked_for(endpoint: Endpoint) -> None:
    ids = [504, 3575, 282, 4649, 314]
    of_prompt = prompt_logprobs(endpoint, ids)
    assert len(of_prompt) == len(ids) - 1
    stepwise = [next_logprobs(endpoint, ids[:end], [ids[end]])[0] for end in range(1, len(ids))]
    assert stepwise == pytest.approx(of_prompt, abs=0.15), "kernels differ by the batch's size, in BF16"
    top = top_logprobs(endpoint, ids, 5)
    likeliest = max(top, key=lambda token: top[token])
    assert isinstance(likeliest, int)
    chosen = next_logprobs(endpoint, ids, [likeliest, ids[0]])
    assert chosen[0] == pytest.approx(top[likeliest], abs=0.15)
    assert chosen[1] is not None
    assert chosen[1] < top[likeliest]


def test_a_stopped_server_is_given_up_and_one_that_goes_on_is_not(endpoint: Endpoint) -> None:
    with HealthWatch(endpoint) as health:
        time.sleep(3.0)
        assert not health.lost()
        processes = tree(endpoint)
        for process in processes:
            process.send_signal(signal.SIGSTOP)
        try:
            deadline = time.monotonic() + 20
            while not health.lost() and time.monotonic() < deadline:
                time.sleep(0.1)
            assert health.lost()
        finally:
            for process in processes:
                process.send_signal(signal.SIGCONT)
    failure = health.failure()
    assert failure.kind is FailureKind.UNHEALTHY
    assert "Application startup complete" in failure.log_tail
    assert ask(endpoint, prompt="The", max_tokens=2).status_code == 200


def test_one_whose_engine_is_killed_under_load_ends_as_a_typed_failure(endpoint: Endpoint, tmp_path: Path) -> None:
    """vLLM's HTTP server outlives its engine for a moment; the run must not wait for it, and nothing may be left."""
    processes = tree(endpoint)
    (engine,) = [process for process in processes if "EngineCore" in "".join(process.cmdline())]
    killer = threading.Thread(target=kill_under_load, args=(endpoint, engine))
    killer.start()
    began = time.monotonic()
    summary = load(endpoint, tmp_path, requests=200, tokens=64)
    killer.join()
    assert summary["exit"] == 1
    assert sum(summary["errors"].values()) > 0
    assert time.monotonic() - began < 60
    deadline = time.monotonic() + 60
    while endpoint.alive and time.monotonic() < deadline:
        time.sleep(0.1)
    with pytest.raises(CellFailure, match="ended while it was needed") as caught:
        endpoint.raise_if_dead()
    assert caught.value.kind is FailureKind.CRASHED
    assert "EngineDeadError" in caught.value.log_tail
    _, alive = psutil.wait_procs(processes, timeout=30)
    assert not alive


def kill_under_load(endpoint: Endpoint, engine: psutil.Process) -> None:
    """End it once it answers requests, however long the load takes to begin; after half a minute in any case."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.HTTPError):
            text = httpx.get(f"{endpoint.url}/metrics", timeout=5, trust_env=False).text
            running = re.findall(r"^vllm:num_requests_running(?:\{[^}]*\})? (\S+)$", text, re.MULTILINE)
            if any(float(number) > 0 for number in running):
                break
        time.sleep(0.1)
    engine.kill()


def fails_to_start(config: VllmConfig, served: ServedModel, folder: Path) -> CellFailure:
    with pytest.raises(CellFailure) as caught, start(config, served, folder / "engine.log"):
        pass
    return caught.value


def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    failure = fails_to_start(CONFIG, ServedModel(format="hf", path=tmp_path / "gone", name="gone"), tmp_path)
    assert failure.kind is FailureKind.CRASHED
    assert str(tmp_path / "gone") in failure.log_tail


def test_a_cache_that_does_not_hold_one_sequence(tmp_path: Path) -> None:
    tight = dataclasses.replace(CONFIG, max_model_len=8192, extra_args=["--num-gpu-blocks-override", "4"])
    failure = fails_to_start(tight, model(), tmp_path)
    assert failure.kind is FailureKind.OUT_OF_MEMORY, failure.log_tail
    assert "engine.cpu_kv_cache_gib" in str(failure)
