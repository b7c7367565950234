"""The fault table: every fault gets its own kind, every request ends in time, nothing measured is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest

from bench.base.files import read_json
from bench.load.config import Api, ClosedConfig, SyntheticConfig
from bench.load.record import salvage
from bench.load.run import run_scenario
from bench.load.segments import END, START, read_records
from bench.load.target import Target
from bench.load.truth.launch import TruthServer

TOKENS = 12


@pytest.fixture(scope="module")
def truth() -> Iterator[TruthServer]:
    with TruthServer(ttft_ms=5, itl_ms=2) as server:
        yield server


#: Far beyond what an answer takes, for a machine that stands still for a while.
PATIENT: dict[str, Any] = {"first_token_s": 20.0, "stall_s": 20.0, "total_s": 40.0}
SHORT: dict[str, Any] = {"first_token_s": 1.0, "stall_s": 1.0, "total_s": 2.0}
HANGS = frozenset({"stall", "stall_first", "trickle", "trickle_head"})


def ask(target: Target, out: Path, *, api: Api = Api.completions, **scenario: Any) -> dict[str, Any]:
    settings = {"concurrency": 2, "requests": 6, "warmup": 0, "breaker": 50, **PATIENT}
    workload = SyntheticConfig(output_tokens=TOKENS, input_tokens=6, tokenize=False, api=api)
    return run_scenario(target, ClosedConfig(**{**settings, **scenario}), workload, out)


FAULTS = {
    "error_event": "stream_error",
    "truncate": "truncated",
    "reset": "reset",
    "stall": "stall_timeout",
    "stall_first": "first_token_timeout",
    "trickle": "total_timeout",
    "http_500": "http_error",
    "early_done": "early_done",
    "bad_json": "bad_json",
    "bad_utf8": "bad_json",
    "bad_chunk": "bad_http",
    "drop": "reset",
    "not_stream": "not_a_stream",
    "trickle_head": "first_token_timeout",
    "huge_head": "bad_http",
    "huge_event": "too_large",
}


@pytest.mark.parametrize(("fault", "kind"), FAULTS.items())
def test_every_second_request_fails_and_the_others_do_not(
    truth: TruthServer, tmp_path: Path, fault: str, kind: str
) -> None:
    started = time.monotonic()
    summary = ask(truth.target(fault, every=2), tmp_path, **(SHORT if fault in HANGS else {}))
    assert time.monotonic() - started < 40, "no fault is waited for"
    assert summary["errors"] == {kind: 3}
    assert (summary["requests"]["ok"], summary["requests"]["failed"]) == (3, 3)
    assert summary["metrics"]["error_rate"]["value"] == 0.5
    assert "errors" in summary["metrics"]["ttft"]["validity"]
    rows = pq.read_table(tmp_path / "requests.parquet").to_pylist()
    assert [row["error_kind"] for row in rows] == [kind, None] * 3
    assert [row["output_tokens"] for row in rows if row["status"] == "ok"] == [TOKENS] * 3


def test_messages_of_the_endpoint_are_kept(truth: TruthServer, tmp_path: Path) -> None:
    assert "engine lost its mind" in ask(truth.target("error_event"), tmp_path)["first_errors"]["stream_error"]
    assert ask(truth.target("http_500"), tmp_path)["first_errors"]["http_error"].startswith("HTTP 500")


CONNECTIONS = ["close_delimited", "say_close", "silent_close"]
LINES = ["crlf", "cr", "split", "coalesce", "comments"]
DIALECTS = [*CONNECTIONS, *LINES, "early_hints", "multi", "running_usage", "no_done"]


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("api", [Api.completions, Api.chat])
def test_dialects_are_no_faults(truth: TruthServer, tmp_path: Path, dialect: str, api: Api) -> None:
    summary = ask(truth.target(dialect), tmp_path, api=api)
    assert summary["errors"] == {}
    assert summary["metrics"]["output_tokens_total"]["value"] == 6 * TOKENS
    assert summary["metrics"]["ttft"]["n"] > 0


def test_a_server_that_closes_silently_is_asked_again_on_a_new_connection(truth: TruthServer, tmp_path: Path) -> None:
    summary = ask(truth.target("silent_close"), tmp_path, concurrency=1)
    assert summary["requests"]["ok"] == 6
    assert summary["own_error"]["stale_connections"] <= 1


def test_coalesced_events_spoil_gaps_by_name(truth: TruthServer, tmp_path: Path) -> None:
    metrics = ask(truth.target("coalesce"), tmp_path)["metrics"]
    assert "coalesced_reads" in metrics["itl"]["validity"]
    assert "coalesced_reads" not in metrics["ttft"]["validity"]


def test_several_tokens_an_event_spoil_only_single_token_times(truth: TruthServer, tmp_path: Path) -> None:
    metrics = ask(truth.target("multi"), tmp_path)["metrics"]
    assert metrics["itl"]["p50"] is None
    assert "multi_token_events" in metrics["itl"]["validity"]
    assert "multi_token_events" not in metrics["tpot"]["validity"]
    assert metrics["tpot"]["p50"] == pytest.approx(2 * 5 / 11, rel=0.6)


def test_running_usage_gives_tokens_of_every_event(truth: TruthServer, tmp_path: Path) -> None:
    ask(truth.target("running_usage"), tmp_path)
    assert set(pq.read_table(tmp_path / "events.parquet").column("tokens").to_pylist()) == {1}


def test_usage_that_disagrees_with_the_content_spoils_what_needs_it(truth: TruthServer, tmp_path: Path) -> None:
    summary = ask(truth.target("usage_lies"), tmp_path)
    assert summary["errors"] == {}
    metrics = summary["metrics"]
    assert all("usage_mismatch" in metrics[tag]["validity"] for tag in ("output_throughput", "tpot"))
    assert "usage_mismatch" not in metrics["ttft"]["validity"]


def test_without_usage_tokens_are_missing_not_zero(truth: TruthServer, tmp_path: Path) -> None:
    summary = ask(truth.target("no_usage"), tmp_path)
    assert summary["errors"] == {}
    assert summary["metrics"]["output_tokens_total"]["value"] is None
    assert "no_usage" in summary["metrics"]["output_throughput"]["validity"]
    assert summary["metrics"]["ttft"]["p50"] is not None
    rows = pq.read_table(tmp_path / "requests.parquet").to_pylist()
    assert {row["output_tokens"] for row in rows} == {None}


def test_a_server_that_dies_ends_the_scenario(tmp_path: Path) -> None:
    with TruthServer(ttft_ms=5, itl_ms=2) as server:
        summary = ask(server.target("die", every=40), tmp_path, requests=5000, warmup=1, breaker=5)
    # Request 0 is the warm-up and a multiple of 40: nothing survives.
    assert summary["status"] == "failed"
    assert summary["failure"]["kind"] == "unhealthy"
    assert summary["requests"]["taken"] < 50
    assert "refused" in summary["failure"]["message"]
    assert read_json(tmp_path / "manifest.json")["status"] == "failed"


def test_a_server_that_returns_within_the_breaker_is_asked_on(tmp_path: Path) -> None:
    with TruthServer(ttft_ms=5, itl_ms=2) as server:
        settings = ["100000", "duration_s=12", "breaker=90000"]
        run = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, server.url, str(tmp_path / "out"), *settings], cwd=Path(__file__).parents[3]
        )
        await_records(tmp_path / "out", 30, END)
        server.process.kill()
        with TruthServer(ttft_ms=5, itl_ms=2, port=server.port):
            assert run.wait(60) == 0
    summary = read_json(tmp_path / "out" / "summary.json")
    rows = pq.read_table(tmp_path / "out" / "requests.parquet").to_pylist()
    failed = [row["done_ns"] for row in rows if row["status"] == "error"]
    assert summary["status"] == "complete"
    assert set(summary["errors"]) <= {"refused", "reset", "truncated"}
    assert sum(summary["errors"].values()) == len(failed) > 0
    assert any(row["sent_ns"] > max(failed) for row in rows if row["status"] == "ok")
    assert summary["requests"]["taken"] == len(rows) - 1


def test_what_watches_may_end_a_scenario_early_and_what_was_measured_is_kept(
    truth: TruthServer, tmp_path: Path
) -> None:
    seen_at: list[float] = []

    def something_is_recorded() -> bool:
        if not seen_at and any(found == END for found, *_ in read_records(tmp_path / "raw", "*")):
            seen_at.append(time.monotonic())
        return bool(seen_at)

    target = truth.target("stall_first", every=2)
    summary = run_scenario(
        target,
        ClosedConfig(concurrency=2, requests=40, warmup=0, first_token_s=60.0, total_s=90.0),
        SyntheticConfig(output_tokens=TOKENS, input_tokens=6, tokenize=False),
        tmp_path,
        stop_when=something_is_recorded,
    )
    assert time.monotonic() - seen_at[0] < 30
    assert summary["status"] == "partial"
    assert summary["requests"]["ok"] >= 1
    assert read_json(tmp_path / "manifest.json")["status"] == "partial"


def test_what_was_measured_before_the_death_is_kept(tmp_path: Path) -> None:
    with TruthServer(ttft_ms=5, itl_ms=2) as server:
        run = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, server.url, str(tmp_path / "out"), "20000"], cwd=Path(__file__).parents[3]
        )
        await_records(tmp_path / "out", 30, END)
        server.process.kill()
        assert run.wait(60) == 0
    summary = read_json(tmp_path / "out" / "summary.json")
    assert summary["status"] == "failed"
    assert summary["requests"]["ok"] > 10


SCRIPT = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    from bench.load.config import ClosedConfig, SyntheticConfig
    from bench.load.run import run_scenario
    from bench.load.target import Target

    url, out, requests, *further = sys.argv[1:]
    settings = {name: float(value) for name, _, value in (word.partition("=") for word in further)}
    scenario = ClosedConfig(concurrency=4, requests=int(requests), warmup=1, **settings)
    workload = SyntheticConfig(output_tokens=8, input_tokens=4, tokenize=False)
    run_scenario(Target(url=url, model="truth"), scenario, workload, Path(out))
    """
)


