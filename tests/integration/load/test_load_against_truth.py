"""The load generator against a server whose timing is known: what it reports is what was sent."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from bench.base.errors import UsageError
from bench.base.files import read_json
from bench.base.progress import Progress, ProgressEvent
from bench.load.command import run_load
from bench.load.config import (
    Api,
    ClosedConfig,
    ConstantConfig,
    EndpointConfig,
    LoadRunConfig,
    PoissonConfig,
    ScenarioConfig,
    SyntheticConfig,
    TimeSource,
)
from bench.load.run import run_scenario
from bench.load.schedule import draw_offsets
from bench.load.target import Target
from bench.load.truth.launch import TruthServer

TTFT_MS, ITL_MS, TOKENS = 40.0, 4.0, 20


@pytest.fixture(scope="module")
def truth() -> Iterator[TruthServer]:
    with TruthServer(ttft_ms=TTFT_MS, itl_ms=ITL_MS) as server:
        yield server


def workload(**more: Any) -> SyntheticConfig:
    return SyntheticConfig(**{"output_tokens": TOKENS, "input_tokens": 12, **more})


def rows_of(out: Path, name: str = "requests") -> list[dict[str, Any]]:
    return list(pq.read_table(out / f"{name}.parquet").to_pylist())


def true_times(server: TruthServer) -> dict[int, np.ndarray[Any, Any]]:
    """Send times of each request's events, ns, the receipt of the request first."""
    log = server.take_log()
    return {int(slot): np.sort(log["ns"][log["request"] == slot]) for slot in np.unique(log["request"])}


@pytest.mark.parametrize("source", [TimeSource.kernel, TimeSource.user])
@pytest.mark.parametrize("api", [Api.completions, Api.chat])
def test_first_tokens_and_gaps_are_those_of_the_servers_log(
    truth: TruthServer, tmp_path: Path, source: TimeSource, api: Api
) -> None:
    truth.take_log()
    scenario = ClosedConfig(concurrency=8, requests=96, warmup=2, time_source=source)
    summary = run_scenario(truth.target(), scenario, workload(api=api), tmp_path)
    times = true_times(truth)
    assert summary["status"] == "complete"
    assert summary["own_error"]["time_source"] == source.value
    events = rows_of(tmp_path, "events")
    true_first, true_gaps, first_errors, chunk_errors = [], [], [], []
    for row in rows_of(tmp_path):
        sent = times[row["request_id"]]
        received = np.array([event["ns"] for event in events if event["request_id"] == row["request_id"]])
        assert len(received) == len(sent) - 1 == TOKENS
        if source is TimeSource.kernel:  # the request left after it was handed over, and before it arrived
            assert row["sent_ns"] < row["sent_kernel_ns"] < sent[0] + 50_000
        true_first.append(sent[1] - sent[0])
        true_gaps += list(np.diff(sent[1:]))
        first_errors.append((row["first_token_ns"] - row["sent_ns"]) - (sent[1] - sent[0]))
        chunk_errors += list(received - sent[1:])
    # Both processes share this machine's cores with whatever else runs, hence the quartiles, and room.
    assert 0 <= np.quantile(first_errors, 0.25) < 2e6
    assert 0 <= np.quantile(chunk_errors, 0.25) < 2e6
    assert np.min(chunk_errors) > -50_000  # nothing is received before it was sent: the clocks are mapped right
    # A busy machine makes the server late as well: the log is the truth, not what the server was asked for.
    assert np.min(true_first) / 1e6 <= summary["metrics"]["ttft"]["p50"] <= np.max(true_first) / 1e6 + 2
    low, high = np.quantile(true_gaps, [0.1, 0.9]) / 1e6
    assert low - 0.5 <= summary["metrics"]["itl"]["p50"] <= high + 0.5


def test_files_hold_what_the_contract_names(truth: TruthServer, tmp_path: Path) -> None:
    seen: list[ProgressEvent] = []
    summary = run_scenario(
        truth.target(),
        ClosedConfig(concurrency=2, requests=12, warmup=3),
        workload(),
        tmp_path,
        name="c2",
        repeat=4,
        progress=Progress(sink=seen.append),
        context={"cell": "k"},
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "events.parquet",
        "manifest.json",
        "requests.parquet",
        "summary.json",
    ]
    assert read_json(tmp_path / "summary.json") == summary
    manifest = read_json(tmp_path / "manifest.json")
    assert (manifest["status"], manifest["name"], manifest["repeat"]) == ("complete", "c2", 4)
    assert manifest["context"] == {"cell": "k"}
    rows = rows_of(tmp_path)
    assert [row["request_id"] for row in rows] == list(range(15))
    assert [row["phase"] for row in rows] == ["warmup"] * 3 + ["main"] * 12
    assert {(row["scenario"], row["repeat"], row["worker"], row["status"]) for row in rows} == {("c2", 4, 0, "ok")}
    assert {row["prompt_tokens"] for row in rows} == {12}
    assert summary["prompts"]["exact"]
    for row in rows:
        steps = ("scheduled", "taken", "sent", "sent_kernel", "first_token", "last_token", "done")
        times = [row[f"{step}_ns"] for step in steps]
        assert times == sorted(times)
        assert row["output_tokens"] == row["events"] == TOKENS
    assert min(row["sent_ns"] for row in rows[3:]) > max(row["done_ns"] for row in rows[:3])
    assert len(rows_of(tmp_path, "events")) == 15 * TOKENS
    assert summary["metrics"]["output_tokens_total"]["value"] == 12 * TOKENS
    assert summary["tokens"]["warmup"]["output_tokens"] == 3 * TOKENS
    assert seen[0].message == "preparing 12 requests"


