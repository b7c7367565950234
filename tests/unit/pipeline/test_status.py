"""What a run's folder tells: running, dead, ended; what is recorded and what is measured again."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from bench.base.errors import UsageError
from bench.base.files import write_json
from bench.load.config import ClosedConfig, SyntheticConfig
from bench.load.segments import END, SENT, START, SegmentWriter
from bench.pipeline.load import OBSERVED, scenario_slot
from bench.pipeline.record import plain
from bench.pipeline.status import CellStatus, RunState, read_status, recorded_requests
from bench.store.run import ChildKind, ChildSlot, RunStore, Status

SCENARIO = ClosedConfig(requests=8, warmup=2, concurrency=1)
WORKLOAD = SyntheticConfig()
OVERRIDES = ["scheme=gguf_q8_0"]


class Recorded:
    """A run with one cell: scenario c1 and task perplexity, in the store's own words."""

    def __init__(self, folder: Path) -> None:
        self.store = RunStore(folder)
        command = ["quantbench", "run", *OVERRIDES]
        self.store.begin(name="mine", command=command, overrides=OVERRIDES, report=[], version="0.1.0")
        self.planned: dict[str, Any] = {"label": "Q8_0", "key": None, "overrides": OVERRIDES, "status": "planned"}
        self.store.write_plan([self.planned])
        self.cell = self.store.cell("0123456789abcdef")
        self.record: dict[str, Any] = {
            "key": "0123456789abcdef",
            "label": "Q8_0",
            "status": Status.RUNNING,
            "overrides": OVERRIDES,
            "config": {
                "scenarios": {"c1": plain(SCENARIO)},
                "workloads": {"default": plain(WORKLOAD)},
                "tasks": {"perplexity": {}},
            },
            "failure": None,
            "scenarios": {},
            "tasks": {},
        }

    def note(self, slot: ChildSlot, status: Status, **fields: Any) -> None:
        entry = {"key": slot.key, "path": slot.relative, "status": status.value, "failure": None, **fields}
        self.record[slot.kind.value][slot.name] = entry
        self.cell.write(self.record)

    def measure(self, scenario: ClosedConfig = SCENARIO) -> ChildSlot:
        slot = scenario_slot(self.cell, "c1", scenario, WORKLOAD)
        folder = slot.prepare()
        asked = {"scenario": dataclasses.asdict(scenario), "workload": dataclasses.asdict(WORKLOAD)}
        write_json(folder / "manifest.json", {"status": "complete", **asked})
        write_json(folder / OBSERVED, {})
        self.note(slot, Status.COMPLETE)
        return slot


@pytest.fixture
def recorded(tmp_path: Path) -> Recorded:
    return Recorded(tmp_path / "run")


def only_cell(recorded: Recorded) -> CellStatus:
    (cell,) = read_status(recorded.store.directory).cells
    return cell


def test_running_is_running_while_the_lock_is_held_and_dead_when_nobody_holds_it(recorded: Recorded) -> None:
    with recorded.store.lock():
        assert read_status(recorded.store.directory).state is RunState.RUNNING
    assert read_status(recorded.store.directory).state is RunState.DEAD
    with recorded.store.lock():  # looking has left nothing that would keep the next run out
        pass
    recorded.store.finish(Status.INTERRUPTED)
    status = read_status(recorded.store.directory)
    assert status.state is RunState.INTERRUPTED
    assert status.command == ("quantbench", "run", *OVERRIDES)


def test_a_cell_that_has_not_begun_is_planned(recorded: Recorded) -> None:
    status = read_status(recorded.store.directory)
    assert [(cell.state, cell.children) for cell in status.cells] == [("planned", ())]
    assert (status.reused, status.to_measure, status.not_begun) == (0, 0, 1)


def test_what_is_measured_is_reused_and_the_rest_is_named(recorded: Recorded) -> None:
    recorded.measure()
    status = read_status(recorded.store.directory)
    assert [(child.name, child.state, child.reused) for child in status.cells[0].children] == [
        ("c1", "complete", True),
        ("perplexity", "planned", False),
    ]
    assert (status.reused, status.to_measure, status.not_begun) == (1, 1, 0)


def test_a_scenario_of_other_settings_is_not_reused_and_other_deadlines_do_not_matter(recorded: Recorded) -> None:
    recorded.measure(dataclasses.replace(SCENARIO, total_s=7.0))
    assert only_cell(recorded).children[0].reused
    recorded.measure(dataclasses.replace(SCENARIO, requests=9))
    assert not only_cell(recorded).children[0].reused
    assert "measured with other settings" in only_cell(recorded).children[0].note


def test_a_manifest_without_what_was_observed_is_measured_again(recorded: Recorded) -> None:
    (recorded.measure().directory / OBSERVED).unlink()
    assert not only_cell(recorded).children[0].reused


def test_requests_of_a_scenario_that_is_being_recorded_are_counted(recorded: Recorded) -> None:
    slot = scenario_slot(recorded.cell, "c1", SCENARIO, WORKLOAD)
    raw = slot.prepare() / "raw"
    raw.mkdir()
    for worker, ended in (("worker0", 3), ("worker1", 2)):
        writer = SegmentWriter(raw, worker)
        for number in range(ended + 1):
            writer.mark(START, number, 1)
            writer.mark(SENT, number, 2)
            if number < ended:
                writer.mark(END, number, 3, payload=b"ok")
        writer.close()
    recorded.note(slot, Status.RUNNING)
    with recorded.store.lock():
        child = only_cell(recorded).children[0]
        assert (child.state, child.note) == ("running", "5 of 10 requests recorded")
    child = only_cell(recorded).children[0]
    assert child.state == "died"
    assert child.note == "5 of 10 requests recorded; it is measured again whole"
    assert recorded_requests(slot.directory / "elsewhere") == 0


def test_a_failed_cell_says_why(recorded: Recorded) -> None:
    slot = recorded.cell.child(ChildKind.TASK, "perplexity", "feedbeef00000000")
    recorded.record |= {"status": Status.FAILED, "failure": {"stage": "serve", "message": "it crashed"}}
    recorded.note(slot, Status.FAILED, failure={"message": "scoring failed"})
    cell = only_cell(recorded)
    assert (cell.state, cell.note) == ("failed", "serve: it crashed")
    assert (cell.children[1].state, cell.children[1].note) == ("failed", "scoring failed")


def test_the_key_in_the_plan_wins_over_an_older_cell_of_the_same_overrides(recorded: Recorded) -> None:
    recorded.measure()
    older = {**recorded.record, "key": "feedbeef00000000", "status": Status.FAILED}
    recorded.store.cell("feedbeef00000000").write(older)
    assert only_cell(recorded).key == "feedbeef00000000", "without a key: the one written last"
    recorded.store.write_plan([{**recorded.planned, "key": "0123456789abcdef"}])
    assert only_cell(recorded).key == "0123456789abcdef"


def test_what_is_not_a_run_is_bad_input(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UsageError, match="is not a quantbench run"):
            read_status(folder)
    assert list(tmp_path.iterdir()) == []
