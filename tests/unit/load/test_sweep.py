"""A sweep: which rates are asked, when it ends, and what its result is made of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.base.files import read_json, write_json
from bench.load import sweep
from bench.load.arrivals.config import GammaConfig, SweepConfig
from bench.load.config import ScenarioConfig
from bench.load.record import salvage
from bench.load.sweep import due_and_done, run_sweep, step_of

CONFIG = SweepConfig(start_per_s=2.0, factor=2.0, steps=6, step_s=10.0, requests=30)


def endpoint(capacity: float, **more: Any) -> Callable[[ScenarioConfig, Path, str], dict[str, Any]]:
    """Runs steps as an endpoint of that capacity would: what it leaves of one is its figures, by rate."""

    def run_step(scenario: ScenarioConfig, folder: Path, name: str) -> dict[str, Any]:
        assert isinstance(scenario, GammaConfig)
        behind = scenario.rate_per_s > capacity
        spread = {"p50": scenario.rate_per_s, "p99": None}
        summary = {
            "scenario": name,
            "status": "complete",
            "requests": {"ok": scenario.requests, "failed": 0, "taken": scenario.requests},
            "metrics": dict.fromkeys(("ttft", "itl", "e2e_latency"), spread)
            | {
                tag: {"value": min(scenario.rate_per_s, capacity)}
                for tag in ("request_throughput", "output_throughput")
            },
            "validity": ["backlog_growing"] if behind else [],
            "tokens": {"main": {"output_tokens": scenario.requests, "cached_tokens": None}},
            "window": {"start_ns": 0, "end_ns": 1, "requests_in_flight": 1},
        } | more
        (folder / "requests.parquet").write_text(str(scenario.rate_per_s))
        (folder / "events.parquet").touch()
        write_json(folder / "summary.json", summary)
        write_json(folder / "manifest.json", {"schema_version": 1, "kind": "load"})
        return summary

    return run_step


@pytest.fixture(autouse=True)
def no_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """The steps here have no requests of their own: nothing is due, nothing is behind."""
    monkeypatch.setattr(sweep, "read_table", lambda _: None)
    monkeypatch.setattr(sweep, "due_and_done", lambda *_: (0, 0))


def test_rates_grow_and_steps_last_as_asked() -> None:
    steps = [step_of(CONFIG, number) for number in range(4)]
    assert [step.rate_per_s for step in steps] == [2.0, 4.0, 8.0, 16.0]
    assert [step.requests for step in steps] == [30, 40, 80, 160]


def test_it_ends_behind_the_capacity_and_shows_the_last_step_that_kept_up(tmp_path: Path) -> None:
    summary = run_sweep(CONFIG, tmp_path, name="s", run_step=endpoint(9.0))
    assert [(step["rate_per_s"], step["kept_up"]) for step in summary["sweep"]["steps"]] == [
        (2.0, True),
        (4.0, True),
        (8.0, True),
        (16.0, False),
    ]
    assert (summary["sweep"]["kept_up_per_s"], summary["sweep"]["saturated_per_s"]) == (8.0, 16.0)
    assert summary["metrics"]["ttft"]["p50"] == 8.0
    assert summary["tokens"] == {"main": {"output_tokens": 30 + 40 + 80 + 160, "cached_tokens": None}}
    assert (tmp_path / "requests.parquet").read_text() == "8.0"
    assert read_json(tmp_path / "summary.json") == summary
    manifest = read_json(tmp_path / "manifest.json")
    assert manifest["scenario"]["kind"] == "sweep"
    assert [file["path"] for file in manifest["files"]] == ["requests.parquet", "events.parquet", "summary.json"]


def test_an_endpoint_that_never_keeps_up_shows_the_first_step(tmp_path: Path) -> None:
    summary = run_sweep(CONFIG, tmp_path, name="s", run_step=endpoint(1.0))
    assert (summary["sweep"]["kept_up_per_s"], summary["sweep"]["saturated_per_s"]) == (None, 2.0)
    assert summary["metrics"]["ttft"]["p50"] == 2.0


def test_without_saturation_none_is_claimed(tmp_path: Path) -> None:
    told = run_sweep(CONFIG, tmp_path, name="s", run_step=endpoint(1e9))["sweep"]
    assert (len(told["steps"]), told["kept_up_per_s"], told["saturated_per_s"]) == (6, 64.0, None)


def test_errors_end_it(tmp_path: Path) -> None:
    failing = endpoint(1e9, requests={"ok": 29, "failed": 1, "taken": 30})
    assert run_sweep(CONFIG, tmp_path, name="s", run_step=failing)["sweep"]["steps"][0]["why"] == ["errors"]


def test_interrupted_it_keeps_the_steps_that_were_run(tmp_path: Path) -> None:
    whole = endpoint(1e9)

    def interrupted(scenario: ScenarioConfig, folder: Path, name: str) -> dict[str, Any]:
        if folder.name == "02":
            raise KeyboardInterrupt
        return whole(scenario, folder, name)

    with pytest.raises(KeyboardInterrupt):
        run_sweep(CONFIG, tmp_path, name="s", run_step=interrupted)
    summary = read_json(tmp_path / "summary.json")
    assert (summary["status"], len(summary["sweep"]["steps"])) == ("partial", 2)
    assert read_json(tmp_path / "manifest.json")["status"] == "partial"


def test_killed_it_is_made_of_the_steps_that_are_there(tmp_path: Path) -> None:
    whole = endpoint(1e9)

    class Killed(BaseException):
        """What no handler sees."""

    def killed(scenario: ScenarioConfig, folder: Path, name: str) -> dict[str, Any]:
        if folder.name == "02":
            raise Killed
        return whole(scenario, folder, name)

    with pytest.raises(Killed):
        run_sweep(CONFIG, tmp_path, name="s", run_step=killed)
    assert not (tmp_path / "manifest.json").exists()
    assert salvage(tmp_path) == 30 + 40
    summary = read_json(tmp_path / "summary.json")
    assert (summary["status"], summary["scenario"], summary["sweep"]["kept_up_per_s"]) == ("partial", "s", 4.0)
    assert salvage(tmp_path) is None


def test_due_and_done_count_inside_the_window() -> None:
    class Rows:
        main = np.array([False, True, True, True, True])
        scheduled_ns = np.array([11, 9, 12, 18, 21])
        done_ns = np.array([12, 15, 20, -1, 25])

    rows: Any = Rows()
    assert due_and_done(rows, {"start_ns": 10, "end_ns": 20}) == (2, 2)
