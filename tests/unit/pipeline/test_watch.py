"""Around a scenario: the server's metrics before, meanwhile and after, and the files that are left of it."""

from __future__ import annotations

import dataclasses
import http.server
import json
import math
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from bench.engines.base import Command, Engine
from bench.engines.launch import Endpoint
from bench.engines.metric_maps import VLLM
from bench.pipeline.watch import RAW, SERIES, TELEMETRY, Watch
from bench.telemetry.sampler import Sampler
from tests.unit.pipeline.test_latency import MS, row, table_of
from tests.unit.telemetry.test_gpu import FakeNvml


class Server:
    """Answers like vLLM; `requests` were answered with a TTFT of 0.1 s each, `running` still run."""

    def __init__(self) -> None:
        self.status = 200
        self.requests = 3
        self.running = 0
        self.asked = 0

    def text(self) -> str:
        name = "vllm:time_to_first_token_seconds"
        buckets = "".join(f'{name}_bucket{{le="{bound}"}} {self.requests}.0\n' for bound in ("0.25", "+Inf"))
        return (
            f"vllm:num_requests_running {self.running}.0\nvllm:num_requests_waiting 0.0\n"
            f"vllm:kv_cache_usage_perc {self.running / 8}\nvllm:num_preemptions_total {self.requests}.0\n"
            f"vllm:generation_tokens_total {self.requests * 8}.0\n{buckets}"
            f"{name}_count {self.requests}.0\n{name}_sum {self.requests / 10}\n"
        )


class VllmLike(Engine):
    kind = "vllm_like"
    metrics = VLLM


