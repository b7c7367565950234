"""Two runs side by side: verdicts, what they rest on, and what is not compared."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bench.analysis.candidates import WATERMARK
from bench.analysis.compare import Change, SideBySide, compare
from bench.analysis.config import MarginConfig
from bench.analysis.estimate import Verdict
from bench.analysis.load import load_results
from bench.report.compare_page import render_markdown
from tests.unit.report.fake_runs import MACHINE, VARIANTS, FakeRun, edit_summary, quickstart, write_json


def sides(before: Path, after: Path, **margins: float) -> SideBySide:
    return compare(load_results([before]), load_results([after]), MarginConfig(**margins))


def found(side: SideBySide, source: str, metric: str, cell: str | None = None) -> Change:
    (change,) = (
        each for each in side.changes if (each.source, each.metric) == (source, metric) and cell in {None, each.cell}
    )
    return change


def one(folder: Path, variant: str = "Q8_0", **changes: Any) -> tuple[FakeRun, Path]:
    run = FakeRun(folder)
    return run, run.cell(variant, **changes)


def test_a_run_against_itself_has_nothing_better_or_worse(tmp_path: Path) -> None:
    run = quickstart(tmp_path / "run")
    side = sides(run, run)
    assert side.count(Verdict.WORSE) == side.count(Verdict.BETTER) == 0
    assert side.count(Verdict.EQUIVALENT) > 10
    assert all(each.change is None or each.change.value == 0 for each in side.changes)
    assert not side.not_comparable
    assert not side.only_before


def test_slower_is_worse_both_ways_and_by_how_much(tmp_path: Path) -> None:
    before, _ = one(tmp_path / "a")
    after, _ = one(tmp_path / "b", figures={**VARIANTS["Q8_0"], "itl_ms": VARIANTS["Q8_0"]["itl_ms"] * 1.25})
    side = sides(before.directory, after.directory)
    throughput, gap = found(side, "c1", "output_throughput"), found(side, "c1", "itl")
    assert throughput.verdict is gap.verdict is Verdict.WORSE
    assert throughput.before is not None
    assert throughput.after is not None
    assert throughput.change is not None
    assert throughput.change.value == pytest.approx(throughput.after.value / throughput.before.value - 1)
    assert gap.change is not None
    assert gap.change.value == pytest.approx(0.25, abs=0.01)
    assert "batch means" in throughput.basis
    back = sides(after.directory, before.directory)
    assert found(back, "c1", "output_throughput").verdict is Verdict.BETTER


def test_a_longer_tail_is_worse_where_the_median_is_the_same(tmp_path: Path) -> None:
    before, _ = one(tmp_path / "a")
    after, folder = one(tmp_path / "b")

    def lengthen(summary: dict[str, dict[str, dict[str, Any]]]) -> None:
        ttft, itl = summary["metrics"]["ttft"], summary["metrics"]["itl"]
        ttft["p99"] *= 1.5
        ttft["intervals"]["p99"] = [1.5 * end for end in ttft["intervals"]["p99"]]
        del itl["intervals"]["p99"]
        summary["metrics"]["e2e_latency"]["intervals"] = {}

    edit_summary(folder, "c1", lengthen)
    side = sides(before.directory, after.directory)
    median, tail = found(side, "c1", "ttft"), found(side, "c1", "ttft p99")
    assert (median.verdict, tail.verdict) == (Verdict.EQUIVALENT, Verdict.WORSE)
    assert tail.change is not None
    assert tail.change.value == pytest.approx(0.5)
    # Half widths of 3 % and 4 % of each side, of a ratio of 1.5.
    assert tail.change.lo == pytest.approx(0.5 - 1.5 * np.hypot(0.03, 0.04), abs=0.01)
    assert found(side, "c1", "itl p95").verdict is not Verdict.WORSE, "p99 cannot be judged there"
    assert not any(each.source == "c1" and "e2e_latency p" in each.metric for each in side.changes)
    assert found(side, "c4", "e2e_latency p99").verdict is not Verdict.WORSE


def test_what_may_not_be_believed_is_inconclusive(tmp_path: Path) -> None:
    before, _ = one(tmp_path / "a")
    after, folder = one(tmp_path / "b")

    def spoil(summary: dict[str, dict[str, dict[str, object]]]) -> None:
        summary["metrics"]["ttft"] |= {"validity": ["client_delay"], "p50": 1.0}
        summary["metrics"]["itl"] |= {"lo": None, "hi": None}

    edit_summary(folder, "c1", spoil)
    side = sides(before.directory, after.directory)
    assert found(side, "c1", "ttft").reason == "B's may not be believed: client_delay"
    assert found(side, "c1", "itl").reason == "there is no interval to judge by"
    assert found(side, "c1", "ttft").verdict is found(side, "c1", "itl").verdict is Verdict.INCONCLUSIVE


def repeats(folder: Path, factors: tuple[float, ...]) -> Path:
    run = FakeRun(folder)
    for number, factor in enumerate(factors):
        cell = run.cell("Q8_0", key=f"{number:016x}")
        recorded = json.loads((cell / "cell.json").read_text(encoding="utf-8"))
        write_json(cell / "cell.json", {**recorded, "overrides": ["scheme.type=Q8_0", f"repeat={number}"]})

        def scale(summary: dict[str, Any], factor: float = factor) -> None:
            summary["metrics"]["output_throughput"] |= {"value": 100 * factor, "lo": 99 * factor, "hi": 101 * factor}

        edit_summary(cell, "c1", scale)
    return run.directory


def test_repeats_give_the_interval_where_there_are_any(tmp_path: Path) -> None:
    before, after = repeats(tmp_path / "a", (1.0, 1.1, 0.9)), repeats(tmp_path / "b", (0.95, 1.05, 0.85))
    change = found(sides(before, after), "c1", "output_throughput")
    assert change.before is not None
    # Mean 100, standard deviation 10, Student's t of 2 degrees of freedom 4.3027, over the root of 3.
    assert change.before.value == pytest.approx(100)
    assert change.before.hi == pytest.approx(100 + 4.3027 * 10 / 3**0.5, rel=1e-4)
    assert "3 and 3 repeats" in change.basis
    assert change.verdict is Verdict.INCONCLUSIVE  # a single run each would have said worse


def write_items(cell: Path, **columns: Any) -> None:
    (folder,) = cell.glob("tasks/divergence-*")
    pq.write_table(pa.table({name: pa.array(values) for name, values in columns.items()}), folder / "items.parquet")


def test_windows_of_the_same_text_are_paired(tmp_path: Path) -> None:
    before, first = one(tmp_path / "a")
    after, second = one(tmp_path / "b")
    draw = np.random.default_rng(3)
    windows = np.repeat(np.arange(16), 32)
    hard = np.repeat(draw.normal(3, 1, 16), 32)  # texts differ far more than variants do
    ids = np.arange(len(windows))
    write_items(first, window=windows, token_id=ids, nll=hard)
    write_items(second, window=windows, token_id=ids, nll=hard + 0.05 + np.repeat(draw.normal(0, 0.01, 16), 32))
    change = found(sides(before.directory, after.directory), "divergence", "perplexity")
    assert change.change is not None
    assert change.change.value == pytest.approx(np.expm1(0.05), abs=0.01)
    assert change.verdict is Verdict.WORSE
    assert "paired over 16 windows" in change.basis
    write_items(second, window=windows, token_id=ids + 1, nll=hard + 0.05)
    apart = found(sides(before.directory, after.directory), "divergence", "perplexity")
    assert apart.basis == "independent"
    assert apart.verdict is Verdict.INCONCLUSIVE


def test_answers_to_the_same_questions_are_paired(tmp_path: Path) -> None:
    before, first = one(tmp_path / "a")
    after, second = one(tmp_path / "b")
    right = np.arange(200) % 2 == 0
    worse = right.copy()
    worse[:40] = False
    write_items(first, item=np.arange(200), correct=right)
    write_items(second, item=np.arange(200), correct=worse)
    change = found(sides(before.directory, after.directory), "divergence", "accuracy")
    assert change.change is not None
    assert change.change.value == pytest.approx(-0.1)
    assert change.absolute
    assert change.verdict is Verdict.WORSE
    assert "0 became right and 20 wrong" in change.basis


def test_documents_of_lm_eval_are_paired_by_task_and_filter(tmp_path: Path) -> None:
    before, first = one(tmp_path / "a")
    after, second = one(tmp_path / "b")
    same = {
        "task": ["arc"] * 100 + ["gsm8k"] * 60,
        "filter": ["none"] * 100 + ["flexible-extract"] * 30 + ["strict-match"] * 30,
        "doc_hash": [str(number) for number in range(160)],
    }
    unknown = [None]
    write_items(first, **same, acc=[1.0] * 100 + unknown * 60, exact_match=unknown * 100 + [1.0] * 30 + [0.5] * 30)
    write_items(
        second,
        **same,
        acc=[0.0] * 12 + [1.0] * 88 + unknown * 60,
        exact_match=unknown * 100 + [1.0] * 29 + [0.0] + [0.5] * 30,
    )
    side = sides(before.directory, after.directory)
    lost = found(side, "divergence", "arc_acc")
    assert lost.change is not None
    assert lost.change.value == pytest.approx(-0.12)
    assert lost.verdict is Verdict.WORSE
    assert "0 became right and 12 wrong" in lost.basis
    assert found(side, "divergence", "gsm8k_exact_match_flexible_extract").verdict is Verdict.INCONCLUSIVE
    assert not any("strict" in change.metric for change in side.changes), "a half is neither right nor wrong"


def test_ratings_are_paired_by_question(tmp_path: Path) -> None:
    before, first = one(tmp_path / "a")
    after, second = one(tmp_path / "b")
    draw = np.random.default_rng(5)
    same = {"question": [str(each) for each in np.repeat(np.arange(40), 2)], "turn": [1, 2] * 40}
    ratings = np.repeat(draw.integers(3, 8, 40), 2).astype(float)  # what a question earns, both turns alike
    lost = np.repeat(np.where(np.arange(40) % 2, 1.0, 0.0), 2)
    unread = [None, *(ratings - lost)[1:]]
    asked = [[f"{number}-1", f"{number}-2 after {answer}"] for answer in "ab" for number in range(40)]
    write_items(first, **same, rating=ratings, prompt_digest=list(itertools.chain(*asked[:40])))
    write_items(second, **same, rating=unread, prompt_digest=list(itertools.chain(*asked[40:])))
    change = found(sides(before.directory, after.directory), "divergence", "mt_bench_score")
    assert change.change is not None
    assert change.change.value == pytest.approx(-20 / 39)
    # 39 questions of which 20 lost a point, the standard deviation of what they lost, Student's t of 38.
    half = 2.0244 * np.std([1.0] * 20 + [0.0] * 19, ddof=1) / 39**0.5
    assert change.change.lo == pytest.approx(-20 / 39 - half, rel=1e-4)
    assert (change.unit, change.verdict, change.absolute) == ("points", Verdict.WORSE, True)
    assert "paired over 39 questions" in change.basis
    assert "−0.51 |" in render_markdown(sides(before.directory, after.directory))


def test_samples_of_a_problem_are_one_draw(tmp_path: Path) -> None:
    before, first = one(tmp_path / "a")
    after, second = one(tmp_path / "b")
    problem, sample = [f"p{each}" for each in np.repeat(np.arange(6), 10)], list(range(10)) * 6
    write_items(first, problem=problem, sample=sample, correct=[True] * 60)
    write_items(second, problem=problem, sample=sample, correct=[False] * 10 + [True] * 50)
    change = found(sides(before.directory, after.directory), "divergence", "pass_at_1")
    assert change.change is not None
    assert change.change.value == pytest.approx(-1 / 6)
    assert change.verdict is Verdict.INCONCLUSIVE, "one problem of six, however often it was asked"
    write_items(first, problem=problem[::10], sample=[0] * 6, correct=[True] * 6)
    write_items(second, problem=problem[::10], sample=[0] * 6, correct=[False] + [True] * 5)
    change = found(sides(before.directory, after.directory), "divergence", "accuracy")
    assert "0 became right and 1 wrong" in change.basis


def test_both_extractions_of_gsm8k_are_paired(tmp_path: Path) -> None:
    before, first = one(tmp_path / "a")
    after, second = one(tmp_path / "b")
    same = {"prompt_digest": [str(each) for each in range(50)]}
    write_items(first, **same, strict_correct=[True] * 50, flexible_correct=[True] * 50)
    write_items(second, **same, strict_correct=[False] * 9 + [True] * 41, flexible_correct=[None] + [True] * 49)
    side = sides(before.directory, after.directory)
    strict, flexible = (found(side, "divergence", name) for name in ("exact_match", "exact_match_flexible"))
    assert "0 became right and 9 wrong" in strict.basis
    assert strict.verdict is Verdict.WORSE
    assert "paired over 49 questions, 0 became right and 0 wrong" in flexible.basis


def test_another_scenario_spoils_that_load_only(tmp_path: Path) -> None:
    before, _ = one(tmp_path / "a")
    after, folder = one(tmp_path / "b", machine={**MACHINE, "cpu": "Another CPU"})
    path = folder / "cell.json"
    recorded = json.loads(path.read_text(encoding="utf-8"))
    recorded["config"]["scenarios"]["c4"]["concurrency"] = 5
    write_json(path, recorded)
    side = sides(before.directory, after.directory)
    spoilt, kept = found(side, "c4", "output_throughput"), found(side, "c1", "output_throughput")
    assert (spoilt.compared, kept.compared) == (False, True)
    assert "differ in the scenario of c4" in spoilt.reason
    assert spoilt.change is None
    assert any("different machines" in note for note in side.notes)


def test_another_model_leaves_nothing_compared(tmp_path: Path) -> None:
    before, _ = one(tmp_path / "a")
    after, folder = one(tmp_path / "b")
    path = folder / "cell.json"
    path.write_text(path.read_text(encoding="utf-8").replace("sha256:4f1c", "sha256:beef"), encoding="utf-8")
    side = sides(before.directory, after.directory)
    assert side.changes
    assert not any(each.compared for each in side.changes)
    assert "differ in the model revision" in side.not_comparable[0]


def test_cells_without_a_counterpart_are_named(tmp_path: Path) -> None:
    before = quickstart(tmp_path / "a", ("F16", "Q8_0", "Q4_0"))
    after = quickstart(tmp_path / "b", ("F16", "Q8_0", "Q4_K_M"))
    side = sides(before, after)
    assert (side.only_before, side.only_after) == (("Q4_0",), ("Q4_K_M",))
    assert {each.cell for each in side.changes} == {"F16", "Q8_0"}
    single = sides(quickstart(tmp_path / "c", ("F16",)), quickstart(tmp_path / "d", ("Q8_0",)))
    assert found(single, "files", "size_bytes").verdict is Verdict.BETTER
    assert single.notes == (WATERMARK,)
    assert not side.notes


def test_the_same_variants_under_several_settings_pair_by_their_settings(tmp_path: Path) -> None:
    folders = []
    for name in ("a", "b"):
        run = FakeRun(tmp_path / name)
        for threads, itl in ((1, 20.0), (2, 10.0)):
            cell = run.cell("Q8_0", key=f"{threads:016x}", figures={**VARIANTS["Q8_0"], "itl_ms": itl})
            recorded = json.loads((cell / "cell.json").read_text(encoding="utf-8"))
            write_json(cell / "cell.json", {**recorded, "overrides": [f"engine.threads={threads}"]})
        folders.append(run.directory)
    side = sides(*folders)
    assert side.count(Verdict.WORSE) == side.count(Verdict.BETTER) == 0
    assert len({each.cell for each in side.changes}) == 2
