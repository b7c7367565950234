from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from bench.base.errors import UsageError
from bench.base.progress import Progress
from bench.base.validity import Reason
from bench.engines.scoring import ScorableModel, Scorer, TokenScores
from bench.quality.config import DivergenceConfig, PerplexityConfig, ScoreFrom, TaskConfig
from bench.quality.evaluate import evaluate
from bench.toolchains.worker import WorkerError
from tests.unit.quality.scorers import BASELINE, VARIANT, FormulaScorer


def run(
    task: TaskConfig,
    scorer: Scorer,
    out: Path,
    baseline: ScorableModel | None = BASELINE,
    *,
    cache: Path | None = None,
    variant: ScorableModel = VARIANT,
) -> dict[str, object]:
    return evaluate(
        task,
        variant=variant,
        baseline=baseline,
        scorer=scorer,
        out=out,
        progress=Progress(),
        reasons=[Reason.NOT_SCORED_BY_SERVER],
        cache=cache,
    )


def test_perplexity_items_and_summary(tmp_path: Path) -> None:
    scorer = FormulaScorer(bos_id=1)
    summary = run(PerplexityConfig(context=16, windows=5), scorer, tmp_path)
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    items = pq.read_table(tmp_path / "items.parquet").to_pandas()
    assert len(items) == 5 * 7 == summary["items"]
    assert items["item"].tolist() == list(range(35))
    assert items["window"].tolist() == [window for window in range(5) for _ in range(7)]
    assert items["position"].tolist() == list(range(9, 16)) * 5
    windows = scorer.scored[0][0]
    assert items["token_id"].tolist() == windows.targets.reshape(-1).tolist()
    metrics = summary["metrics"]
    assert isinstance(metrics, dict)
    assert metrics["perplexity"]["value"] == pytest.approx(np.exp(items["nll"].mean()))
    assert metrics["perplexity"]["validity"] == ["not_scored_by_server"]
    assert summary["scored_by"] == {"engine": "formula", "build": "1", "path": "same_artefact_elsewhere"}
    protocol = summary["protocol"]
    assert isinstance(protocol, dict)
    assert (protocol["windows"], protocol["scored_tokens"], protocol["bos"]) == (5, 35, True)
    assert scorer.scored[0][2] is None, "perplexity needs no baseline"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["items.parquet", "summary.json"]


def test_divergence_with_noise_floor(tmp_path: Path) -> None:
    scorer = FormulaScorer()
    task = DivergenceConfig(context=16, windows=5, noise_floor=True, score_from=ScoreFrom.second_token)
    summary = run(task, scorer, tmp_path)
    items = pq.read_table(tmp_path / "items.parquet").to_pandas()
    metrics = summary["metrics"]
    assert isinstance(metrics, dict)
    assert metrics["mean_divergence"]["value"] == pytest.approx(items["divergence"].mean())
    assert metrics["top1_agreement"]["value"] == pytest.approx(items["top1_match"].mean())
    assert metrics["perplexity_ratio"]["value"] == pytest.approx(np.exp(0.1))
    assert metrics["noise_floor_divergence"]["value"] == 0.0
    assert items["p"].to_numpy() == pytest.approx(np.exp(-items["nll"].to_numpy()))
    assert [pair[1:] for pair in scorer.scored] == [(VARIANT.key, BASELINE.key), (BASELINE.key, BASELINE.key)]
    assert summary["baseline"] == {"key": BASELINE.key, "label": "F16"}


def test_perplexity_of_windows_that_a_divergence_scored_is_not_scored_again(tmp_path: Path) -> None:
    cache, scorer = tmp_path / "cache", FormulaScorer()
    divergence = run(DivergenceConfig(context=16, windows=5), scorer, tmp_path / "1", cache=cache)
    alone = run(PerplexityConfig(context=16, windows=5), scorer, tmp_path / "2", cache=cache)
    assert len(scorer.scored) == 1
    for tag, figure in alone["metrics"].items():  # type: ignore[attr-defined]  # a mapping, as the first assertion says
        assert divergence["metrics"][tag] == figure  # type: ignore[index]
    fresh = run(PerplexityConfig(context=16, windows=5), FormulaScorer(), tmp_path / "3")
    assert pq.read_table(tmp_path / "2" / "items.parquet") == pq.read_table(tmp_path / "3" / "items.parquet")
    assert fresh["metrics"] == alone["metrics"]


