"""What servers said of themselves, as metrics; and in words where they and we differ."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.analysis.load import load_results
from bench.analysis.readings import read
from bench.analysis.server import server_metrics, untold, where_it_lies
from tests.unit.report.fake_runs import FakeRun


def timing(mean_ms: float, count: int = 10) -> dict[str, Any]:
    bucket = {"value_ms": mean_ms * 0.9, "from_ms": 100.0, "to_ms": 250.0}
    return {"mean_ms": mean_ms, "count": count, "p50": bucket, "p90": bucket, "p99": None}


def entry(ours: float | None = 200.0, theirs: float | None = 195.0, **more: Any) -> dict[str, Any]:
    """A scenario's entry as the pipeline records it."""
    client = {} if ours is None else {"ttft": {"mean_ms": ours, "count": 10}}
    server: dict[str, Any] = {} if theirs is None else {"ttft": timing(theirs)}
    return {
        "server_latency": server | {name: timing(value) for name, value in more.items()},
        "client_latency": client,
        "peaks": {"running": 4.0, "waiting": 0.0, "kv_cache_use": None},
        "preemptions": 0,
        "prefix_cache_hit_rate": None,
        "energy_j": {"gpu": 120.0, "cpu_package": None},
        "energy_per_output_token_j": {"gpu": 0.5, "cpu_package": None},
        "quiescent": True,
    }


def test_every_figure_has_its_unit_and_the_bucket_of_its_median() -> None:
    found = server_metrics(entry(), ())
    ttft = found["server_ttft"]
    assert (ttft.unit, ttft.n, ttft.lo, ttft.hi) == ("ms", 10, 100.0, 250.0)
    assert ttft.statistics == {"mean": 195.0, "p50": 175.5, "p90": 175.5, "p99": None}
    assert found["beyond_server_ttft"].statistics == {"value": 5.0}
    assert found["peak_waiting"].statistics == {"value": 0.0}, "a measured nought is not missing"
    assert "peak_kv_cache_use" not in found
    assert "prefix_cache_hit_rate" not in found
    assert (found["energy_gpu"].unit, found["energy_gpu"].statistics["value"]) == ("J", 120.0)
    assert "energy_cpu_package" not in found
    assert {metric.validity for metric in found.values()} == {()}


def test_a_server_that_did_not_rest_spoils_its_own_means_only() -> None:
    found = server_metrics({**entry(), "quiescent": False}, ("busy_machine",))
    assert found["server_ttft"].validity == ("busy_machine", "not_quiescent")
    assert found["client_ttft"].validity == ("busy_machine",)
    for tag in ("energy_gpu", "peak_running", "preemptions"):
        assert found[tag].validity == ("busy_machine",)


@pytest.mark.parametrize("recorded", [{}, {"server": {"prompt_tokens": 5}}, {"validity": []}])
def test_of_results_before_this_there_is_nothing(recorded: dict[str, Any]) -> None:
    assert server_metrics(recorded, ()) == {}


@pytest.mark.parametrize(
    "nonsense",
    [
        {"server_latency": 3, "client_latency": [1], "peaks": "x", "energy_j": None},
        {"server_latency": {"ttft": {"mean_ms": "fast", "p50": 7}}, "preemptions": "many", "peaks": {"running": "x"}},
    ],
)
def test_wrong_types_are_missing(nonsense: dict[str, Any]) -> None:
    assert server_metrics(nonsense, ()) == {}


@pytest.mark.parametrize(
    ("recorded", "said"),
    [
        (entry(200.0, 195.0), "agree to 2.5 %"),
        (entry(200.0, 150.0), "50.0 ms outside what the server times: HTTP, tokenizing, streaming"),
        (
            entry(200.0, 150.0, queue=100.0, prefill=45.0),
            "; inside it: queue 100 ms, prefill 45.0 ms, the rest of the server 5.00 ms",
        ),
        (entry(200.0, 260.0), "the server's is 60.0 ms longer"),
        (entry(200.0, None, queue=30.0), "the server told no TTFT; inside it: queue 30.0 ms"),
        (entry(200.0, None), "the server told no TTFT"),
        (entry(None, 150.0), "we saw no first token"),
    ],
)
def test_where_the_difference_lies(recorded: dict[str, Any], said: str) -> None:
    assert where_it_lies(server_metrics(recorded, ())).endswith(said)


