from __future__ import annotations

import math

import numpy as np
import pytest

from bench.engines.scoring import BaselineScores
from bench.quality.divergence import divergence_metrics
from bench.quality.perplexity import likelihood_metrics

NLL = np.array([[1.0, 3.0], [2.0, 4.0]])


def test_likelihood_by_hand() -> None:
    metrics = likelihood_metrics(NLL, np.array([[4, 4], [1, 1]], dtype=np.int32), ["not_scored_by_server"])
    perplexity = metrics["perplexity"]
    assert perplexity["value"] == pytest.approx(math.exp(2.5))
    error = math.sqrt((7.5 - 6.25) / 3)
    assert metrics["mean_nll"]["standard_error"] == pytest.approx(error)
    assert perplexity["standard_error"] == pytest.approx(math.exp(2.5) * error)
    half = 12.7062 * math.sqrt(0.5) / math.sqrt(2)  # window means 2 and 3
    assert perplexity["lo"] == pytest.approx(math.exp(2.5 - half), rel=1e-4)
    assert perplexity["hi"] == pytest.approx(math.exp(2.5 + half), rel=1e-4)
    assert metrics["bits_per_byte"]["value"] == pytest.approx(10 / math.log(2) / 10)
    assert perplexity["validity"] == ["not_scored_by_server"]
    assert perplexity["unit"] == "1"


def test_one_window_has_no_interval_and_no_bytes_no_bits() -> None:
    metrics = likelihood_metrics(NLL[:1], np.zeros((1, 2), dtype=np.int32), [])
    assert (metrics["perplexity"]["lo"], metrics["perplexity"]["hi"]) == (None, None)
    assert metrics["perplexity"]["value"] == pytest.approx(math.exp(2))
    assert metrics["bits_per_byte"]["value"] is None


def test_missing_and_overflowing_figures_are_null() -> None:
    for broken in (np.array([[1.0, np.nan]]), np.array([[1e5, 1e5]])):
        metrics = likelihood_metrics(broken, np.ones((1, 2), dtype=np.int32), ["non_finite"])
        assert metrics["perplexity"]["value"] is None


def test_divergence_by_hand() -> None:
    divergence = np.array([[0.0, 0.1], [0.2, 0.7]])
    matches = np.array([[True, True], [True, False]])
    base = BaselineScores(nll=NLL - 0.5, divergence=divergence, top1_match=matches)
    metrics = divergence_metrics(NLL, base, [])
    value = {tag: metric["value"] for tag, metric in metrics.items()}
    assert value["mean_divergence"] == pytest.approx(0.25)
    assert value["median_divergence"] == pytest.approx(0.15)
    assert value["p90_divergence"] == pytest.approx(0.55)
    assert value["max_divergence"] == pytest.approx(0.7)
    assert value["top1_agreement"] == 0.75
    assert value["base_perplexity"] == pytest.approx(math.exp(2.0))
    assert value["perplexity_ratio"] == pytest.approx(math.exp(0.5))
    # The difference is 0.5 at every token: paired, the ratio is known exactly although both perplexities are not.
    ratio = metrics["perplexity_ratio"]
    assert (ratio["lo"], ratio["hi"]) == (pytest.approx(math.exp(0.5)), pytest.approx(math.exp(0.5)))
    delta = np.exp(-NLL) - np.exp(-(NLL - 0.5))
    assert value["rms_delta_p"] == pytest.approx(math.sqrt((delta**2).mean()))
    assert metrics["mean_divergence"]["lo"] == 0.0, "a divergence is never negative"


def test_any_missing_score_makes_every_figure_null() -> None:
    divergence = np.array([[0.0, np.nan], [0.2, 0.7]])
    base = BaselineScores(nll=NLL, divergence=divergence, top1_match=np.ones((2, 2), dtype=bool))
    metrics = divergence_metrics(NLL, base, ["non_finite"])
    assert {metric["value"] for metric in metrics.values()} == {None}
    assert all(metric["validity"] == ["non_finite"] for metric in metrics.values())