@pytest.mark.parametrize(
    "other",
    [
        PerplexityConfig(context=16, windows=4),
        PerplexityConfig(context=16, windows=5, score_from=ScoreFrom.second_token),
    ],
    ids=["fewer", "from the second token"],
)
def test_other_windows_are_scored(tmp_path: Path, other: PerplexityConfig) -> None:
    cache, scorer = tmp_path / "cache", FormulaScorer()
    run(PerplexityConfig(context=16, windows=5), scorer, tmp_path / "1", cache=cache)
    run(other, scorer, tmp_path / "2", cache=cache)
    assert len(scorer.scored) == 2


@pytest.mark.parametrize(
    ("variant", "scorer"),
    [
        (BASELINE, FormulaScorer(nll=3.0)),
        (VARIANT, FormulaScorer(nll=3.0, build="2")),
        (VARIANT, FormulaScorer(nll=3.0, threads=2)),
    ],
    ids=["model", "build", "threads"],
)
def test_what_another_model_build_or_setting_gave_is_not_taken(
    tmp_path: Path, variant: ScorableModel, scorer: FormulaScorer
) -> None:
    task, cache = PerplexityConfig(context=16, windows=5), tmp_path / "cache"
    first = run(task, FormulaScorer(nll=2.0), tmp_path / "1", cache=cache)
    second = run(task, scorer, tmp_path / "2", cache=cache, variant=variant)
    ratio = second["metrics"]["perplexity"]["value"] / first["metrics"]["perplexity"]["value"]  # type: ignore[index]
    assert ratio == pytest.approx(np.e)


def test_scores_that_are_not_finite_are_not_remembered(tmp_path: Path) -> None:
    cache, scorer = tmp_path / "cache", FormulaScorer(broken=True)
    for number in range(2):
        run(PerplexityConfig(context=16, windows=5), scorer, tmp_path / str(number), cache=cache)
    assert len(scorer.scored) == 2
    assert not cache.exists()


def test_without_baseline_divergence_is_missing_and_says_why(tmp_path: Path) -> None:
    summary = run(DivergenceConfig(), FormulaScorer(), tmp_path, baseline=None)
    assert summary["validity"] == ["no_baseline", "not_scored_by_server"]
    metrics = summary["metrics"]
    assert isinstance(metrics, dict)
    assert {metric["value"] for metric in metrics.values()} == {None}
    assert pq.read_table(tmp_path / "items.parquet").num_rows == 0


def test_non_finite_logits_are_missing_counted_and_named(tmp_path: Path) -> None:
    summary = run(DivergenceConfig(context=16, windows=2), FormulaScorer(broken=True), tmp_path)
    assert summary["errors"] == {"non_finite": 1}
    metrics = summary["metrics"]
    assert isinstance(metrics, dict)
    for metric in metrics.values():
        assert metric["value"] is None
        assert "non_finite" in metric["validity"]
    items = pq.read_table(tmp_path / "items.parquet")
    assert items["nll"].null_count == 1


class Failing(FormulaScorer):
    def score(self, *_: object, **__: object) -> TokenScores:
        raise WorkerError("crashed", "scorer was killed by SIGILL")


def test_a_failed_scoring_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(WorkerError, match="SIGILL"):
        run(PerplexityConfig(context=16), Failing(), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "there is no file"),
        (b"caf\xe9 cr\xe8me", "not UTF-8"),
        (b" \n", "is empty"),
        (b"too short", "0 windows of 512"),
    ],
)
def test_texts_that_cannot_be_used(tmp_path: Path, content: bytes | None, expected: str) -> None:
    path = tmp_path / "text.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=expected):
        run(PerplexityConfig(text=str(path)), FormulaScorer(), tmp_path / "out")


def test_a_long_text_may_be_cut_within_a_character(tmp_path: Path) -> None:
    for offset in range(4):
        path = tmp_path / f"{offset}.txt"
        path.write_bytes(b"a" * offset + "héllo wörld €𝄞 ".encode() * 5000)
        assert PerplexityConfig(text=str(path)).text_path() == path.resolve()


@pytest.mark.parametrize("wrong", [{"context": 3}, {"windows": -1}, {"text": " "}])
def test_wrong_values_are_named(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=f"task.{next(iter(wrong))}"):
        PerplexityConfig(**wrong)  # type: ignore[arg-type]


def test_the_shipped_text_is_long_enough_and_of_several_registers() -> None:
    path = PerplexityConfig().text_path()
    text = path.read_text(encoding="utf-8")
    assert len(text) > 24_000
    for mark in ("CUSTOMER:", "def quantile", "Question.", "Dear Tomasz"):
        assert mark in text
