"""`quantbench calibrate` measures, keeps, and later summaries carry the bound."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from bench.base.progress import Progress
from bench.cli.main import main
from bench.load.calibration import bound_for, calibration_file, peak_in_flight, read_calibration
from bench.load.command import run_load
from bench.load.config import ClosedConfig, EndpointConfig, LoadRunConfig, SyntheticConfig
from bench.load.truth.compare import TrueTimes
from bench.load.truth.launch import LOG_DTYPE, TruthServer
from bench.load.truth.pace import SlowTimes

SMALL = ("ttft_ms=5", "itl_ms=2", "tokens=8", "seconds=0.6")


@pytest.mark.usefixtures("cache")
def test_the_table_is_shown_kept_and_carried(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["calibrate", "streams=[4,2]", *SMALL, "--json-lines"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    rows = [line for line in lines if line["event"] == "calibration"]
    assert [row["streams"] for row in rows] == [2, 4]
    for row in rows:
        assert row["requests"] > 20
        assert 0 < row["event_p50_us"] < 2000
        assert abs(row["ttft_p50_us"]) < 2000
        assert row["ttft_p50_us"] <= row["ttft_p99_us"]
        assert 0.5 < row["delivered_share"] <= 1.0
        assert row["cpu_us_per_token"] > 0
    assert main(["calibrate", "streams=[2]", *SMALL, "time_source=user", "--quiet"]) == 0
    kept = read_calibration()
    assert kept is not None
    assert [(row["streams"], row["time_source"]) for row in kept["rows"]] == [(2, "user"), (2, "kernel"), (4, "kernel")]
    with TruthServer(ttft_ms=60, itl_ms=2) as truth:  # so long that three are in flight
        config = LoadRunConfig(
            endpoint=EndpointConfig(url=truth.url, model="truth"),
            scenario=ClosedConfig(concurrency=3, requests=6),
            workload=SyntheticConfig(output_tokens=4),
            out=str(tmp_path / "out"),
        )
        carried = run_load(config, Progress())["own_error"]["calibrated"]
    assert (carried["streams"], carried["time_source"]) == (4, "kernel")
    assert carried["event_p99_us"] == rows[1]["event_p99_us"]


@pytest.mark.usefixtures("cache")
def test_what_was_not_calibrated_has_no_bound() -> None:
    assert bound_for(1, "kernel") is None
    calibration_file().parent.mkdir(parents=True)
    calibration_file().write_text("{broken")
    assert bound_for(1, "kernel") is None
    calibration_file().write_text(json.dumps({"schema_version": 1, "rows": [{"streams": 64, "time_source": "kernel"}]}))
    assert bound_for(64, "kernel") == {"streams": 64, "time_source": "kernel"}
    assert bound_for(65, "kernel") is None
    assert bound_for(1, "user") is None


def test_a_wrong_duration_is_refused_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["calibrate", "seconds=0.1"]) == 2
    assert "four waves" in capsys.readouterr().err


def test_peak_of_requests_in_flight() -> None:
    sent, done = np.array([0, 5, 10, 12, -1]), np.array([10, 20, 30, 13, 40])
    assert peak_in_flight(sent, done) == 3
    assert peak_in_flight(sent[:0], done[:0]) == 0


def log_of(times: dict[int, list[int]]) -> np.ndarray[tuple[int], np.dtype[np.void]]:
    rows = [(request, index, ns) for request, events in times.items() for index, ns in enumerate(events)]
    return np.array(rows[::-1], dtype=LOG_DTYPE)


def test_the_log_tells_what_was_served() -> None:
    second = 1_000_000_000
    log = log_of({7: [0, second, 2 * second], 8: [second, 2 * second, 3 * second], 9: [3 * second, 4 * second]})
    true = TrueTimes.of(log, 2)
    assert true.request.tolist() == [7, 8]  # 9 has not all of its events
    assert true.ttft_ns.tolist() == [second, second]
    assert true.among(np.array([8])).events_ns.tolist() == [[2 * second, 3 * second]]
    assert true.busy_share(1, first=7) == pytest.approx(1.0)
    assert true.busy_share(2, first=7) == pytest.approx(0.5)
    idle = TrueTimes.of(log_of({1: [0, 1, second], 2: [3 * second, 3 * second, 4 * second]}), 2)
    assert idle.busy_share(1, first=1) == pytest.approx(0.95 / 2.9, abs=1e-3)
    while_idle = SlowTimes(begin_ns=np.array([second]), end_ns=np.array([3 * second]), share=0.5)
    assert idle.busy_share(1, first=1, slow=while_idle) == pytest.approx(1)
    always = SlowTimes(begin_ns=np.array([0]), end_ns=np.array([9 * second]), share=1)
    assert idle.busy_share(1, first=1, slow=always) is None
