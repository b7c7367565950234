"""The search against a server whose capacity is known: slots / service time, requests beyond that wait."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.base.errors import UsageError
from bench.base.files import read_json
from bench.base.process import wait_until
from bench.base.progress import Progress
from bench.load.arrivals.config import SweepConfig
from bench.load.capacity.config import EffortConfig, SearchRunConfig
from bench.load.capacity.search import run_search
from bench.load.config import ClosedConfig, ConstantConfig, EndpointConfig, SyntheticConfig
from bench.load.slo import SloConfig
from bench.load.truth.launch import TruthServer
from tests.support import command_line

TTFT_MS, ITL_MS, TOKENS = 60.0, 2.0, 11
SERVICE_S = (TTFT_MS + (TOKENS - 1) * ITL_MS) / 1000
FEW, MANY = 2, 8
CAPACITY = MANY / SERVICE_S


@pytest.fixture(scope="module")
def truth() -> Iterator[TruthServer]:
    with TruthServer(ttft_ms=TTFT_MS, itl_ms=ITL_MS, slots=FEW) as server:
        yield server


def config(server: TruthServer, out: Path, **more: Any) -> SearchRunConfig:
    values: dict[str, Any] = {
        "endpoint": EndpointConfig(url=server.url, model="truth"),
        "scenario": ClosedConfig(),
        "workload": SyntheticConfig(input_tokens=4, output_tokens=TOKENS, tokenize=False),
        "slo": SloConfig(ttft_ms=TTFT_MS + 20, percentile=90),
        "out": str(out),
    }
    return SearchRunConfig(**values | more)


def test_users_are_as_many_as_slots(truth: TruthServer, tmp_path: Path) -> None:
    # Three users of two slots: all wait half a service, or every other one a whole: 40 or 80 ms.
    out = tmp_path / "search"
    effort = EffortConfig(repeats=1)
    answer = run_search(config(truth, out, search=effort), Progress())
    assert (answer["status"], answer["over"]) == ("complete", "concurrency")
    found = answer["capacity"]
    assert found["unit"] == "users"
    if not found["validity"]:  # else this machine was too busy for the client to be believed, and it said so
        assert (found["value"], found["lo"], found["hi"]) == (FEW, FEW, FEW + 1)
    assert read_json(out / "search.json") == answer
    lines = [json.loads(line) for line in (out / "probes.jsonl").read_text().splitlines()]
    assert lines == answer["probes"]
    assert all((out / line["folder"] / "requests.parquet").is_file() for line in lines)

    before = time.monotonic()
    assert run_search(config(truth, out, search=effort), Progress())["probes"] == lines, "nothing is probed again"
    assert time.monotonic() - before < 15
    with pytest.raises(UsageError, match="asked something else"):
        run_search(config(truth, out, search=effort, slo=SloConfig(ttft_ms=5)), Progress())


def test_a_rate_is_bracketed(tmp_path: Path) -> None:
    # Even arrivals below the capacity never wait, above it ever longer.
    effort = EffortConfig(start=CAPACITY / 2, highest=4 * CAPACITY, tolerance=0.25, repeats=1, probe_s=0)
    slo = SloConfig(ttft_ms=200, percentile=90)
    with TruthServer(ttft_ms=TTFT_MS, itl_ms=ITL_MS, slots=MANY) as server:
        asked = config(server, tmp_path / "search", search=effort, scenario=ConstantConfig(), slo=slo)
        answer = run_search(asked, Progress())
    found = answer["capacity"]
    assert found["unit"] == "req/s"
    outcomes = [(probe["level"], probe["outcome"], probe["reasons"]) for probe in answer["probes"]]
    assert all(outcome != "held" for level, outcome, _ in outcomes if level > 1.3 * CAPACITY), outcomes
    assert all(outcome != "failed" for level, outcome, _ in outcomes if level < 0.7 * CAPACITY), outcomes
    if not found["validity"]:
        assert found["hi"] is not None, outcomes
        assert found["lo"] <= 1.3 * CAPACITY
        assert found["hi"] >= 0.7 * CAPACITY
        assert found["hi"] <= 1.3 * found["lo"]


def test_it_ends_with_its_budget_and_goes_on(truth: TruthServer, tmp_path: Path) -> None:
    out = tmp_path / "search"
    short = run_search(config(truth, out, search=EffortConfig(start=2, max_probes=1, repeats=1)), Progress())
    assert (short["status"], short["ended"], len(short["probes"])) == ("partial", "max_probes", 1)
    with (out / "probes.jsonl").open("ab") as stream:
        stream.write(b'{"cut off by a ki')
    longer = run_search(config(truth, out, search=EffortConfig(start=2, max_probes=2, repeats=1)), Progress())
    first, second = longer["probes"]
    assert (first["level"], second["level"]) == (2, 2 if first["outcome"] == "void" else 4)
    assert longer["probes"][0] == short["probes"][0]


def whole_line(path: Path) -> bool:
    return path.is_file() and path.read_bytes().endswith(b"\n")


def test_ctrl_c_keeps_the_probes(truth: TruthServer, tmp_path: Path) -> None:
    out = tmp_path / "search"
    words = [
        *("search", f"endpoint.url={truth.url}", "endpoint.model=truth", "scenario=closed", "slo.ttft_ms=500"),
        *(
            "slo.percentile=50",
            "search.start=4",
            "search.requests=80",
            "workload.output_tokens=11",
            "workload.tokenize=false",
            f"out={out}",
        ),
    ]
    with subprocess.Popen(command_line(words), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert wait_until(lambda: whole_line(out / "probes.jsonl"), timeout_s=120)
        process.send_signal(2)
        output, _ = process.communicate(timeout=120)
    assert process.returncode == 130, output
    answer = read_json(out / "search.json")
    assert (answer["status"], answer["ended"]) == ("partial", "interrupted")
    assert len(answer["probes"]) >= 1
    assert "same command goes on" in output


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"slo": SloConfig()}, "slo: say what the load must hold"),
        ({"scenario": SweepConfig()}, "no one rate or concurrency"),
        ({"search": EffortConfig(requests=100), "slo": SloConfig(ttft_ms=9)}, "p95 needs 200"),
    ],
)
def test_what_cannot_be_searched(truth: TruthServer, tmp_path: Path, changed: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        run_search(config(truth, tmp_path / "x", **changed), Progress())
    assert not (tmp_path / "x").exists()


def test_a_wrong_value_is_said_in_one_line(tmp_path: Path) -> None:
    words = ["search", "endpoint.url=http://127.0.0.1:9", "endpoint.model=m", "slo.ttft_ms=9", f"out={tmp_path / 'x'}"]
    wrong = ["search.start=0"]
    done = subprocess.run([*command_line(words), *wrong], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert done.stderr.startswith("quantbench: search.start=0 must lie between")
    assert len(done.stderr.splitlines()) == 1
