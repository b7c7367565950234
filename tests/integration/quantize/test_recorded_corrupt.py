"""A model that AutoAWQ really corrupted, kept in tests/data/corrupt_awq: the acceptance refuses it, its twin passes.

The packed weights are unpacked first, so that the environment of llm-compressor is enough.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.base.progress import Progress
from bench.engines.scoring import ScorableModel
from bench.engines.transformers_scoring import TransformersScorer
from bench.quality.accept import ACCEPTED, CORRUPT, accept
from bench.toolchains.toolchain import Toolchain
from quantize.run import ConfiguredToolchains
from tests.integration.quantize.awq_unpacked import unpack
from tests.support import CHECKOUT

pytestmark = pytest.mark.toolchains

RECORDED = CHECKOUT / "tests" / "data" / "corrupt_awq"
VOCABULARY = 600
#: What schemes/autoawq.yaml allows, in nats per token.
BOUND = 1.0


@pytest.fixture(scope="module")
def tools() -> Toolchain:
    return ConfiguredToolchains().ensure("llmcompressor", Progress())


def verdict(tools: Toolchain, folder: Path, work: Path) -> dict[str, Any]:
    def model(path: Path) -> ScorableModel:
        return ScorableModel(format="hf", path=path, key=path.name, label=path.name)

    found = accept(
        variant=model(folder),
        baseline=model(RECORDED / "baseline"),
        scorer=TransformersScorer(tools),
        max_divergence=BOUND,
        work_dir=work,
        progress=Progress(),
    )
    print(folder.name, found)
    return found


def test_the_corrupt_model_is_refused_with_figures(tools: Toolchain, tmp_path: Path) -> None:
    """It loads and its numbers are finite: only what it predicts gives it away."""
    found = verdict(tools, unpack(RECORDED / "unpatched", tmp_path / "unpatched"), tmp_path / "work")
    assert found["verdict"] == CORRUPT
    assert found["non_finite"] == 0
    assert found["perplexity"] > 5 * found["base_perplexity"]
    assert found["mean_divergence"] > BOUND
    assert found["reason"] in (
        f"its perplexity is no better than guessing among {VOCABULARY} tokens",
        f"its mean divergence from the baseline is {found['mean_divergence']:.4g} nats per token, above {BOUND:g}",
    )


def test_its_twin_that_was_made_with_the_repair_is_accepted(tools: Toolchain, tmp_path: Path) -> None:
    found = verdict(tools, unpack(RECORDED / "patched", tmp_path / "patched"), tmp_path / "work")
    assert (found["verdict"], found["reason"]) == (ACCEPTED, None)
    assert found["mean_divergence"] < BOUND / 4
    assert found["perplexity"] < 1.25 * found["base_perplexity"]