def await_records(out: Path, wanted: int, tag: int) -> None:
    """Until the worker of the run in `out` has recorded so many, however slow the machine is."""
    deadline = time.monotonic() + 60
    while sum(found == tag for found, *_ in read_records(out / "raw", "*")) < wanted:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def workers_below(pid: int) -> list[psutil.Process]:
    return [
        child
        for child in psutil.Process(pid).children(recursive=True)
        if "bench.load.worker" in child.cmdline() and "supervisor.py" not in " ".join(child.cmdline())
    ]


@pytest.fixture
def running(truth: TruthServer, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, truth.url, str(tmp_path / "out"), "20000"],
        cwd=Path(__file__).parents[3],
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        await_records(tmp_path / "out", 30, END)
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def test_interrupt_keeps_what_was_measured(running: subprocess.Popen[bytes], tmp_path: Path) -> None:
    os.killpg(running.pid, signal.SIGINT)
    assert running.wait(60) != 0
    summary = read_json(tmp_path / "out" / "summary.json")
    assert (summary["status"], read_json(tmp_path / "out" / "manifest.json")["status"]) == ("partial", "partial")
    assert summary["requests"]["ok"] > 10
    assert summary["requests"]["cancelled"] <= 4
    assert summary["errors"] == {}


def test_killed_worker_loses_only_what_was_in_flight(running: subprocess.Popen[bytes], tmp_path: Path) -> None:
    (worker,) = workers_below(running.pid)
    worker.kill()
    assert running.wait(60) == 0
    summary = read_json(tmp_path / "out" / "summary.json")
    assert summary["status"] == "failed"
    assert summary["failure"]["kind"] == "client_fault"
    assert summary["requests"]["ok"] > 10
    assert summary["errors"]["client"] <= 4


