"""The real llama-server's metrics and log, under common names."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

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

CONFIG = LlamaCppConfig(max_model_len=512, max_sequences=2, threads=1, start_timeout_s=60.0)
REQUESTS, TOKENS = 6, 24


def sample(endpoint: Endpoint) -> MetricSample:
    with endpoint.client() as client:
        return read_sample(LLAMA_CPP, {"/metrics": client.get("/metrics").raise_for_status().text})


def ask(endpoint: Endpoint, number: int) -> int:
    body = {"prompt": f"Number {number} is", "max_tokens": TOKENS, "ignore_eos": True}
    with endpoint.client() as client:
        answer = client.post("/v1/completions", json=body, timeout=120).raise_for_status().json()
    return int(answer["usage"]["completion_tokens"])


def test_it_tells_what_runs_what_waits_and_what_it_made(tmp_path: Path) -> None:
    model = ServedModel(format="gguf", path=artefact(GgufType.Q8_0).model_path, name="smol")
    engine, log = engine_of(CONFIG), tmp_path / "engine.log"
    with launched(engine, CONFIG, model, toolchain=toolchain(), log=log, progress=Progress()) as endpoint:
        before, peaks = sample(endpoint), {Scalar.RUNNING: 0.0, Scalar.WAITING: 0.0}
        with ThreadPoolExecutor(REQUESTS) as pool:
            answers = [pool.submit(ask, endpoint, number) for number in range(REQUESTS)]
            while not all(answer.done() for answer in answers):
                found = sample(endpoint)
                peaks = {name: max(peak, found.scalars[name] or 0.0) for name, peak in peaks.items()}
        made = sum(answer.result() for answer in answers)
        after = sample(endpoint)
        memory = engine.memory_of(read_from(log, endpoint.log_start))
        assert endpoint.api_key not in log.read_text(encoding="utf-8")
    assert peaks == {Scalar.RUNNING: 2, Scalar.WAITING: REQUESTS - 2}
    assert (after.scalars[Scalar.RUNNING], after.scalars[Scalar.WAITING]) == (0, 0)
    counted = (before.scalars[Scalar.GENERATION_TOKENS], after.scalars[Scalar.GENERATION_TOKENS])
    assert None not in counted
    assert (counted[1] or 0) - (counted[0] or 0) == made == REQUESTS * TOKENS
    assert after.prefix_cache is not None
    assert set(after.timings.values()) == {None}
    # 30 layers, keys and values of 192 numbers of two bytes for 2 × 512 tokens; the weights are the file.
    assert memory.kv_cache_bytes == 30 * 2 * 192 * 2 * 1024
    assert memory.weights_bytes == pytest.approx(model.path.stat().st_size, rel=0.05)
