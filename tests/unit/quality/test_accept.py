from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from bench.base.progress import Progress
from bench.engines.scoring import ScorableModel, Scorer, Tokens
from bench.quality.accept import accept, check_key
from bench.toolchains.worker import WorkerError
from tests.unit.quality.scorers import BASELINE, VARIANT, FormulaScorer


def verdict(
    scorer: Scorer, tmp_path: Path, *, baseline: ScorableModel | None = BASELINE, bound: float = 0.1
) -> dict[str, object]:
    return accept(
        variant=VARIANT,
        baseline=baseline,
        scorer=scorer,
        max_divergence=bound,
        work_dir=tmp_path,
        progress=Progress(),
    )


def test_accepted_with_figures(tmp_path: Path) -> None:
    result = verdict(FormulaScorer(), tmp_path)
    assert (result["verdict"], result["reason"], result["non_finite"]) == ("accepted", None, 0)
    assert result["tokens"] == 2 * 127
    assert 7 < float(str(result["perplexity"])) < 9
    assert 0.01 < float(str(result["mean_divergence"])) < 0.02
    alone = verdict(FormulaScorer(), tmp_path, baseline=None)
    assert (alone["verdict"], alone["mean_divergence"]) == ("accepted", None)


def test_corrupt_for_each_reason(tmp_path: Path) -> None:
    cases = {
        "logits that are not finite": FormulaScorer(broken=True),
        "no better than guessing among 256": FormulaScorer(nll=5.5),
        "nats per token, above 0.1": FormulaScorer(divergence=0.2),
        "no better than guessing": FormulaScorer(nll=1e6),
    }
    for expected, scorer in cases.items():
        result = verdict(scorer, tmp_path)
        assert result["verdict"] == "corrupt"
        assert expected in str(result["reason"])


class Unloadable(FormulaScorer):
    def tokenize(self, *_: object, **__: object) -> Tokens:
        raise WorkerError("load_failed", "llama.cpp cannot load variant.gguf")


class Crashing(FormulaScorer):
    def tokenize(self, *_: object, **__: object) -> Tokens:
        raise WorkerError("crashed", "killed by SIGKILL")


def test_what_does_not_load_is_corrupt_but_a_crash_is_no_verdict(tmp_path: Path) -> None:
    result = verdict(Unloadable(), tmp_path)
    assert result["verdict"] == "corrupt"
    assert "does not load" in str(result["reason"])
    with pytest.raises(WorkerError, match="SIGKILL"):
        verdict(Crashing(), tmp_path)


def test_check_key_follows_what_the_verdict_depends_on() -> None:
    scorer = FormulaScorer()
    other = dataclasses.replace(BASELINE, key="another")
    keys = {
        check_key(baseline=BASELINE, scorer=scorer, max_divergence=0.1),
        check_key(baseline=other, scorer=scorer, max_divergence=0.1),
        check_key(baseline=None, scorer=scorer, max_divergence=0.1),
        check_key(baseline=BASELINE, scorer=scorer, max_divergence=0.2),
    }
    assert len(keys) == 4
