"""The sketch of what a real tokenizer made of a calibration set, against the text it came from."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.base.progress import Progress
from bench.toolchains.worker import run_worker
from quantize.models import LocalConfig
from quantize.run import ConfiguredToolchains, quantize
from quantize.samples import SampleSetConfig
from quantize.schemes.fp8 import Fp8Activations, Fp8Config
from quantize.sketch import Overlap, calibration_text
from tests.support import CHECKOUT

pytestmark = pytest.mark.toolchains

WORKER = Path(__file__).with_name("tiny_checkpoint.py")
TEXT = CHECKOUT / "bench" / "quality" / "texts" / "default.txt"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained tiny Llama."""
    root = tmp_path_factory.mktemp("sketch")
    tools = ConfiguredToolchains().ensure("llmcompressor", Progress())
    request = {"task": "make", "folder": str(root / "tiny"), "text": str(TEXT), "dtype": "bfloat16"}
    run_worker(tools, WORKER, request, work_dir=root, log=root / "log", progress=Progress(), timeout_s=300)
    return root / "tiny"


def overlap(checkpoint: Path, samples: SampleSetConfig) -> tuple[Overlap, float]:
    """What of the text is in the sketch, and the share of its tokens that were used."""
    scheme = Fp8Config(activations=Fp8Activations.static, calibration=samples)
    cache = checkpoint.parent / "cache"
    made = quantize(LocalConfig(path=str(checkpoint)), scheme, cache=cache, progress=Progress())
    found = calibration_text(made)
    assert found is not None
    assert found.sketch is not None
    record = made.manifest["calibration"]
    assert record["sketch"]["hashes"] == found.sketch.hashes.size
    tokens = len(TEXT.read_text(encoding="utf-8").split()) * TOKENS_PER_WORD
    return found.sketch.overlap([TEXT.read_text(encoding="utf-8")]), record["tokens"] / tokens


#: Of the tiny vocabulary over this text, about.
TOKENS_PER_WORD = 2.1


def test_only_the_windows_that_were_used_are_in_it(checkpoint: Path) -> None:
    found, used = overlap(checkpoint, SampleSetConfig(text=str(TEXT), samples=12, length=128))
    assert found.share is not None
    print(f"{100 * found.share:.1f} % of the text's runs are in the sketch, {100 * used:.1f} % of its tokens were used")
    # A window loses the runs that its two ends cut.
    assert 0.5 * used < found.share < 1.2 * used


def test_windows_over_the_whole_text_hold_nearly_all_of_it(checkpoint: Path) -> None:
    found, _ = overlap(checkpoint, SampleSetConfig(text=str(TEXT), samples=48, length=256))
    assert found.share is not None
    print(f"{100 * found.share:.1f} % of the text's runs are in the sketch")
    assert found.share > 0.97


def test_the_shipped_set_holds_nothing_of_it(checkpoint: Path) -> None:
    found, _ = overlap(checkpoint, SampleSetConfig(samples=16, length=256))
    assert found.share == 0.0