def test_closed_loop_keeps_its_users_busy_and_no_more(truth: TruthServer, tmp_path: Path) -> None:
    run_scenario(truth.target(), ClosedConfig(concurrency=5, requests=30, warmup=0), workload(), tmp_path)
    rows = rows_of(tmp_path)
    ends = sorted([(row["sent_ns"], 1) for row in rows] + [(row["done_ns"], -1) for row in rows])
    assert np.cumsum([change for _, change in ends]).max() == 5


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("kind", [ConstantConfig, PoissonConfig])
def test_open_loop_leaves_as_drawn_whatever_the_number_of_workers(
    truth: TruthServer, tmp_path: Path, kind: type[ConstantConfig | PoissonConfig], workers: int
) -> None:
    scenario = kind(rate_per_s=80.0, requests=40, warmup=2, workers=workers, seed=11)
    summary = run_scenario(truth.target(), scenario, workload(), tmp_path)
    rows = [row for row in rows_of(tmp_path) if row["phase"] == "main"]
    scheduled = np.array([row["scheduled_ns"] for row in rows])
    assert (scheduled - scheduled[0]).tolist() == draw_offsets(scenario, 0).tolist()
    slip = np.array([row["sent_ns"] for row in rows]) - scheduled
    assert slip.min() >= 0
    assert np.quantile(slip, 0.25) < 3e6
    assert {row["worker"] for row in rows} == set(range(workers))
    assert summary["requests"]["ok"] == 40


def test_closed_loop_over_two_workers_sends_everything_once(truth: TruthServer, tmp_path: Path) -> None:
    summary = run_scenario(truth.target(), ClosedConfig(concurrency=4, requests=24, workers=2), workload(), tmp_path)
    assert [row["request_id"] for row in rows_of(tmp_path)] == list(range(26))
    assert (summary["requests"]["ok"], summary["own_error"]["workers"]) == (24, 2)


def test_duration_and_think_time(truth: TruthServer, tmp_path: Path) -> None:
    scenario = ClosedConfig(concurrency=1, requests=500, warmup=0, duration_s=0.6, think_time_s=0.05)
    run_scenario(truth.target(), scenario, workload(output_tokens=2), tmp_path)
    rows = rows_of(tmp_path)
    assert 3 <= len(rows) <= 8
    for earlier, later in pairwise(rows):
        assert later["scheduled_ns"] - earlier["done_ns"] >= 50_000_000


def test_kernel_time_is_refused_where_it_cannot_be_had(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "e.sock"))
        listener.listen()
        target = Target(url=f"unix:{tmp_path}/e.sock", model="m")
        with pytest.raises(UsageError, match="time_source=kernel"):
            run_scenario(target, ClosedConfig(time_source=TimeSource.kernel), workload(), tmp_path / "out")


# ---- the command


def command(truth: TruthServer, out: Path, scenario: ScenarioConfig | None = None, **endpoint: Any) -> dict[str, Any]:
    config = LoadRunConfig(
        endpoint=EndpointConfig(**{"url": truth.url, "model": "truth", **endpoint}),
        scenario=scenario or ClosedConfig(concurrency=2, requests=4),
        workload=workload(),
        out=str(out),
    )
    return run_load(config, Progress())


def test_command_writes_its_files_and_fresh_prompts(truth: TruthServer, tmp_path: Path) -> None:
    assert command(truth, tmp_path / "a")["status"] == "complete"
    command(truth, tmp_path / "a")  # an older result is replaced
    command(truth, tmp_path / "b")
    seeds = {read_json(tmp_path / name / "manifest.json")["workload"]["seed"] for name in "ab"}
    assert len(seeds) == 2


def test_command_says_what_is_wrong(truth: TruthServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"endpoint.model 'trut' is not served .* did you mean 'truth'"):
        command(truth, tmp_path / "out", model="trut")
    with pytest.raises(UsageError, match="Connection refused"):
        command(truth, tmp_path / "out", url="http://127.0.0.1:9")
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    with pytest.raises(UsageError, match="the environment variable NO_SUCH_KEY is not set"):
        command(truth, tmp_path / "out", api_key_env="NO_SUCH_KEY")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(UsageError, match="holds files that are not a load result"):
        command(truth, tmp_path / "mine")


def test_key_opens_the_endpoint_and_is_written_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "very-hush-key")
    with TruthServer(ttft_ms=5, itl_ms=1, api_key="very-hush-key") as locked:
        with pytest.raises(UsageError, match="wants an API key"):
            command(locked, tmp_path / "out")
        monkeypatch.setenv("WRONG_KEY", "guess")
        with pytest.raises(UsageError, match="refuses the given API key"):
            command(locked, tmp_path / "out", api_key_env="WRONG_KEY")
        scenario = ClosedConfig(requests=3, keep_raw=True)
        assert command(locked, tmp_path / "out", scenario, api_key_env="MY_KEY")["status"] == "complete"
    kept = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert any(path.suffix == ".seg" for path in kept)
    assert not any(b"very-hush-key" in path.read_bytes() for path in kept)
