"""WikiText-2 under one checkpoint: our perplexity is that of plain transformers, and vLLM's is close to it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bench.base.progress import Progress
from bench.engines.scoring import Scorer, TokenWindows
from bench.engines.transformers_scoring import TransformersScorer
from bench.engines.vllm import VllmConfig
from bench.engines.vllm_scoring import VllmScorer
from bench.quality.config import ScoreFrom
from bench.quality.windows import build_windows
from bench.toolchains.worker import run_worker
from quantize.run import ConfiguredToolchains
from tests.integration.quantize.real_llama_cpp import scorable
from tests.integration.quantize.real_transformers import packaged_checkpoint, transformers_toolchain
from tests.support import CHECKOUT
from tests.support import test_data as data_file

pytestmark = pytest.mark.toolchains

CONTEXT, WINDOWS = 256, 2
PLAIN = CHECKOUT / "tests" / "integration" / "engines" / "direct_logits.py"


@pytest.fixture(scope="module")
def windows(tmp_path_factory: pytest.TempPathFactory) -> TokenWindows:
    folder = tmp_path_factory.mktemp("tokens")
    text = folder / "begin.txt"
    text.write_bytes(data_file("wikitext2/wiki.test.raw").read_bytes()[:8000])
    tokens = TransformersScorer(transformers_toolchain()).tokenize(
        scorable(packaged_checkpoint()), text, work_dir=folder, progress=Progress()
    )
    return build_windows(tokens, context=CONTEXT, windows=WINDOWS, score_from=ScoreFrom.second_half)


@pytest.fixture(scope="module")
def plain(windows: TokenWindows, tmp_path_factory: pytest.TempPathFactory) -> float:
    """Perplexity by a plain forward pass in 32 bits."""
    folder = tmp_path_factory.mktemp("plain")
    request = {
        "folders": {"model": str(packaged_checkpoint().model_path)},
        "windows": windows.ids.tolist(),
        "arrays": str(folder / "direct.npz"),
    }
    run_worker(transformers_toolchain(), PLAIN, request, work_dir=folder, log=folder / "log", progress=Progress())
    with np.load(folder / "direct.npz") as direct:
        logits = direct["model"][:, windows.first : -1].astype(np.float64)
    logits -= logits.max(axis=2, keepdims=True)
    logprobs = logits - np.log(np.exp(logits).sum(axis=2, keepdims=True))
    return float(np.exp(-np.take_along_axis(logprobs, windows.targets[..., None], axis=2).mean()))


def perplexity(scorer: Scorer, windows: TokenWindows, folder: Path) -> float:
    model = scorable(packaged_checkpoint())
    found = scorer.score(windows, variant=model, baseline=None, work_dir=folder, progress=Progress())
    return float(np.exp(found.nll.mean()))


def test_ours_is_that_of_plain_transformers(windows: TokenWindows, plain: float, tmp_path: Path) -> None:
    ours = perplexity(TransformersScorer(transformers_toolchain()), windows, tmp_path)
    assert ours == pytest.approx(plain, rel=0.001)


def test_vllms_is_close(windows: TokenWindows, plain: float, tmp_path: Path) -> None:
    config = VllmConfig(max_model_len=512, threads=1, dtype="bfloat16")
    scorer = VllmScorer(ConfiguredToolchains().ensure("vllm", Progress()), config, {})
    assert perplexity(scorer, windows, tmp_path) == pytest.approx(plain, rel=0.01)