@pytest.fixture
def serving() -> Iterator[tuple[Server, str]]:
    state = Server()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.asked += 1
            if state.asked == 12:  # what was still running ends while the harness waits for it
                state.running = 0
            body = state.text().encode()
            self.send_response(state.status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            return

    made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield state, f"http://127.0.0.1:{made.server_port}"
    made.shutdown()
    made.server_close()


def endpoint(url: str, tmp_path: Path, engine: Engine) -> Endpoint:
    return Endpoint(
        url=url,
        model="m",
        api_key="",
        command=Command(argv=[]),
        process=None,
        log=tmp_path / "log",
        ready_s=None,
        engine=engine,
    )


def test_what_the_scenario_added_is_observed_once_the_server_is_at_rest(
    serving: tuple[Server, str], tmp_path: Path
) -> None:
    server, url = serving
    watch = Watch(endpoint(url, tmp_path, VllmLike()), tmp_path)
    with watch:
        table_of([row(0, 100 * MS, 210 * MS, 400 * MS, 8), row(1, 100 * MS, 230 * MS, 400 * MS, 8)], tmp_path)
        server.running, server.requests = 2, 4
        time.sleep(1.2)
        server.requests = 5
        server.asked = 9
    found = watch.observed(16)
    ttft = found["server_latency"]["ttft"]
    assert (ttft["count"], ttft["mean_ms"]) == (2, 100.0)
    assert ttft["p50"] == {"value_ms": 125.0, "from_ms": 0.0, "to_ms": 250.0}
    assert found["client_latency"]["ttft"] == {"count": 2, "mean_ms": 120.0}
    assert found["peaks"] == {"running": 2.0, "waiting": 0.0, "kv_cache_use": 0.25}
    assert found["preemptions"] == 2
    assert found["prefix_cache_hit_rate"] is None
    assert found["quiescent"] is True
    assert found["sampling"]["server_metrics"]["samples"] >= 2
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    series = pq.read_table(tmp_path / SERIES).to_pandas()
    assert series["running"].max() == 2
    assert series["ttft_count"].tolist()[-1] == 5
    assert series["waiting"].eq(0).all()
    assert series["prefix_cache_hit_rate"].isna().all()
    assert series["error"].isna().all()
    assert (series["took_ns"] > 0).all()
    assert pq.read_table(tmp_path / TELEMETRY).num_rows > 0
    assert (tmp_path / RAW).is_file()


def test_a_server_that_never_rests_is_named(
    serving: tuple[Server, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.pipeline.watch._SETTLE_TRIES", 3)
    server, url = serving
    server.running, server.asked = 1, 100
    watch = Watch(endpoint(url, tmp_path, VllmLike()), tmp_path)
    with watch:
        table_of([row(0, 100 * MS, 210 * MS, 400 * MS, 8)], tmp_path)
    assert watch.observed(8)["quiescent"] is False


def test_a_server_that_dies_leaves_what_was_seen(tmp_path: Path, serving: tuple[Server, str]) -> None:
    _, url = serving
    running = endpoint(url, tmp_path, VllmLike())
    watch = Watch(running, tmp_path)
    with pytest.raises(RuntimeError, match="the server is gone"), watch:
        raise RuntimeError("the server is gone")
    series = pq.read_table(tmp_path / SERIES).to_pandas()
    assert len(series) >= 2
    assert pq.read_table(tmp_path / TELEMETRY).num_rows > 0


def test_nobody_answering_is_missing_with_the_reason(tmp_path: Path) -> None:
    watch = Watch(endpoint("http://127.0.0.1:9", tmp_path, VllmLike()), tmp_path)
    with watch:
        table_of([row(0, 100 * MS, 210 * MS, 400 * MS, 8)], tmp_path)
    found = watch.observed(8)
    assert set(found["server_latency"].values()) == {None}
    assert found["quiescent"] is None
    assert found["preemptions"] is None
    assert found["unavailable"]["server_metrics"].startswith("before the load, /metrics: ConnectError")
    series = pq.read_table(tmp_path / SERIES).to_pandas()
    assert series["error"].str.contains("ConnectError").all()
    assert all(math.isnan(value) for value in series["running"])


def test_an_engine_without_metrics_has_telemetry_only(tmp_path: Path) -> None:
    watch = Watch(endpoint("http://127.0.0.1:9", tmp_path, Engine()), tmp_path)
    with watch:
        table_of([row(0, 100 * MS, 210 * MS, 400 * MS, 8)], tmp_path)
    found = watch.observed(None)
    assert set(found["server_latency"].values()) == {None}
    assert set(found["energy_per_output_token_j"].values()) == {None}
    assert found["unavailable"]["server_metrics"] == "the engine has no metrics"
    assert not (tmp_path / SERIES).exists()
    assert (tmp_path / TELEMETRY).is_file()


def observed_while(server: Server, url: str, tmp_path: Path, **during: int) -> dict[str, Any]:
    """One request, and what the server's state is set to meanwhile."""
    watch = Watch(endpoint(url, tmp_path, VllmLike()), tmp_path)
    with watch:
        table_of([row(0, 100 * MS, 210 * MS, 400 * MS, 8)], tmp_path)
        for name, value in during.items():
            setattr(server, name, value)
    return watch.observed(8)


def test_a_server_that_was_started_anew_preempted_an_unknown_number(
    serving: tuple[Server, str], tmp_path: Path
) -> None:
    found = observed_while(*serving, tmp_path, requests=1)
    assert found["preemptions"] is None
    for name in ("preemptions", "server_ttft"):
        assert found["unavailable"][name] == "the server was started anew meanwhile"


def test_what_a_server_did_not_observe_or_tell_has_its_reason(serving: tuple[Server, str], tmp_path: Path) -> None:
    found = observed_while(*serving, tmp_path)
    assert found["preemptions"] == 0
    assert "preemptions" not in found["unavailable"]
    assert found["unavailable"]["server_ttft"] == "the server observed none"
    assert found["unavailable"]["server_itl"] == "the server's metrics do not hold it"
    assert found["unavailable"]["prefix_cache_hit_rate"] == "the server's metrics do not hold it"


def test_a_refusal_after_the_load_is_named(serving: tuple[Server, str], tmp_path: Path) -> None:
    found = observed_while(*serving, tmp_path, status=401)
    assert found["unavailable"]["server_metrics"] == "after the load, /metrics: HTTP 401"


def test_energy_is_read_before_the_first_request_and_after_the_last(
    serving: tuple[Server, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    joules = iter(range(10, 10_000, 10))

    class Meter:
        def joules(self) -> float:
            return float(next(joules))

    class LateSampler(Sampler):
        def _run(self) -> None:
            time.sleep(0.3)
            super()._run()

    monkeypatch.setattr("bench.telemetry.watch.Rapl", Meter)
    monkeypatch.setattr("bench.pipeline.watch.Sampler", LateSampler)
    watch = Watch(endpoint(serving[1], tmp_path, VllmLike()), tmp_path)
    with watch:
        now = time.monotonic_ns()
        table_of([row(0, now, now + MS, now + 2 * MS, 8)], tmp_path)
    found = watch.observed(None)
    assert found["energy_j"]["cpu_package"] > 0
    assert found["energy_scope"] == {"gpu": None, "cpu_package": "packages"}
    assert found["unavailable"]["energy_per_output_token_cpu_package"] == "no output tokens are known"
    assert found["unavailable"]["energy_gpu"]


@pytest.mark.parametrize(("contained", "said"), [(True, "runs in a container"), (False, "others started the server")])
def test_the_gpus_of_a_server_that_is_not_below_us_are_not_guessed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, contained: bool, said: str
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml())
    running = dataclasses.replace(endpoint("http://127.0.0.1:9", tmp_path, Engine()), contained=contained)
    watch = Watch(running, tmp_path)
    with watch:
        now = time.monotonic_ns()
        table_of([row(0, now, now + MS, now + 2 * MS, 8)], tmp_path)
    found = watch.observed(8)
    assert found["energy_j"]["gpu"] is None
    assert said in found["unavailable"]["energy_gpu"]
