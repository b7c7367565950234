"""Multiple choice with a scorer whose answers are known: items, figures, what is remembered, what is missing."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from bench.base.errors import UsageError
from bench.base.progress import Progress
from bench.base.validity import Reason
from bench.engines.scoring import ContinuationScores, ScorableModel, Scorer
from bench.quality.config import MultipleChoiceConfig
from bench.quality.evaluate import evaluate
from bench.quality.intervals import macro_interval, mcnemar, paired_change_interval, share_interval
from bench.quality.multiple_choice import accuracy_metrics, graded
from bench.toolchains.worker import WorkerError
from tests.unit.quality.scorers import BASELINE, VARIANT, FormulaScorer


def run(
    scorer: Scorer,
    out: Path,
    *,
    task: MultipleChoiceConfig | None = None,
    variant: ScorableModel = VARIANT,
    baseline: ScorableModel | None = BASELINE,
    cache: Path | None = None,
) -> dict[str, Any]:
    return evaluate(
        task or MultipleChoiceConfig(),
        variant=variant,
        baseline=baseline,
        scorer=scorer,
        out=out,
        progress=Progress(),
        reasons=[Reason.NOT_SCORED_BY_SERVER],
        cache=cache,
    )


def test_items_and_summary(tmp_path: Path) -> None:
    scorer = FormulaScorer(picks={VARIANT.key: "0", BASELINE.key: "01"})
    summary = run(scorer, tmp_path)
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    items = pq.read_table(tmp_path / "items.parquet").to_pandas()
    assert len(items) == summary["items"] == 60
    assert items["question"].tolist() == list(range(1, 11)) * 6
    assert items["subject"].tolist()[::10] == ["biology", "computing", "geography", "history", "mathematics", "physics"]
    assert set(items["picked"]) == {"A"}
    assert items["base_picked"].tolist() == ["A", "B"] * 30
    assert (items["correct"] == (items["answer"] == "A")).all()
    assert items["logprob_A"].to_numpy() == pytest.approx(math.log(0.7))
    assert items["logprob_D"].to_numpy() == pytest.approx(math.log(0.1))
    metrics = summary["metrics"]
    micro = metrics["accuracy_micro"]
    assert (micro["value"], micro["unit"], micro["n"]) == (15 / 60, "ratio", 60)
    assert (micro["lo"], micro["hi"]) == share_interval(15, 60)
    assert metrics["accuracy_macro"]["value"] == pytest.approx(15 / 60)
    gained = int((items["correct"] & ~items["base_correct"]).sum())
    lost = int((~items["correct"] & items["base_correct"]).sum())
    assert gained > 0
    assert lost > 0
    assert metrics["wrong_to_right"]["value"] == gained
    assert metrics["right_to_wrong"]["value"] == lost
    assert metrics["base_accuracy_micro"]["value"] == items["base_correct"].mean()
    assert metrics["accuracy_change"]["value"] == pytest.approx((gained - lost) / 60)
    assert metrics["mcnemar_p"]["value"] == mcnemar(gained, lost)
    assert {tuple(metric["validity"]) for metric in metrics.values()} == {("not_scored_by_server",)}
    biology = summary["subjects"][0]
    assert biology["subject"] == "biology"
    assert biology["questions"] == 10
    assert biology["correct"] == int(items["correct"][:10].sum())
    assert summary["picked"] == {"A": 60, "B": 0, "C": 0, "D": 0}
    assert summary["protocol"]["shots"] == 5
    assert summary["notes"][0].startswith("plumbing only: 60 shipped questions tell an accuracy to about ±12 points")


def test_only_the_shipped_set_is_called_plumbing(tmp_path: Path) -> None:
    for split in ("test", "dev"):
        (tmp_path / "data" / split).mkdir(parents=True)
        (tmp_path / "data" / split / f"x_{split}.csv").write_text("Why?,a,b,c,d,B\n" * 5)
    task = MultipleChoiceConfig(data=str(tmp_path / "data"))
    summary = run(FormulaScorer(picks={VARIANT.key: "1"}), tmp_path / "out", task=task)
    assert summary["notes"] == []
    assert summary["metrics"]["accuracy_micro"]["value"] == 1.0
    assert str(tmp_path) not in json.dumps(summary)


def test_what_was_answered_is_remembered(tmp_path: Path) -> None:
    scorer = FormulaScorer(picks={VARIANT.key: "2", BASELINE.key: "01"})
    cache = tmp_path / "cache"
    first = run(scorer, tmp_path / "1", cache=cache)
    again = run(scorer, tmp_path / "2", cache=cache)
    assert [key for key, _ in scorer.asked] == [VARIANT.key, BASELINE.key]
    assert again["metrics"] == first["metrics"]
    fewer = MultipleChoiceConfig(limit=2)
    run(scorer, tmp_path / "3", cache=cache, task=fewer)
    assert [key for key, _ in scorer.asked][2:] == [VARIANT.key, BASELINE.key], "other questions are asked anew"
    for kept in (cache / "answers").iterdir():
        kept.write_text("{ damaged")
    assert run(scorer, tmp_path / "4", cache=cache)["metrics"] == first["metrics"]
    assert len(scorer.asked) == 6


def test_the_baseline_itself_is_asked_once_and_for_all(tmp_path: Path) -> None:
    scorer = FormulaScorer(picks={VARIANT.key: "2", BASELINE.key: "01"})
    summary = run(scorer, tmp_path / "1", variant=BASELINE, cache=tmp_path / "cache")
    assert len(scorer.asked) == 1
    assert summary["metrics"]["accuracy_change"]["value"] == 0.0
    assert summary["metrics"]["accuracy_change"]["lo"] is None, "nothing was measured that could have an interval"
    assert summary["metrics"]["mcnemar_p"]["value"] == 1.0
    run(scorer, tmp_path / "2", cache=tmp_path / "cache")
    assert [key for key, _ in scorer.asked] == [BASELINE.key, VARIANT.key]


def test_without_a_baseline(tmp_path: Path) -> None:
    summary = run(FormulaScorer(), tmp_path / "1", baseline=None)
    assert summary["metrics"]["accuracy_micro"]["value"] == 0.25
    assert summary["metrics"]["mcnemar_p"]["value"] is None
    assert summary["metrics"]["mcnemar_p"]["validity"] == ["not_scored_by_server", "no_baseline"]
    alone = MultipleChoiceConfig(compare=False)
    assert not alone.needs_baseline
    scorer = FormulaScorer()
    assert set(run(scorer, tmp_path / "2", task=alone)["metrics"]) == {"accuracy_micro", "accuracy_macro"}
    assert [key for key, _ in scorer.asked] == [VARIANT.key]
    assert "base_picked" not in pq.read_table(tmp_path / "2" / "items.parquet").column_names


def test_logits_that_are_not_finite_are_missing_and_never_remembered(tmp_path: Path) -> None:
    summary = run(FormulaScorer(broken=True), tmp_path / "out", cache=tmp_path / "cache")
    assert summary["errors"] == {"non_finite": 1}
    for metric in summary["metrics"].values():
        assert metric["value"] is None
        assert metric["lo"] is None
        assert "non_finite" in metric["validity"]
    items = pq.read_table(tmp_path / "out" / "items.parquet")
    for column in ("picked", "correct", "logprob_A", "base_picked", "base_correct"):
        assert items[column].null_count == 1
    assert summary["subjects"][0]["accuracy"] is None
    assert summary["subjects"][1]["accuracy"] is not None
    assert not (tmp_path / "cache").exists()


class Refusing(FormulaScorer):
    kind = "not_one_token"

    def continuations(self, *_: object, **__: object) -> ContinuationScores:
        raise WorkerError(self.kind, "' A' is not one token after a prompt in this vocabulary")


def test_letters_that_are_no_tokens_are_a_usage_error_and_a_crash_is_not(tmp_path: Path) -> None:
    scorer = Refusing()
    with pytest.raises(UsageError, match=r"Q8_0: ' A' is not one token .*task\.method=likelihood"):
        run(scorer, tmp_path)
    scorer.kind = "crashed"
    with pytest.raises(WorkerError):
        run(scorer, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_first_of_equal_letters_is_picked() -> None:
    rows = np.log(np.array([[0.2, 0.4, 0.4, 0.0001], [0.25] * 4, [0.1, 0.1, 0.1, 0.7]]))
    answers = graded(rows, np.array([1, 0, 0]))
    assert answers.picked.tolist() == [1, 0, 3]
    assert answers.correct.tolist() == [True, True, False]


def test_macro_and_micro_by_hand() -> None:
    correct = np.array([True, True, False, True] + [False] * 7 + [True])
    names = np.array(["a"] * 4 + ["b"] * 8)
    metrics = accuracy_metrics(correct, names, [])
    assert metrics["accuracy_micro"]["value"] == pytest.approx(4 / 12)
    assert metrics["accuracy_macro"]["value"] == pytest.approx((3 / 4 + 1 / 8) / 2)


def test_macro_interval_is_wilsons_for_equal_groups_and_wider_for_unequal_ones() -> None:
    assert macro_interval([0.5, 0.7], [30, 30]) == pytest.approx(share_interval(36, 60))
    # Kish: 2² / (1/4 + 1/8) = 10.667 draws.
    low, high = macro_interval([0.5, 0.5], [4, 8]) or (0.0, 0.0)
    z2, draws = 1.959964**2, 4 / (1 / 4 + 1 / 8)
    half = 1.959964 / (1 + z2 / draws) * math.sqrt(0.25 / draws + z2 / (4 * draws**2))
    assert (low, high) == pytest.approx((0.5 - half, 0.5 + half), abs=1e-5)
    assert macro_interval([], []) is None


@pytest.mark.parametrize(
    ("gained", "lost", "expected"),
    [(0, 0, 1.0), (1, 0, 1.0), (5, 1, 2 * (1 + 6) / 64), (1, 5, 14 / 64), (0, 6, 2 / 64), (3, 3, 1.0)],
)
def test_exact_mcnemar_by_hand(gained: int, lost: int, expected: float) -> None:
    assert mcnemar(gained, lost) == pytest.approx(expected)


def test_mcnemar_of_thousands_of_changes_does_not_overflow() -> None:
    # The mid-p's normal approximation: z = |1100 - 1000| / sqrt(2100).
    assert mcnemar(1100, 1000) == pytest.approx(math.erfc(100 / math.sqrt(2100) / math.sqrt(2)), rel=0.01)
    assert 0 <= mcnemar(10_000, 0) < 1e-300


def test_paired_change_interval_by_hand_and_by_coverage() -> None:
    up, down = 9 / 102, 3 / 102
    half = 1.959964 * math.sqrt((up + down - (up - down) ** 2) / 102)
    assert paired_change_interval(8, 2, 100) == pytest.approx((up - down - half, up - down + half), abs=1e-6)
    assert paired_change_interval(0, 0, 0) is None
    draw = np.random.default_rng(11)
    counts = draw.multinomial(60, [0.08, 0.03, 0.89], size=2000)
    covered = 0
    for gained, lost, _ in counts.tolist():
        low, high = paired_change_interval(gained, lost, 60) or (1.0, -1.0)
        covered += low <= 0.05 <= high
    assert 0.92 < covered / 2000 < 0.99
