"""The real llama-server's metrics and log, under common names."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from bench.base.files import read_from
from bench.base.progress import Progress
from bench.engines.base import ServedModel, engine_of
from bench.engines.launch import Endpoint, launched
from bench.engines.llama_cpp import LlamaCppConfig
from bench.engines.metric_maps import LLAMA_CPP
from bench.engines.metrics import MetricSample, Scalar, read_sample
from quantize.schemes.gguf import GgufType
from tests.integration.quantize.real_llama_cpp import artefact, toolchain

pytestmark = pytest.mark.llama_cpp

SLOTS, WAITING = 2, 4
LONG_TOKENS, SHORT_TOKENS = 300, 8
CONFIG = LlamaCppConfig(max_model_len=512, max_sequences=SLOTS, threads=1, start_timeout_s=60.0)


def sample(endpoint: Endpoint) -> MetricSample:
    with endpoint.client() as client:
        return read_sample(LLAMA_CPP, {"/metrics": client.get("/metrics").raise_for_status().text})


def ask(endpoint: Endpoint, number: int, tokens: int) -> int:
    body = {"prompt": f"Number {number} is", "max_tokens": tokens, "ignore_eos": True}
    with endpoint.client() as client:
        answer = client.post("/v1/completions", json=body, timeout=120).raise_for_status().json()
    return int(answer["usage"]["completion_tokens"])


def peak(endpoint: Endpoint, scalar: Scalar, expected: int, answers: list[Future[int]]) -> float:
    """The highest value seen until it reaches `expected`, or until all answers are there, or for 30 s."""
    highest, deadline = 0.0, time.monotonic() + 30
    while highest < expected and time.monotonic() < deadline and not (answers and all(map(Future.done, answers))):
        highest = max(highest, sample(endpoint).scalars[scalar] or 0.0)
        time.sleep(0.05)
    return highest


def waiting_in_a_burst(endpoint: Endpoint, connections: int) -> float:
    """What /metrics says is waiting, once it answers, after `connections` asked at the same moment."""
    url = httpx.URL(endpoint.url)
    body = json.dumps({"prompt": "Once", "max_tokens": LONG_TOKENS, "ignore_eos": True, "stream": True})
    headers = f"Host: {url.host}\r\nAuthorization: Bearer {endpoint.api_key}\r\nContent-Type: application/json"
    request = f"POST /v1/completions HTTP/1.1\r\n{headers}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
    with contextlib.ExitStack() as opened:
        for _ in range(connections):
            opened.enter_context(socket.create_connection((url.host, url.port or 80))).sendall(request)
        waiting = peak(endpoint, Scalar.WAITING, connections - SLOTS, [])
    deadline, idle = time.monotonic() + 60, 0
    while idle < 3:  # those that wait notice after a while that nobody listens
        assert time.monotonic() < deadline
        time.sleep(0.5)
        now = sample(endpoint).scalars
        idle = 0 if now[Scalar.RUNNING] or now[Scalar.WAITING] else idle + 1
    return waiting


def test_it_tells_what_runs_what_waits_and_what_it_made(tmp_path: Path) -> None:
    model = ServedModel(format="gguf", path=artefact(GgufType.Q8_0).model_path, name="smol")
    engine, log = engine_of(CONFIG), tmp_path / "engine.log"
    with launched(engine, CONFIG, model, toolchain=toolchain(), log=log, progress=Progress()) as endpoint:
        assert waiting_in_a_burst(endpoint, 24) == 24 - SLOTS
        before = sample(endpoint)
        with ThreadPoolExecutor(SLOTS + WAITING) as pool:
            answers = [pool.submit(ask, endpoint, number, LONG_TOKENS) for number in range(SLOTS)]
            running = peak(endpoint, Scalar.RUNNING, SLOTS, answers)
            answers += [pool.submit(ask, endpoint, SLOTS + number, SHORT_TOKENS) for number in range(WAITING)]
            waiting = peak(endpoint, Scalar.WAITING, WAITING, answers)
        made = sum(answer.result() for answer in answers)
        after = sample(endpoint)
        memory = engine.memory_of(read_from(log, endpoint.log_start))
        assert endpoint.api_key not in log.read_text(encoding="utf-8")
    assert (running, waiting) == (SLOTS, WAITING)
    assert (after.scalars[Scalar.RUNNING], after.scalars[Scalar.WAITING]) == (0, 0)
    counted = (before.scalars[Scalar.GENERATION_TOKENS], after.scalars[Scalar.GENERATION_TOKENS])
    assert None not in counted
    assert (counted[1] or 0) - (counted[0] or 0) == made == SLOTS * LONG_TOKENS + WAITING * SHORT_TOKENS
    assert after.prefix_cache is not None
    assert set(after.timings.values()) == {None}
    # 30 layers, keys and values of 192 numbers of two bytes for 2 × 512 tokens; the weights are the file.
    assert memory.kv_cache_bytes == 30 * 2 * 192 * 2 * 1024
    assert memory.weights_bytes == pytest.approx(model.path.stat().st_size, rel=0.05)
