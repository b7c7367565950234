"""What differs is said, and only what it spoils is not compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.analysis.candidates import Analysis, analyse
from bench.analysis.comparability import Facet, differences
from bench.analysis.config import PriceConfig, ReportConfig
from bench.analysis.estimate import Verdict
from bench.analysis.load import load_results
from bench.analysis.recommend import recommend
from tests.unit.report.fake_runs import MACHINE, FakeRun, edit_summary, write_json

GIVEN: dict[str, Any] = {"date": "2026-11-01", "source": "an invoice"}
PRICE = PriceConfig(name="a machine", per_hour=0.1, **GIVEN)


def edit(cell: Path, change: Any) -> None:
    recorded = json.loads((cell / "cell.json").read_text(encoding="utf-8"))
    change(recorded)
    write_json(cell / "cell.json", recorded)


def set_in(*path: str, value: Any) -> Any:
    def change(recorded: dict[str, Any]) -> None:
        for name in path[:-1]:
            recorded = recorded[name]
        recorded[path[-1]] = value

    return change


def two(tmp_path: Path) -> tuple[FakeRun, Path]:
    run = FakeRun(tmp_path / "run")
    run.cell("F16")
    return run, run.cell("Q8_0")


def analysed(run: FakeRun, **changes: Any) -> Analysis:
    return analyse(load_results([run.directory]), ReportConfig(price=PRICE, **changes))


@pytest.mark.parametrize(
    ("path", "value", "facet", "source"),
    [
        (("variant", "model"), {"digest": "sha256:beef"}, Facet.MODEL, ""),
        (("variant", "model"), {"digest": "sha256:4f1c", "tokenizer": "b"}, Facet.TOKENIZER, ""),
        (("variant", "model"), {"digest": "sha256:4f1c", "chat_template": "b"}, Facet.TEMPLATE, ""),
        (("config", "workloads", "default", "temperature"), 0.7, Facet.SAMPLING, "c1"),
        (("config", "workloads", "default", "input_tokens"), 64, Facet.SCENARIO, "c1"),
        (("config", "scenarios", "c4", "concurrency"), 5, Facet.SCENARIO, "c4"),
        (("config", "tasks", "divergence", "windows"), 4, Facet.TASK, "divergence"),
    ],
)
def test_every_facet(tmp_path: Path, path: tuple[str, ...], value: Any, facet: Facet, source: str) -> None:
    run, folder = two(tmp_path)
    (run.directory / "first").touch()
    first = run.directory / "cells" / next(iter(run.planned))["key"]
    edit(first, set_in("config", "workloads", "default", value={"input_tokens": 32, "temperature": 0.0}))
    edit(folder, set_in("config", "workloads", "default", value={"input_tokens": 32, "temperature": 0.0}))
    model = {"digest": "sha256:4f1c", "tokenizer": "a", "chat_template": "a"}
    edit(first, set_in("variant", "model", value=model))
    if path[0] != "variant":
        edit(folder, set_in("variant", "model", value=model))
    edit(folder, set_in(*path, value=value))
    base, changed = load_results([run.directory]).cells
    found = differences(changed, base)
    assert {(each.facet, each.source) for each in found} >= {(facet, source)}
    assert {each.facet for each in found} == {facet}
    assert "Q8_0 and F16 differ in the " in found[0].said


def test_nothing_recorded_is_no_difference(tmp_path: Path) -> None:
    run, folder = two(tmp_path)
    edit(folder, lambda recorded: recorded["variant"].update(model={}))
    edit(folder, lambda recorded: recorded["config"].clear())
    base, bare = load_results([run.directory]).cells
    assert differences(bare, base) == []


def test_a_task_on_another_text_spoils_that_task_and_no_speed(tmp_path: Path) -> None:
    run, folder = two(tmp_path)
    first = run.directory / "cells" / run.planned[0]["key"]
    for cell, digest in ((first, "sha256:a"), (folder, "sha256:b")):
        edit_summary(cell, "divergence", lambda summary, d=digest: summary.update(protocol={"text": {"digest": d}}))
    analysis = analysed(run)
    changed = analysis.candidates[1]
    assert changed.excluded is None
    assert changed.speed.verdict is Verdict.BETTER
    assert changed.quality.verdict is Verdict.INCONCLUSIVE
    assert "task data of divergence: sha256:b, sha256:a" in changed.quality.reason
    assert [each.facet for each in analysis.not_comparable] == [Facet.TASK]


def test_machines_that_each_have_a_price_are_compared_by_cost_and_not_by_speed(tmp_path: Path) -> None:
    run = FakeRun(tmp_path / "run")
    run.cell("F16", machine={**MACHINE, "gpus": [{"name": "NVIDIA A10G"}]})
    run.cell("Q8_0", machine={**MACHINE, "gpus": [{"name": "NVIDIA L4"}]})
    one = analysed(run)
    assert one.candidates[1].excluded == "measured on another machine than F16"
    assert any("give each its price under prices" in note for note in one.notes)
    book = {
        name: PriceConfig(name=name, per_hour=per_hour, hardware=name, gpus=1, **GIVEN)
        for name, per_hour in (("A10G", 1.0), ("L4", 0.5))
    }
    both = analysed(run, prices=book)
    l4 = both.candidates[1]
    assert l4.excluded is None
    assert l4.speed.reason == "F16 was measured on another machine"
    assert l4.costs is not None
    assert l4.costs.price.hourly == 0.5
    assert l4.costs.hardware == "NVIDIA L4"
    answer = recommend(both)
    assert answer.choice is l4
    assert both.watermark == ""