def test_killed_harness_leaves_no_worker(running: subprocess.Popen[bytes]) -> None:
    workers = workers_below(running.pid)
    assert len(workers) == 1
    running.kill()
    running.wait()
    _, alive = psutil.wait_procs(workers, timeout=20)
    assert alive == []


def test_what_a_killed_harness_recorded_becomes_a_partial_result(
    running: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    workers = workers_below(running.pid)
    running.kill()
    running.wait()
    psutil.wait_procs(workers, timeout=20)
    moved = (tmp_path / "out").rename(tmp_path / "moved")
    for name in ("worker0.own.json", "worker0.requests.jsonl", "worker0.events.npy", "worker0.delays.npy"):
        (moved / "raw" / name).write_bytes(b"")  # what a power cut may leave of files that nobody synced
    answered = salvage(moved)
    assert answered is not None
    assert answered > 10
    summary, manifest = read_json(moved / "summary.json"), read_json(moved / "manifest.json")
    assert (summary["status"], manifest["status"], manifest["scenario"]["concurrency"]) == ("partial", "partial", 4)
    assert summary["errors"] == {}
    rows = pq.read_table(moved / "requests.parquet").to_pylist()
    whole = [row for row in rows if row["status"] == "ok"]
    assert len(whole) == answered
    assert {row["output_tokens"] for row in whole} == {8}
    assert sum(row["status"] == "cancelled" for row in rows) <= 4
    assert not (moved / "raw").exists()
    before = (moved / "requests.parquet").read_bytes()
    assert salvage(moved) is None, "a result that is there already is left as it is"
    assert (moved / "requests.parquet").read_bytes() == before


def test_a_damaged_recording_is_left_as_it_is(running: subprocess.Popen[bytes], tmp_path: Path) -> None:
    workers = workers_below(running.pid)
    running.kill()
    running.wait()
    psutil.wait_procs(workers, timeout=20)
    raw = tmp_path / "out" / "raw"
    (raw / "asked.json").write_text('{"name": "cut off')
    before = {path.name: path.read_bytes() for path in raw.iterdir()}
    assert salvage(tmp_path / "out") is None
    assert {path.name: path.read_bytes() for path in raw.iterdir()} == before


def test_requests_that_were_only_cancelled_are_no_result(tmp_path: Path) -> None:
    with TruthServer(ttft_ms=60_000, itl_ms=2) as server:
        process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, server.url, str(tmp_path / "out"), "20000"],
            cwd=Path(__file__).parents[3],
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            await_records(tmp_path / "out", 1, START)  # the warm-up, which gets no answer
        finally:
            workers = workers_below(process.pid)
            process.kill()
            process.wait()
        psutil.wait_procs(workers, timeout=20)
    assert salvage(tmp_path / "out") is None
    assert list((tmp_path / "out" / "raw").glob("*.seg"))
