"""The packaged model as it is: its own Q4_1 file, linked, loaded and scored against its F16."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bench.base.paths import cache_dir
from bench.base.progress import Progress
from bench.engines.llama_cpp_scoring import LlamaCppScorer
from bench.quality.accept import ACCEPTED, accept
from bench.quality.config import DEFAULT_TEXT, ScoreFrom
from bench.quality.texts import text_file
from bench.quality.windows import build_windows
from quantize.run import quantize
from quantize.schemes.gguf import GgufType
from quantize.schemes.prequantized import PrequantizedConfig
from tests.integration.quantize.real_llama_cpp import artefact, packaged_model, scorable, toolchain

pytestmark = pytest.mark.llama_cpp


def test_q4_1_is_linked_accepted_and_scored(tmp_path: Path) -> None:
    made = quantize(packaged_model(), PrequantizedConfig(), cache=cache_dir(), progress=Progress())
    assert made.label == "Q4_1"
    assert made.model_path.is_symlink()
    assert sum(file.lstat().st_size for file in made.directory.iterdir()) < 20_000, "nothing is copied"
    assert {row["type"]: row["tensors"] for row in made.manifest["tensor_types"]} == {"Q4_1": 210, "Q8_0": 1, "F32": 61}
    assert made.manifest["effective_bits_per_weight"] == pytest.approx(5.74, abs=0.02)
    scorer = LlamaCppScorer(toolchain())
    baseline = scorable(artefact(GgufType.F16))
    tokens = scorer.tokenize(scorable(made), text_file(DEFAULT_TEXT), work_dir=tmp_path, progress=Progress())
    windows = build_windows(tokens, context=128, windows=1, score_from=ScoreFrom.second_half)
    scores = scorer.score(windows, variant=scorable(made), baseline=baseline, work_dir=tmp_path, progress=Progress())
    assert scores.non_finite == 0
    assert scores.baseline is not None
    divergence = float(np.mean(scores.baseline.divergence))
    print(f"mean divergence of the Q4_1 file from its own F16: {divergence:.5f} nat/token")
    assert 0 <= divergence < 0.05, "F16 is that file dequantized: only activations are rounded otherwise"
    verdict = accept(
        variant=scorable(made), baseline=baseline, scorer=scorer, max_divergence=0.05, work_dir=tmp_path,
        progress=Progress(),
    )  # fmt: skip
    assert verdict["verdict"] == ACCEPTED
