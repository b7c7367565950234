"""`quantbench load` against an endpoint of somebody else's: no toolchain, no tokenizer, the files of a record."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from bench.load.truth.launch import TruthServer
from tests.support import quantbench

COLUMNS = {
    *("request_id", "scenario", "repeat", "worker", "scheduled_ns", "sent_ns", "first_token_ns", "last_token_ns"),
    *("prompt_tokens", "cached_tokens", "output_tokens", "events", "status", "error_kind"),
}


@pytest.mark.parametrize("api", ["completions", "chat"])
def test_the_documented_command_leaves_the_record(tmp_path: Path, api: str) -> None:
    with TruthServer(ttft_ms=20, itl_ms=2) as server:
        answer = quantbench(
            "load",
            f"endpoint.url={server.url}",
            "endpoint.model=truth",
            "scenario=closed",
            "scenario.concurrency=16",
            "scenario.requests=64",
            "workload.input_tokens=32",
            "workload.output_tokens=24",
            f"workload.api={api}",
            "out=record",
            cwd=tmp_path,
            env={"QUANTBENCH_CACHE": str(tmp_path / "unused")},
        )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "output_throughput" in answer.stdout
    record = tmp_path / "record"
    requests = pd.read_parquet(record / "requests.parquet")
    events = pd.read_parquet(record / "events.parquet")
    summary = json.loads((record / "summary.json").read_text())
    assert set(requests.columns) >= COLUMNS
    assert set(events.columns) >= {"request_id", "ns", "bytes", "tokens"}
    main = requests[requests["phase"] == "main"]
    assert len(main) == 64
    assert main["output_tokens"].eq(24).all()
    assert summary["errors"] == {}
    assert summary["metrics"]["output_tokens_total"]["value"] == 64 * 24
    assert json.loads((record / "manifest.json").read_text())["status"] == "complete"


def test_a_trace_is_replayed_and_a_bad_one_refused_in_a_line(tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    lines = [{"at_s": number / 20, "input_tokens": 5 + number, "output_tokens": 3 + number} for number in range(8)]
    trace.write_text("\n".join(map(json.dumps, lines)))
    with TruthServer(ttft_ms=5, itl_ms=1) as server:
        command = ["load", f"endpoint.url={server.url}", "endpoint.model=truth", "scenario=trace", "scenario.workers=2"]
        answer = quantbench(*command, "scenario.path=trace.jsonl", "out=record", cwd=tmp_path)
        trace.write_text(trace.read_text() + '\n{"at_s": 9, "input_tokens": "many", "output_tokens": 1}')
        refused = quantbench(*command, "scenario.path=trace.jsonl", "out=other", cwd=tmp_path)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    requests = pd.read_parquet(tmp_path / "record" / "requests.parquet")
    main = requests[requests["phase"] == "main"]
    assert main["prompt_tokens"].tolist() == [5 + number for number in range(8)]
    assert main["output_tokens"].tolist() == [3 + number for number in range(8)]
    assert refused.returncode == 2
    assert "trace.jsonl, line 9: input_tokens is 'many'" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_errors_are_counted_by_kind_and_the_exit_code_says_so(tmp_path: Path) -> None:
    with TruthServer(ttft_ms=5, itl_ms=1) as server:
        answer = quantbench(
            "load",
            f"endpoint.url={server.url}",
            "endpoint.model=truth:error_event:2",
            "endpoint.check=false",
            "scenario.requests=6",
            "workload.output_tokens=8",
            "out=record",
            cwd=tmp_path,
        )
    assert answer.returncode == 1
    summary = json.loads((tmp_path / "record" / "summary.json").read_text())
    assert list(summary["errors"]) == ["stream_error"]
    assert "stream_error" in answer.stdout


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    precious = tmp_path / "data" / "raw" / "precious.csv"
    precious.parent.mkdir(parents=True)
    precious.write_text("a,b")
    (tmp_path / "data" / "manifest.json").write_text("{}")
    with TruthServer(ttft_ms=1, itl_ms=1) as server:
        command = ["load", f"endpoint.url={server.url}", "endpoint.model=truth", "out=data"]
        answer = quantbench(*command, cwd=tmp_path)
    assert answer.returncode == 2
    assert "holds files that are not a load result" in answer.stderr
    assert precious.read_text() == "a,b"


def test_a_second_record_sets_the_first_aside(tmp_path: Path) -> None:
    with TruthServer(ttft_ms=1, itl_ms=1) as server:
        command = ["load", f"endpoint.url={server.url}", "endpoint.model=truth", "scenario.requests=8", "out=record"]
        for _ in range(2):
            answer = quantbench(*command, "workload.output_tokens=4", cwd=tmp_path)
            assert answer.returncode == 0, answer.stderr
    assert (tmp_path / "record" / "earlier-1" / "requests.parquet").is_file()
    assert (tmp_path / "record" / "requests.parquet").is_file()
