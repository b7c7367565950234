"""Importance matrices of the packaged model, with the real llama-imatrix and llama-quantize."""

from __future__ import annotations

import functools
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest

from bench.base.errors import UsageError
from bench.base.paths import cache_dir
from bench.base.progress import Progress
from bench.engines.llama_cpp_scoring import LlamaCppScorer
from bench.quality.config import DEFAULT_TEXT, ScoreFrom
from bench.quality.texts import text_file
from bench.quality.windows import build_windows
from quantize.artefact import Artefact
from quantize.calibration import CalibrationConfig
from quantize.gguf_file import read_gguf
from quantize.run import quantize
from quantize.schemes.gguf import IGNORE_IMATRIX, NEED_IMATRIX, GgufConfig, GgufType
from tests.integration.quantize.real_llama_cpp import TOOLCHAIN, artefact, packaged_model, scorable, toolchain
from tests.unit.quantize.gguf_writer import ARRAY, FLOAT32, STRING, UINT32, pair, strings, text, write_gguf

pytestmark = pytest.mark.llama_cpp

WIDTH = 256


@functools.cache
def guided() -> Artefact:
    scheme = GgufConfig(type=GgufType.Q4_0, toolchain=TOOLCHAIN, imatrix=True)
    return quantize(packaged_model(), scheme, cache=cache_dir(), progress=Progress())


def divergence(made: Artefact, work: Path) -> float:
    """Mean divergence from F16 over 2 windows of 256 tokens of the evaluation text, which guides nothing."""
    scorer = LlamaCppScorer(toolchain())
    tokens = scorer.tokenize(scorable(made), text_file(DEFAULT_TEXT), work_dir=work, progress=Progress())
    windows = build_windows(tokens, context=256, windows=2, score_from=ScoreFrom.second_half)
    baseline = scorable(artefact(GgufType.F16))
    scores = scorer.score(windows, variant=scorable(made), baseline=baseline, work_dir=work, progress=Progress())
    assert scores.non_finite == 0
    assert scores.baseline is not None
    return float(np.mean(scores.baseline.divergence))


def test_a_matrix_brings_the_variant_closer_to_f16(tmp_path: Path) -> None:
    plain, better = divergence(artefact(GgufType.Q4_0), tmp_path), divergence(guided(), tmp_path)
    print(f"mean divergence from F16: Q4_0 {plain:.4f}, with importance matrix {better:.4f} nat/token")
    assert 0 < better < plain
    # A matrix lets llama.cpp's mix choose other types for a few tensors.
    assert guided().manifest["size_bytes"] == pytest.approx(artefact(GgufType.Q4_0).manifest["size_bytes"], rel=0.01)


def test_the_manifest_tells_what_guided_it() -> None:
    manifest = guided().manifest
    assert manifest["label"] == "Q4_0 imatrix"
    calibration = manifest["calibration"]
    assert (calibration["name"], calibration["context"]) == ("default", 512)
    assert calibration["chunks"] >= 7
    assert calibration["tokens"] == 512 * calibration["chunks"]
    assert str(cache_dir()) not in str(manifest)
    metadata = read_gguf(guided().model_path).metadata
    assert metadata["quantize.imatrix.chunks_count"] == calibration["chunks"]
    assert metadata["quantize.imatrix.file"] == "imatrix.gguf"
    assert metadata["quantize.imatrix.dataset"] == f"calibration-{calibration['digest'][7:23]}.txt"
    assert not [warning for warning in manifest["warnings"] if "importance" in warning]


def test_a_text_that_is_too_short_is_one_line(tmp_path: Path) -> None:
    short = tmp_path / "short.txt"
    short.write_text("A few words, and a few more.", encoding="utf-8")
    for calibration, expected in (
        (CalibrationConfig(text=str(short)), r"'short\.txt' has \d+ tokens, 2 chunks of 512 are needed"),
        (CalibrationConfig(chunks=999), r"chunks=999: the text 'default' has \d chunks of 512 tokens"),
    ):
        scheme = GgufConfig(type=GgufType.Q4_0, toolchain=TOOLCHAIN, imatrix=True, calibration=calibration)
        with pytest.raises(UsageError, match=expected):
            quantize(packaged_model(), scheme, cache=cache_dir(), progress=Progress())


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A header and zeros of a Llama whose rows fit all blocks; real models' matrices by name, tiny."""
    u32 = {
        "context_length": 128,
        "embedding_length": WIDTH,
        "block_count": 8,
        "feed_forward_length": WIDTH,
        "attention.head_count": 4,
        "attention.head_count_kv": 4,
        "rope.dimension_count": 64,
        "vocab_size": 4,
    }
    pairs = [
        pair("general.architecture", STRING, text("llama")),
        *(pair(f"llama.{name}", UINT32, struct.pack("<I", value)) for name, value in u32.items()),
        pair("llama.attention.layer_norm_rms_epsilon", FLOAT32, struct.pack("<f", 1e-5)),
        pair("tokenizer.ggml.model", STRING, text("no_vocab")),
        pair("tokenizer.ggml.merges", ARRAY, strings([])),
    ]
    names = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    matrices = [(f"blk.{layer}.{name}.weight", (WIDTH, WIDTH), 1) for layer in range(8) for name in names]
    norms = [(f"blk.{layer}.{name}_norm.weight", (WIDTH,), 0) for layer in range(8) for name in ("attn", "ffn")]
    ends = [("token_embd.weight", (WIDTH, 4), 1), ("output.weight", (WIDTH, 4), 1), ("output_norm.weight", (WIDTH,), 0)]
    return write_gguf(tmp_path_factory.mktemp("wide") / "wide.gguf", [*matrices, *norms, *ends], pairs=pairs, odd=False)


@pytest.mark.parametrize("kind", [kind for kind in GgufType if kind not in IGNORE_IMATRIX])
def test_llama_quantize_demands_a_matrix_for_just_these_types(kind: GgufType, wide: Path) -> None:
    program = str(toolchain().executable("llama-quantize"))
    command = [program, "--dry-run", str(wide), kind.value, "1"]
    answer = subprocess.run(command, env=toolchain().environ(), capture_output=True, text=True, timeout=60, check=False)
    said = answer.stdout + answer.stderr
    assert answer.returncode == 0, said[-2000:]
    assert "falling back" not in said
    assert ("will require an imatrix" in said) == (kind in NEED_IMATRIX)
