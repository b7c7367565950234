"""The answer: who is chosen, who is not ranked, and when there is none."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from bench.analysis.candidates import Analysis, analyse
from bench.analysis.config import MarginConfig, PriceConfig, ReportConfig
from bench.analysis.estimate import Verdict
from bench.analysis.load import load_results
from bench.analysis.recommend import Answer, Certainty, recommend
from bench.base.errors import UsageError
from tests.unit.report.fake_runs import VARIANTS, FakeRun, edit_summary, failed, quickstart

PRICE = PriceConfig(name="a machine", per_hour=0.1, date="2026-11-01", source="an invoice")
CONFIG = ReportConfig(price=PRICE, margins=MarginConfig())


def answer_of(directory: Path, **changes: Any) -> tuple[Analysis, Answer]:
    analysis = analyse(load_results([directory]), dataclasses.replace(CONFIG, **changes))
    return analysis, recommend(analysis)


def chosen(answer: Answer) -> str | None:
    return answer.choice.cell.label if answer.choice is not None else None


def test_the_cheapest_that_keeps_the_limit_is_clear(tmp_path: Path) -> None:
    analysis, answer = answer_of(quickstart(tmp_path / "run"))
    assert chosen(answer) == "Q8_0"
    assert answer.certainty is Certainty.CLEAR
    assert analysis.baseline is not None
    assert analysis.baseline.label == "F16"
    assert analysis.reference is not None
    assert analysis.reference.name == "c4"
    assert any("Q4_0 is cheaper, but its perplexity changes by +18.8 %" in line for line in answer.why)
    assert "equivalent" in answer.loses
    assert any("Q4_1 grid" in line for line in answer.caveats)
    assert any("CPU" in line for line in answer.caveats)


def test_a_wider_limit_admits_a_cheaper_variant(tmp_path: Path) -> None:
    _, answer = answer_of(quickstart(tmp_path / "run"), max_perplexity_increase=0.3)
    assert chosen(answer) == "Q4_0"


def test_a_value_within_the_limit_with_an_interval_that_is_not_is_tentative(tmp_path: Path) -> None:
    _, answer = answer_of(quickstart(tmp_path / "run"), max_perplexity_increase=0.055)
    assert chosen(answer) == "Q4_K_M"
    assert answer.certainty is Certainty.TENTATIVE
    assert "Not sure of the quality limit" in answer.sure


def test_costs_that_cannot_be_told_apart_are_a_tie_won_by_the_smallest(tmp_path: Path) -> None:
    run = FakeRun(tmp_path / "run")
    run.cell("F16")
    run.cell("Q8_0", figures={**VARIANTS["Q8_0"], "itl_ms": VARIANTS["F16"]["itl_ms"] * 1.002})
    _, answer = answer_of(run.directory)
    assert chosen(answer) == "Q8_0"
    assert answer.certainty is Certainty.TENTATIVE
    assert "F16 cannot be told from it" in answer.sure


@pytest.mark.parametrize(("half", "wins"), [(0.012, "Q8_0"), (0.03, "F16")])
def test_a_tie_goes_to_the_smaller_variant_unless_it_may_lose_more_than_the_margin(
    tmp_path: Path, half: float, wins: str
) -> None:
    run = FakeRun(tmp_path / "run")
    run.cell("F16")
    figures = {**VARIANTS["Q8_0"], "itl_ms": VARIANTS["F16"]["itl_ms"], "ratio": 0.997, "half": half}
    run.cell("Q8_0", figures=figures)
    analysis, answer = answer_of(run.directory)
    assert {c.quality.verdict for c in analysis.candidates if not c.is_baseline} == {Verdict.INCONCLUSIVE}
    assert chosen(answer) == wins


def test_the_baseline_wins_when_nothing_acceptable_is_cheaper(tmp_path: Path) -> None:
    run = FakeRun(tmp_path / "run")
    run.cell("F16")
    run.cell("Q8_0", figures={**VARIANTS["Q8_0"], "itl_ms": 40.0})
    _, answer = answer_of(run.directory)
    assert answer.headline == "Stay with F16: no acceptable variant is cheaper."


def test_invalid_numbers_are_never_ranked(tmp_path: Path) -> None:
    run = FakeRun(tmp_path / "run")
    run.cell("F16")
    cheap = run.cell("Q8_0")
    run.cell("Q4_K_M", figures={**VARIANTS["Q8_0"], "itl_ms": 15.0})

    def spoil(summary: dict[str, dict[str, dict[str, object]]]) -> None:
        for metric in summary["metrics"].values():
            metric["validity"] = ["client_slip"]

    edit_summary(cheap, "c4", spoil)
    analysis, answer = answer_of(run.directory)
    assert chosen(answer) == "Q4_K_M"
    spoilt = next(c for c in analysis.candidates if c.cell.label == "Q8_0")
    assert spoilt.speed.verdict is Verdict.INCONCLUSIVE
    assert not spoilt.on_frontier
    edit_summary(run.directory / "cells" / analysis.candidates[0].cell.key, "c4", spoil)
    edit_summary(run.directory / "cells" / analysis.candidates[2].cell.key, "c4", spoil)
    _, none = answer_of(run.directory, load="c4")
    assert chosen(none) is None
    assert "no throughput at load c4 may be believed" in none.headline
    assert "client_slip: Requests left later" in none.sure


def test_one_cell_has_no_ranking(tmp_path: Path) -> None:
    _, answer = answer_of(quickstart(tmp_path / "run", ("Q8_0",)))
    assert answer.certainty is Certainty.NONE
    assert answer.headline == "Only Q8_0 was measured: there is nothing to compare it with."
    assert "no baseline" in answer.loses


def test_without_quality_cost_decides_nothing(tmp_path: Path) -> None:
    run = FakeRun(tmp_path / "run")
    run.cell("F16", tasks=False)
    run.cell("Q4_0", tasks=False)
    _, answer = answer_of(run.directory)
    assert answer.certainty is Certainty.NONE
    assert answer.headline.startswith("No recommendation: Q4_0 costs least")


def test_all_failed_and_nothing_planned(tmp_path: Path) -> None:
    run = FakeRun(tmp_path / "run")
    run.cell("F16", scenarios=(), tasks=False, **failed())
    _, answer = answer_of(run.directory)
    assert answer.headline == "Nothing to recommend: every cell failed."
    _, empty = answer_of(FakeRun(tmp_path / "empty").directory)
    assert empty.headline == "Nothing was measured: the run has no cells."


@pytest.mark.parametrize("kind", ["machine", "model", "load"])
def test_what_differs_is_shown_and_not_compared(tmp_path: Path, kind: str) -> None:
    run = FakeRun(tmp_path / "run")
    run.cell("F16")
    run.cell("Q8_0")
    folder = run.cell("Q4_K_M", figures={**VARIANTS["Q8_0"], "itl_ms": 5.0})
    path = folder / "cell.json"
    text = path.read_text(encoding="utf-8")
    old, new = {
        "machine": ("Example CPU @ 2.5GHz", "Another CPU"),
        "model": ("sha256:4f1c", "sha256:beef"),
        "load": ('"output_tokens": 64', '"output_tokens": 8'),
    }[kind]
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")
    analysis, answer = answer_of(run.directory)
    assert chosen(answer) == "Q8_0"
    stranger = next(c for c in analysis.candidates if c.cell.label == "Q4_K_M")
    assert stranger.excluded is not None
    assert stranger.speed.reason == stranger.excluded
    assert any("not compared" in note for note in analysis.notes)


def test_a_deadline_does_not_make_another_load(tmp_path: Path) -> None:
    run = FakeRun(tmp_path / "run")
    run.cell("F16")
    folder = run.cell("Q8_0")
    path = folder / "cell.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"total_s": 1200.0', '"total_s": 60.0'), encoding="utf-8")
    analysis, _ = answer_of(run.directory)
    assert all(candidate.excluded is None for candidate in analysis.candidates)


def test_named_baseline_and_load_must_exist(tmp_path: Path) -> None:
    directory = quickstart(tmp_path / "run")
    analysis, _ = answer_of(directory, baseline="Q8_0", load="c1")
    assert analysis.baseline is not None
    assert (analysis.baseline.label, analysis.reference and analysis.reference.name) == ("Q8_0", "c1")
    with pytest.raises(UsageError, match="did you mean 'Q8_0'"):
        answer_of(directory, baseline="Q8_O")
    with pytest.raises(UsageError, match="load='c9' was not recorded; did you mean"):
        answer_of(directory, load="c9")


def test_unpaired_perplexities_are_compared_as_independent(tmp_path: Path) -> None:
    run = FakeRun(tmp_path / "run")
    run.cell("F16")
    folder = run.cell("Q8_0")

    def drop(summary: dict[str, dict[str, object]]) -> None:
        del summary["metrics"]["perplexity_ratio"]

    edit_summary(folder, "divergence", drop)
    analysis, answer = answer_of(run.directory)
    q8 = next(c for c in analysis.candidates if c.cell.label == "Q8_0")
    assert q8.quality.verdict is Verdict.INCONCLUSIVE
    assert q8.quality.change is not None
    assert q8.quality.change.value == pytest.approx(0.0026)
    assert "not paired" in q8.loss.pairing
    assert answer.certainty is Certainty.TENTATIVE


def test_the_frontier_names_who_beats_whom(tmp_path: Path) -> None:
    run = FakeRun(tmp_path / "run")
    run.cell("F16")
    run.cell("Q8_0")
    run.cell("Q4_K_M", figures={**VARIANTS["Q4_K_M"], "itl_ms": 14.0})
    analysis, _ = answer_of(run.directory)
    marks = {c.cell.label: (c.on_frontier, c.dominated_by) for c in analysis.candidates}
    assert marks == {"F16": (True, None), "Q8_0": (True, None), "Q4_K_M": (False, "Q8_0")}


def test_a_partial_scenario_is_shown_and_not_ranked(tmp_path: Path) -> None:
    run = FakeRun(tmp_path / "run")
    run.cell("F16")
    folder = run.cell("Q8_0")
    path = folder / "cell.json"
    path.write_text(
        path.read_text(encoding="utf-8").replace(
            '"status": "complete",\n   "failure"', '"status": "partial",\n   "failure"'
        ),
        encoding="utf-8",
    )
    analysis, _ = answer_of(run.directory)
    q8 = next(c for c in analysis.candidates if c.cell.label == "Q8_0")
    assert q8.throughput.validity == ("partial",)
    assert not q8.rankable
