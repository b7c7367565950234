"""Constraints and priorities change the answer, and say so; the rule of thumb stands beside it, labelled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.analysis.candidates import Analysis, analyse
from bench.analysis.config import ConstraintConfig, PriceConfig, Priority, ReportConfig
from bench.analysis.load import load_results
from bench.analysis.prior import family_of, prior_of
from bench.analysis.recommend import Answer, Certainty, recommend
from bench.load.slo import SloConfig
from tests.unit.report.fake_runs import MACHINE, VARIANTS, FakeRun, edit_summary, quickstart, write_json

PRICE = PriceConfig(name="a machine", per_hour=0.1, date="2026-11-01", source="an invoice")


def answered(directory: Path, **changes: Any) -> tuple[Analysis, Answer]:
    analysis = analyse(load_results([directory]), ReportConfig(price=PRICE, **changes))
    return analysis, recommend(analysis)


def chosen(answer: Answer) -> str | None:
    return answer.choice.cell.label if answer.choice is not None else None


def with_memory(run: FakeRun, variant: str, peak_rss_bytes: int) -> None:
    folder = run.cell(variant)
    recorded = json.loads((folder / "cell.json").read_text(encoding="utf-8"))
    recorded["engine"]["peak_rss_bytes"] = peak_rss_bytes
    write_json(folder / "cell.json", recorded)


def test_what_does_not_fit_is_put_aside_with_the_reason(tmp_path: Path) -> None:
    run = FakeRun(tmp_path / "run")
    run.cell("F16")
    with_memory(run, "Q8_0", 3 << 30)
    with_memory(run, "Q4_K_M", 1 << 30)
    _, answer = answered(run.directory, constraints=ConstraintConfig(memory_gib=2.0), max_perplexity_increase=0.1)
    assert chosen(answer) == "Q4_K_M"
    assert answer.put_aside == ("Put aside: Q8_0 does not fit 2 GiB: serving it took 3 GiB.",)
    assert "Q4_K_M fits 2 GiB: serving it took 1 GiB." in answer.why


def test_a_quality_floor_and_hardware_that_are_not_known_to_hold_leave_no_answer(tmp_path: Path) -> None:
    directory = quickstart(tmp_path / "run")
    _, answer = answered(directory, constraints=ConstraintConfig(min_accuracy=0.5))
    assert answer.choice is None
    assert answer.certainty is Certainty.NONE
    assert answer.headline == "No recommendation: no variant is known to hold every constraint."
    assert "F16 has no task with right answers, so the floor cannot be checked" in answer.put_aside[0]
    _, answer = answered(directory, constraints=ConstraintConfig(gpu="H100"))
    assert chosen(answer) is None
    assert "F16 was measured on Example CPU @ 2.5GHz, 2 cores, not on H100" in answer.put_aside[0]


def test_the_floor_is_about_answers_that_may_be_believed(tmp_path: Path) -> None:
    run = FakeRun(tmp_path / "run")
    for variant, share in (("F16", 0.7), ("Q8_0", 0.45)):
        figure = {"unit": "ratio", "value": share, "lo": share - 0.1, "hi": share + 0.1, "validity": []}
        folder = run.cell(variant)
        edit_summary(folder, "divergence", lambda summary, f=figure: summary["metrics"].update(accuracy_micro=f))
    _, answer = answered(run.directory, constraints=ConstraintConfig(min_accuracy=0.5))
    assert chosen(answer) == "F16"
    assert answer.put_aside == ("Put aside: Q8_0 answers 45 % of divergence right, the floor is 50 %.",)


def test_who_does_not_hold_the_objective_is_put_aside(tmp_path: Path) -> None:
    run = FakeRun(tmp_path / "run")
    run.cell("F16", figures={**VARIANTS["F16"], "itl_ms": 60.0})
    run.cell("Q8_0")
    _, answer = answered(run.directory, slo=SloConfig(itl_ms=20.0, percentile=50))
    assert chosen(answer) == "Q8_0"
    assert answer.put_aside[0].startswith("Put aside: F16 does not hold ITL p50 ≤ 20 ms")
    assert any("Q8_0 holds ITL p50 ≤ 20 ms, 99 % succeed" in line for line in answer.why)
    assert "at the SLO" in answer.costs


@pytest.mark.parametrize(
    ("priority", "winner"),
    [
        (Priority.cost, "Q4_0"),
        (Priority.throughput, "Q4_0"),
        (Priority.latency, "Q4_0"),
        (Priority.memory, "Q4_K_M"),
        (Priority.quality, "Q8_0"),
    ],
)
def test_the_priority_decides(tmp_path: Path, priority: Priority, winner: str) -> None:
    run = FakeRun(tmp_path / "run")
    run.cell("F16")
    with_memory(run, "Q8_0", 3 << 28)
    with_memory(run, "Q4_K_M", 1 << 28)
    with_memory(run, "Q4_0", 3 << 28)
    _, answer = answered(run.directory, priority=priority, max_perplexity_increase=0.3)
    # By quality Q8_0 is as good as the baseline within the margin, and smaller.
    assert chosen(answer) == winner


@pytest.mark.parametrize(
    ("gpu", "memory", "quality", "families"),
    [
        ("NVIDIA H100 80GB HBM3", 80, False, ("FP8",)),
        ("NVIDIA H100 PCIe", 80, True, ("FP8",)),
        ("NVIDIA A100-SXM4-80GB", 79.1, True, ("FP16",)),
        ("NVIDIA A100-SXM4-80GB", 79.1, False, ("AWQ",)),
        ("NVIDIA A100-SXM4-40GB", 39.5, False, ("8-bit (EETQ, INT8)", "AWQ")),
        ("NVIDIA GeForce RTX 4090", 23.9, True, ("AWQ",)),
        ("Tesla T4", 15, False, ("GPTQ",)),
        ("NVIDIA GeForce GTX 1060", 6, False, ("GGUF Q4_K_M",)),
        ("", None, True, ("GGUF Q4_K_M",)),
    ],
)
def test_the_rule_of_thumb(gpu: str, memory: float | None, quality: bool, families: tuple[str, ...]) -> None:
    prior = prior_of(gpu, memory, quality_first=quality)
    assert prior.families == families
    assert "not measured" in prior.said


@pytest.mark.parametrize(
    ("names", "family"),
    [
        (["AWQ W4A16 g64", "awq"], "AWQ"),
        (["GPTQ W8A16", "gptq"], "GPTQ"),
        (["FP8 dynamic", "fp8"], "FP8"),
        (["INT8 W8A8 RTN", "int8"], "8-bit (EETQ, INT8)"),
        (["BF16", "unquantized", "bf16"], "FP16"),
        (["Q4_K_M", "gguf", "Q4_K_M"], "GGUF Q4_K_M"),
        (["Q8_0", "gguf", "Q8_0"], "Q8_0"),
    ],
)
def test_families(names: list[str], family: str) -> None:
    assert family_of(names) == family


def test_evidence_that_speaks_against_the_rule_of_thumb_is_shown(tmp_path: Path) -> None:
    _, answer = answered(quickstart(tmp_path / "run"))
    assert answer.prior is not None
    assert answer.prior.families == ("GGUF Q4_K_M",)
    assert "measured here, Q8_0 does better: Q4_K_M costs" in answer.disagreement
    _, agreed = answered(tmp_path / "run", max_perplexity_increase=0.055)
    assert chosen(agreed) == "Q4_K_M"
    assert agreed.disagreement == ""
    run = FakeRun(tmp_path / "gpu")
    card = {**MACHINE, "gpus": [{"name": "NVIDIA L4", "memory.total": "23034 MiB"}]}
    for variant in ("F16", "Q8_0"):
        run.cell(variant, machine=card)
    _, other = answered(run.directory)
    assert other.prior is not None
    assert other.prior.families == ("AWQ",)
    assert other.disagreement.endswith("which was not measured here.")
    unreached = FakeRun(tmp_path / "unreached")
    unreached.cell("F16")
    unreached.cell("Q8_0")
    unreached.plan("Q4_K_M", status="planned")
    _, partly = answered(unreached.directory, constraints=ConstraintConfig(memory_gib=1.0))
    assert partly.disagreement.endswith("which was not measured here.")
    assert not any("Q4_K_M" in line for line in partly.put_aside)
