"""When the expensive tasks are skipped, and what verdicts are worth among others."""

from __future__ import annotations

from typing import Any

from bench.quality.budget import family, hopeless, is_evidence
from bench.quality.config import DivergenceConfig, MultipleChoiceConfig, StopWhen


def summary(value: float | None, lo: float | None, tag: str = "mean_divergence") -> dict[str, Any]:
    return {"metrics": {tag: {"value": value, "lo": lo}}}


def test_only_a_whole_interval_above_the_bound_is_hopeless() -> None:
    bounds = StopWhen(divergence=0.5)
    assert hopeless({"d": summary(0.8, 0.4)}, bounds) is None, "it may be below"
    assert hopeless({"d": summary(0.8, 0.6)}, bounds) == (
        "hopeless: mean_divergence of d is 0.8, above stop_when.divergence=0.5"
    )
    assert hopeless({"d": summary(0.8, None)}, bounds) is not None
    assert hopeless({"d": summary(None, None)}, bounds) is None
    assert hopeless({"d": summary(0.8, 0.6)}, StopWhen(perplexity_ratio=1.1)) is None
    assert hopeless({"d": summary(1.3, 1.2, "perplexity_ratio")}, StopWhen(perplexity_ratio=1.1)) is not None
    assert is_evidence(DivergenceConfig())
    assert not is_evidence(MultipleChoiceConfig())


def compared(p_value: float, verdict: str, within: bool = False) -> dict[str, Any]:
    return {"comparisons": {"accuracy": {"p_value": p_value, "verdict": verdict, "within_margin": within}}}


def test_among_many_tasks_one_small_p_value_is_not_enough() -> None:
    tasks = {
        "a": compared(0.03, "worse"),
        "b": compared(0.001, "worse"),
        "c": compared(0.6, "equivalent", within=True),
        "d": {"comparisons": {}},
    }
    found = family(tasks)
    assert {name: row["verdict"] for name, row in found.items()} == {
        "a/accuracy": "inconclusive",
        "b/accuracy": "worse",
        "c/accuracy": "equivalent",
    }
    assert found["b/accuracy"]["holm_p_value"] == 0.003
