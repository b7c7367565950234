"""Evaluation of variants that were calibrated on the evaluation text, on some of it, and on none of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.base.progress import Progress
from bench.base.validity import Reason
from bench.quality.config import DivergenceConfig, MultipleChoiceConfig, PerplexityConfig, TaskConfig
from bench.quality.evaluate import evaluate
from bench.quality.job import Outcome, value_metric
from bench.quality.mmlu import load_subjects, prompt_group
from bench.quality.overlap import checked
from quantize.sketch import CalibrationText, sketch_of
from tests.support import CHECKOUT
from tests.unit.quality.scorers import BASELINE, VARIANT, FormulaScorer

LABEL = "Q4_0 imatrix"
SHIPPED = (CHECKOUT / "bench" / "quality" / "texts" / "default.txt").read_text(encoding="utf-8")
#: In the scorer of these tests every byte is a token.
USED = SHIPPED.encode()[: 64 * 50].decode()
TASKS = {
    "perplexity": PerplexityConfig(context=64, windows=50),
    "divergence": DivergenceConfig(context=64, windows=50, noise_floor=True),
    "multiple_choice": MultipleChoiceConfig(shots=2),
}


def calibrated(*texts: str) -> CalibrationText:
    return CalibrationText(label=LABEL, sketch=sketch_of(texts))


def run(task: TaskConfig, out: Path, calibration: CalibrationText | None, baseline: bool = True) -> dict[str, Any]:
    summary = evaluate(
        task,
        variant=VARIANT,
        baseline=BASELINE if baseline else None,
        scorer=FormulaScorer(),
        out=out,
        progress=Progress(),
        reasons=[Reason.NOT_SCORED_BY_SERVER],
        calibration=calibration,
    )
    assert json.loads((out / "summary.json").read_text()) == summary
    return summary


def questions() -> list[str]:
    return [ending for subject in load_subjects(MultipleChoiceConfig()) for ending in prompt_group(subject).endings]


@pytest.mark.parametrize("name", TASKS)
def test_a_variant_calibrated_on_the_evaluation_data_is_flagged(name: str, tmp_path: Path) -> None:
    text = calibrated(*questions()) if name == "multiple_choice" else calibrated("Something before.", SHIPPED)
    plain, flagged = run(TASKS[name], tmp_path / "1", None), run(TASKS[name], tmp_path / "2", text)
    # The last window cuts the last word in two.
    assert flagged["calibration_overlap"]["share"] == pytest.approx(1.0, abs=0.002)
    assert flagged["calibration_overlap"]["sampled_every"] == 1
    assert flagged["calibration_overlap"]["ngrams"] > 400
    assert flagged["validity"] == ["calibration_overlap", "not_scored_by_server"]
    for tag, metric in flagged["metrics"].items():
        assert metric["validity"] == ["not_scored_by_server", "calibration_overlap"]
        assert {**metric, "validity": []} == {**plain["metrics"][tag], "validity": []}, "the figure stays as it is"
    assert flagged["notes"][-1].startswith(f"calibration overlap: {LABEL} was calibrated on ")
    assert flagged["notes"][:-1] == plain.get("notes", [])
    assert "calibration_overlap" not in plain


@pytest.mark.parametrize("name", TASKS)
def test_a_variant_calibrated_on_something_else_is_not(name: str, tmp_path: Path) -> None:
    plain = run(TASKS[name], tmp_path / "1", None)
    found = run(TASKS[name], tmp_path / "2", calibrated("Nothing of it is in here. " * 40))
    overlap = found.pop("calibration_overlap")
    assert (overlap["share"], overlap["sampled_every"]) == (0.0, 1)
    assert found == plain


def test_only_the_text_in_the_windows_counts(tmp_path: Path) -> None:
    rest = SHIPPED.encode()[64 * 50 :].decode()
    assert run(TASKS["perplexity"], tmp_path / "1", calibrated(rest))["calibration_overlap"]["share"] == 0.0
    assert run(TASKS["perplexity"], tmp_path / "2", calibrated(USED))["calibration_overlap"]["share"] == 1.0


def test_a_share_of_one_percent_is_the_bound(tmp_path: Path) -> None:
    words = USED.split()
    runs = len(words) - 7
    fewest = -(-runs // 100)
    for extra, expected in ((0, True), (-1, False)):
        planted = " ".join(words[: fewest + 7 + extra])
        summary = run(TASKS["perplexity"], tmp_path / str(extra), calibrated("Before it.", planted))
        assert ("calibration_overlap" in summary["validity"]) is expected
        assert summary["calibration_overlap"]["share"] == pytest.approx((fewest + extra) / runs, rel=0.01)
        assert ("notes" in summary) is expected


def test_case_and_line_ends_do_not_hide_it(tmp_path: Path) -> None:
    summary = run(TASKS["perplexity"], tmp_path, calibrated("\r\n".join(USED.upper().split())))
    assert summary["calibration_overlap"]["share"] == 1.0


def test_a_text_that_is_too_short_to_tell_is_not_flagged(tmp_path: Path) -> None:
    text = tmp_path / "short.txt"
    text.write_text("Ünïcödé wörds, öf whïch thërë ärë sïx", encoding="utf-8")
    task = PerplexityConfig(text=str(text), context=8, windows=4)
    summary = run(task, tmp_path / "out", calibrated(text.read_text(encoding="utf-8")))
    assert summary["calibration_overlap"] == {"share": None, "ngrams": 0, "sampled_every": 1}
    assert summary["validity"] == ["not_scored_by_server"]


def test_characters_of_any_width_are_cut_where_the_windows_end(tmp_path: Path) -> None:
    text = tmp_path / "wide.txt"
    text.write_text(" ".join(f"слово{number} 漢{number} 𝄞{number}" for number in range(200)), encoding="utf-8")
    for context in (101, 102, 103, 104):
        task = PerplexityConfig(text=str(text), context=context, windows=3)
        summary = run(task, tmp_path / str(context), calibrated(text.read_text(encoding="utf-8")))
        overlap = summary["calibration_overlap"]
        # A word that the last window cuts in two is another word.
        assert overlap["share"] >= 1 - 1 / overlap["ngrams"]
        assert "calibration_overlap" in summary["validity"]


def test_without_a_sketch_nothing_is_told(tmp_path: Path) -> None:
    summary = run(TASKS["perplexity"], tmp_path, CalibrationText(label=LABEL, sketch=None))
    assert summary["calibration_overlap"] == {"share": None, "ngrams": None, "sampled_every": None}
    assert summary["validity"] == ["not_scored_by_server"]


def test_a_task_without_figures_or_without_a_text_is_left_as_it_is(tmp_path: Path) -> None:
    summary = run(TASKS["divergence"], tmp_path, calibrated(SHIPPED), baseline=False)
    assert "calibration_overlap" not in summary
    outcome = Outcome(metrics={"x": value_metric("1", 1.0, None, [])}, items={}, details={}, errors={})
    assert checked(outcome, calibrated(SHIPPED)) is outcome


def test_shipped_calibration_texts_hold_nothing_of_shipped_evaluation_texts() -> None:
    texts = sorted((CHECKOUT / "quantize" / "texts").glob("*.txt"))
    assert texts
    calibration = sketch_of(file.read_text(encoding="utf-8") for file in texts)
    for evaluation, least in (([SHIPPED], 4000), (questions(), 500)):
        found = calibration.overlap(evaluation)
        assert found.share == 0.0
        assert found.runs > least