def test_means_of_other_requests_are_not_compared() -> None:
    recorded = entry(200.0, 150.0)
    recorded["server_latency"]["ttft"]["count"] = 12
    assert where_it_lies(server_metrics(recorded, ())) == "not the same requests: we 10, the server 12"


def steps_of_several_tokens() -> dict[str, Any]:
    """vLLM's counts: one ITL a step, and a TPOT of requests with one token too."""
    recorded = entry(200.0, 195.0, itl=40.0, tpot=10.0, e2e=900.0)
    counts = {"itl": 40, "tpot": 8, "e2e": 10}
    recorded["client_latency"] |= {name: {"mean_ms": 20.0, "count": count} for name, count in counts.items()}
    return recorded


def test_means_of_other_numbers_of_values_have_no_difference() -> None:
    recorded = steps_of_several_tokens()
    found = server_metrics(recorded, ())
    assert {"beyond_server_ttft", "beyond_server_e2e"} == {tag for tag in found if tag.startswith("beyond_")}
    assert found["server_itl"].statistics["mean"] == 40.0
    assert untold(recorded)["beyond_server_itl"] == "not of the same values: we 40, the server 10"
    said = "; not compared: ITL (we 40, the server 10), TPOT (we 8, the server 10)"
    assert where_it_lies(found).endswith(said)
    recorded["server_latency"]["ttft"]["count"] = 12
    assert "beyond_server_ttft" not in server_metrics(recorded, ())


def test_why_a_figure_is_not_there_is_what_was_recorded() -> None:
    recorded = entry(200.0, None)
    recorded["unavailable"] = {"server_metrics": "after the load, /metrics: HTTP 401", "server_itl": "none observed"}
    recorded["unavailable"] |= {"cpu_package": "RAPL: permission denied", "energy_gpu": "no process seen"}
    found = untold(recorded)
    assert found["server_ttft"] == found["beyond_server_ttft"] == "after the load, /metrics: HTTP 401"
    assert found["server_itl"] == "none observed"
    assert found["energy_cpu_package"] == found["energy_per_output_token_cpu_package"] == "RAPL: permission denied"
    assert found["energy_per_output_token_gpu"] == "no process seen"
    assert untold({"unavailable": [1], "server_latency": 3}) == {}


def test_a_reading_that_is_missing_says_what_was_recorded(tmp_path: Path) -> None:
    run = FakeRun(tmp_path / "run")
    path = run.cell("F16") / "cell.json"
    recorded = json.loads(path.read_text(encoding="utf-8"))
    recorded["scenarios"]["c1"] |= entry(200.0, None) | {"unavailable": {"server_metrics": "HTTP 401"}}
    path.write_text(json.dumps(recorded), encoding="utf-8")
    (cell,) = load_results([run.directory]).cells
    assert read(cell, "scenarios", "c1", "server_ttft", "mean").missing == "HTTP 401"
    assert read(cell, "scenarios", "c1", "energy_cpu_package").missing == "c1 gave no energy_cpu_package"
    assert read(cell, "scenarios", "c4", "server_ttft", "mean").missing == "c4 gave no server_ttft"


def test_a_run_brings_them_beside_its_metrics(tmp_path: Path) -> None:
    run = FakeRun(tmp_path / "run")
    path = run.cell("F16") / "cell.json"
    recorded = json.loads(path.read_text(encoding="utf-8"))
    recorded["scenarios"]["c1"] |= entry()
    path.write_text(json.dumps(recorded), encoding="utf-8")
    (cell,) = load_results([run.directory]).cells
    assert cell.scenarios["c1"].server["server_ttft"].statistics["mean"] == 195.0
    assert cell.scenarios["c4"].server == {}
