"""Arrivals and workloads against real sockets: what was drawn is what was sent, whatever the number of workers."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from bench.base.errors import UsageError
from bench.base.files import read_json
from bench.load.arrivals.config import ClosedStagesConfig, GammaConfig, StagesConfig, SweepConfig, TraceConfig
from bench.load.arrivals.trace import read_trace
from bench.load.config import (
    Api,
    ClosedConfig,
    LengthConfig,
    LengthKind,
    OpenConfig,
    PoissonConfig,
    SyntheticConfig,
    ThinkTime,
)
from bench.load.payload import BETWEEN_TURNS
from bench.load.run import run_scenario
from bench.load.schedule import draw_offsets
from bench.load.target import Target
from bench.load.truth.launch import TruthServer
from bench.load.workloads.config import JsonlConfig
from tests.support import test_data

STAGES = [{"rate_per_s": 20, "to_rate_per_s": 80, "duration_s": 0.8}, {"rate_per_s": 30, "duration_s": 0.3}]


@pytest.fixture(scope="module")
def truth() -> Iterator[TruthServer]:
    with TruthServer(ttft_ms=10, itl_ms=1) as server:
        yield server


def workload(**more: Any) -> SyntheticConfig:
    return SyntheticConfig(**{"output_tokens": 5, "input_tokens": 8, **more})


def rows_of(out: Path, phase: str | None = "main") -> list[dict[str, Any]]:
    rows = pq.read_table(out / "requests.parquet").to_pylist()
    return [row for row in rows if phase is None or row["phase"] == phase]


def most_at_once(rows: list[dict[str, Any]]) -> int:
    """How many of these requests were in flight together, at most."""
    ends = sorted([(row["sent_ns"], 1) for row in rows] + [(row["done_ns"], -1) for row in rows])
    return int(np.cumsum([change for _, change in ends]).max())


@pytest.mark.parametrize("workers", [1, 2, 4])
@pytest.mark.parametrize(
    "scenario",
    [
        GammaConfig(rate_per_s=60.0, burstiness=0.3, requests=40, seed=4),
        StagesConfig(stages=STAGES, seed=4),
    ],
)
def test_open_loops_leave_as_drawn_and_are_merged_by_time(
    truth: TruthServer, tmp_path: Path, scenario: OpenConfig, workers: int
) -> None:
    asked: Any = type(scenario)(**{**vars(scenario), "workers": workers})
    offsets = draw_offsets(scenario, 0)
    summary = run_scenario(truth.target(), asked, workload(), tmp_path)
    rows = rows_of(tmp_path)
    assert summary["requests"]["ok"] == summary["requests"]["asked"] == len(rows) == len(offsets)
    scheduled = np.array([row["scheduled_ns"] for row in rows])
    assert (np.diff(scheduled) >= 0).all()
    assert (scheduled - scheduled[0]).tolist() == (offsets - offsets[0]).tolist()
    assert [row["worker"] for row in rows] == [number % workers for number in range(len(rows))]
    if isinstance(scenario, StagesConfig):
        counts = [int((offsets < 0.8e9).sum()), int((offsets >= 0.8e9).sum())]
        assert [stage["requests"] for stage in summary["stages"]] == counts


def test_every_closed_split_asks_the_same_prompts_and_thinks_the_same(truth: TruthServer, tmp_path: Path) -> None:
    asked = {}
    for workers in (1, 2, 4):
        scenario = ClosedConfig(
            concurrency=4, requests=24, workers=workers, think_time_s=0.01, think=ThinkTime.exponential, keep_raw=True
        )
        out = tmp_path / str(workers)
        run_scenario(truth.target(), scenario, workload(), out)
        rows = rows_of(out)
        assert {row["worker"] for row in rows} == set(range(workers))
        assert [row["request_id"] for row in rows] == list(range(2, 26))
        bodies = [path.read_bytes() for path in sorted((out / "raw").glob("*.bodies"))]
        asked[workers] = sorted(b"".join(bodies).replace(b"}{", b"}\n{").split(b"\n"))
    assert asked[1] == asked[2] == asked[4]
    assert len(asked[1]) == 26


def test_azures_trace_is_asked_with_its_times_and_lengths(truth: TruthServer, tmp_path: Path) -> None:
    path = test_data("traces/azure_2023_conv.csv.gz")
    scenario = TraceConfig(path=str(path), requests=40, time_scale=0.1, max_tokens=1500, workers=2)
    trace = read_trace(scenario)
    summary = run_scenario(truth.target(), scenario, workload(), tmp_path)
    rows = rows_of(tmp_path)
    assert summary["requests"]["ok"] == 40
    assert [(row["prompt_tokens"], row["output_tokens"]) for row in rows] == [
        (demand.input_tokens, demand.output_tokens) for demand in trace.demands()
    ]
    scheduled = np.array([row["scheduled_ns"] for row in rows])
    assert (scheduled - scheduled[0]).tolist() == trace.offsets_ns.tolist()
    assert "requests of the trace were left out" in summary["prompts"]["how"]
    assert "short_output" not in summary["validity"]


def test_users_come_by_stages(truth: TruthServer, tmp_path: Path) -> None:
    scenario = ClosedStagesConfig(
        stages=[{"concurrency": 1, "duration_s": 0.4}, {"concurrency": 4, "duration_s": 0.4}], requests=500, workers=2
    )
    summary = run_scenario(truth.target(), scenario, workload(), tmp_path)
    rows = rows_of(tmp_path)
    start = min(row["scheduled_ns"] for row in rows)
    early = [row for row in rows if row["scheduled_ns"] < start + 400_000_000]
    assert (most_at_once(early), most_at_once(rows)) == (1, 4)
    assert max(row["scheduled_ns"] for row in rows) < start + 850_000_000
    one, four = summary["stages"]
    assert (one["level"], four["level"]) == (1.0, 4.0)
    assert one["requests"] + four["requests"] == len(rows)
    assert 0.3 < one["in_flight_mean"] <= 1.0 < four["in_flight_mean"] <= 4.1
    assert one["ttft"]["n"] == one["requests"]
    assert one["request_throughput"] < four["request_throughput"]
    assert summary["requests"]["failed"] == 0


def test_the_cooldown_is_sent_and_not_measured(truth: TruthServer, tmp_path: Path) -> None:
    scenario = PoissonConfig(rate_per_s=60.0, requests=40, cooldown=6, cooldown_s=0.1, seed=2)
    summary = run_scenario(truth.target(), scenario, workload(), tmp_path)
    rows = rows_of(tmp_path, None)
    last = rows[-1]["scheduled_ns"]
    cooling = [row for row in rows if row["phase"] == "cooldown"]
    assert {row["request_id"] for row in cooling} == {
        row["request_id"] for row in rows if row["request_id"] >= 36 or row["scheduled_ns"] > last - 100_000_000
    }
    assert [row["status"] for row in cooling] == ["ok"] * len(cooling)
    assert summary["requests"]["cooldown"] == len(cooling) >= 6
    assert summary["requests"]["warmup"] == 2
    assert summary["metrics"]["output_tokens_total"]["value"] == 5 * (40 - len(cooling))


def test_lengths_are_exact_and_each_request_is_held_to_its_own(truth: TruthServer, tmp_path: Path) -> None:
    spread = LengthConfig(distribution=LengthKind.uniform, minimum=3, maximum=40)
    summary = run_scenario(
        truth.target(),
        ClosedConfig(concurrency=4, requests=40),
        workload(input_lengths=spread, output_lengths=spread),
        tmp_path,
    )
    rows = rows_of(tmp_path)
    assert len({row["output_tokens"] for row in rows}) > 10
    for row in rows:
        assert row["prompt_tokens"] == row["asked_input_tokens"]
        assert row["output_tokens"] == row["asked_output_tokens"]
    assert summary["prompts"]["asked_input_tokens"]["min"] >= 3
    assert "short_output" not in summary["validity"]


def test_a_context_of_131072_tokens_costs_its_bytes(truth: TruthServer, tmp_path: Path) -> None:
    summary = run_scenario(
        truth.target(), ClosedConfig(concurrency=2, requests=4, warmup=0), workload(input_tokens=131_072), tmp_path
    )
    assert summary["requests"]["ok"] == 4
    assert summary["prompts"]["exact"]
    assert summary["prompts"]["counted_min"] == summary["prompts"]["counted_max"] == 131_072
    assert summary["own_error"]["peak_rss_bytes"] < 200e6


def test_a_sweep_finds_where_the_endpoint_no_longer_keeps_up(tmp_path: Path) -> None:
    with TruthServer(ttft_ms=40, itl_ms=1, slots=1) as slow:  # about 20 requests/s
        scenario = SweepConfig(start_per_s=6.0, factor=3.0, steps=4, step_s=1.0, requests=12, burstiness=20.0)
        summary = run_scenario(slow.target(), scenario, workload(output_tokens=10), tmp_path)
    told = summary["sweep"]
    assert told["saturated_per_s"] in (18.0, 54.0)
    assert told["steps"][0]["kept_up"]
    assert told["steps"][-1]["why"]
    assert len(rows_of(tmp_path)) == (12 if told["kept_up_per_s"] == 6.0 else 18)
    assert read_json(tmp_path / "manifest.json")["scenario"]["kind"] == "sweep"


def test_bad_files_are_said_before_anything_is_sent(truth: TruthServer, tmp_path: Path) -> None:
    truth.take_log()
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "a"}\n{"prompt": "b"}\n{"prompt": 3}\n')
    with pytest.raises(UsageError, match="line 3: prompt is not a text"):
        run_scenario(truth.target(), ClosedConfig(requests=9), JsonlConfig(path=str(path)), tmp_path / "out")
    assert len(truth.take_log()) == 0


# ---- sessions


class Parrot(BaseHTTPRequestHandler):
    """Answers every request with words of its own, in the pieces of a stream, and remembers what it was asked."""

    protocol_version = "HTTP/1.1"
    asked: list[tuple[dict[str, Any], str]]
    lock: threading.Lock
    fails_at = 0

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/tokenize":
            self.send_error(404)
            return
        with self.lock:
            number = len(self.asked)
            answer = f'answer "{number}" é\n😀'
            self.asked.append((body, answer))
        if self.fails_at and number % self.fails_at == self.fails_at - 1:
            self.send_error(500)
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        chat = "messages" in body
        opening = [{"delta": {"role": "assistant", "content": ""}}, {"delta": {"reasoning_content": "hm"}}]
        pieces = [{"delta": {"content": piece}} if chat else {"text": piece} for piece in (answer[:7], answer[7:])]
        for choice in (opening if chat else []) + pieces:
            self.event({"choices": [{"index": 0, "finish_reason": None, **choice}]})
        self.event({"choices": [{"index": 0, "delta": {}, "text": "", "finish_reason": "stop"}]})
        self.chunk(b"data: [DONE]\n\n")
        self.chunk(b"")

    def event(self, value: dict[str, Any]) -> None:
        self.chunk(b"data: " + json.dumps(value).encode() + b"\n\n")

    def chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))
        self.wfile.flush()

    def log_message(self, *_: object) -> None:
        """Quiet."""


@contextmanager
def parrot(*, fails_at: int = 0) -> Iterator[tuple[Target, list[tuple[dict[str, Any], str]]]]:
    asked: list[tuple[dict[str, Any], str]] = []
    handler = type("Handler", (Parrot,), {"asked": asked, "lock": threading.Lock(), "fails_at": fails_at})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield Target(url=f"http://127.0.0.1:{server.server_address[1]}", model="parrot"), asked
        server.shutdown()
        thread.join()


def conversations(asked: list[tuple[dict[str, Any], str]], api: Api) -> list[list[tuple[str, str]]]:
    """(what was asked, the answer) turn by turn; raises where a body is no session so far and one thing more."""
    between = json.loads(f'"{BETWEEN_TURNS}"')
    found: dict[str, list[tuple[str, str]]] = {}
    for body, answer in asked:
        if api is Api.chat:
            messages = body["messages"]
            for turns in found.values():
                history = [(role, text) for said, told in turns for role, text in (("user", said), ("assistant", told))]
                if [(message["role"], message["content"]) for message in messages[:-1]] == history:
                    turns.append((messages[-1]["content"], answer))
                    break
            else:
                assert len(messages) == 1
                found[messages[0]["content"]] = [(messages[0]["content"], answer)]
            continue
        prompt = body["prompt"]
        for turns in found.values():
            history_text = "".join(f"{said}{told}{between}" for said, told in turns)
            if prompt.startswith(history_text):
                turns.append((prompt.removeprefix(history_text), answer))
                break
        else:
            assert between not in prompt
            found[prompt] = [(prompt, answer)]
    return list(found.values())


@pytest.mark.parametrize("api", [Api.chat, Api.completions])
@pytest.mark.parametrize("workers", [1, 2])
def test_later_turns_hold_the_real_answers_to_those_before(tmp_path: Path, api: Api, workers: int) -> None:
    with parrot() as (target, asked):
        summary = run_scenario(
            target,
            ClosedConfig(concurrency=3, requests=24, warmup=0, workers=workers),
            workload(turns=4, api=api, ignore_eos=False),
            tmp_path,
        )
    assert summary["requests"]["ok"] == 24
    told = conversations(asked, api)
    assert [len(turns) for turns in told] == [4] * 6
    rows = rows_of(tmp_path)
    assert [(row["session"], row["turn"]) for row in rows] == [divmod(number, 4) for number in range(24)]
    for session in range(6):
        turns = rows[4 * session : 4 * session + 4]
        assert len({row["worker"] for row in turns}) == 1
        for before, after in pairwise(turns):
            assert after["scheduled_ns"] >= before["done_ns"]


def test_sessions_of_an_open_loop_begin_as_drawn(tmp_path: Path) -> None:
    scenario = PoissonConfig(rate_per_s=40.0, requests=30, warmup=1, seed=9, workers=2, think_time_s=0.02)
    with parrot() as (target, asked):
        run_scenario(target, scenario, workload(turns=3, api=Api.chat), tmp_path)
    assert [len(turns) for turns in conversations(asked[1:], Api.chat)] == [3] * 10
    rows = rows_of(tmp_path)
    first = np.array([row["scheduled_ns"] for row in rows if row["turn"] == 0])
    assert (first - first[0]).tolist() == draw_offsets(scenario, 0)[:10].tolist()
    later = [(rows[number - 1], rows[number]) for number in range(30) if rows[number]["turn"]]
    # Scheduled by the time of the read, recorded by the kernel's.
    late = [after["scheduled_ns"] - before["done_ns"] - 20_000_000 for before, after in later]
    assert min(late) >= 0
    assert np.median(late) < 50_000_000


def test_a_session_ends_with_an_answer_that_failed(tmp_path: Path) -> None:
    with parrot(fails_at=5) as (target, asked):
        scenario = ClosedConfig(concurrency=2, requests=40, warmup=0, breaker=100)
        summary = run_scenario(target, scenario, workload(turns=4, api=Api.chat), tmp_path)
    rows = rows_of(tmp_path)
    assert len(asked) == len(rows) == summary["requests"]["taken"] < 40
    for row in rows:
        if row["status"] == "error":
            assert not [other for other in rows if other["session"] == row["session"] and other["turn"] > row["turn"]]
    assert {row["session"] for row in rows} == set(range(10))
    assert summary["errors"] == {"http_error": sum(row["status"] == "error" for row in rows)}
