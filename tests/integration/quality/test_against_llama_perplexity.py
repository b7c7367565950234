"""Our figures against what llama-perplexity of the same build prints, over the same windows of WikiText-2."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from bench.base.progress import Progress
from bench.engines.llama_cpp_scoring import LlamaCppScorer
from bench.quality.accept import accept
from bench.quality.config import DivergenceConfig, PerplexityConfig
from bench.quality.evaluate import evaluate
from quantize.schemes.gguf import GgufType
from tests.integration.quantize.real_llama_cpp import artefact, scorable, toolchain
from tests.support import test_data as data_file

pytestmark = pytest.mark.llama_cpp

WINDOWS, CONTEXT = 4, 512
QUANTIZED = (GgufType.Q8_0, GgufType.Q4_K_M, GgufType.Q4_0)


def llama_perplexity(*arguments: str) -> str:
    """What the tool prints on both streams."""
    program = str(toolchain().executable("llama-perplexity"))
    done = subprocess.run(
        [program, "--chunks", str(WINDOWS), "-c", str(CONTEXT), *arguments],
        env=toolchain().environ(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:]
    return done.stdout


def printed(output: str, pattern: str) -> tuple[float, float]:
    """A figure and its uncertainty."""
    match = re.search(pattern + r"\s*:?\s*(-?[\d.]+) (?:±|\+/-)\s*([\d.]+)", output)
    assert match is not None, f"{pattern} is not in what llama-perplexity printed"
    return float(match[1]), float(match[2])


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The outputs of the tool: F16, which saves its log-probabilities, and each quantized variant against them."""
    text = str(data_file("wikitext2/wiki.test.raw"))
    logits = str(tmp_path_factory.mktemp("reference") / "base.kld")
    base = str(artefact(GgufType.F16).model_path)
    outputs = {"F16": llama_perplexity("-m", base, "-f", text, "--kl-divergence-base", logits)}
    for kind in QUANTIZED:
        variant = str(artefact(kind).model_path)
        outputs[kind] = llama_perplexity("-m", variant, "--kl-divergence-base", logits, "--kl-divergence")
    return outputs


def measured(task: PerplexityConfig | DivergenceConfig, kind: GgufType, out: Path) -> dict[str, Any]:
    return evaluate(
        task,
        variant=scorable(artefact(kind)),
        baseline=scorable(artefact(GgufType.F16)),
        scorer=LlamaCppScorer(toolchain()),
        out=out,
        progress=Progress(),
    )


@pytest.mark.parametrize("kind", QUANTIZED)
def test_perplexity_and_divergence(reference: dict[str, str], tmp_path: Path, kind: GgufType) -> None:
    text = str(data_file("wikitext2/wiki.test.raw"))
    summary = measured(DivergenceConfig(text=text, windows=WINDOWS, context=CONTEXT), kind, tmp_path)
    metrics = summary["metrics"]
    perplexity, perplexity_error = printed(reference[kind], r"Mean PPL\(Q\)")
    assert metrics["perplexity"]["value"] == pytest.approx(perplexity, rel=2e-4)
    assert metrics["perplexity"]["standard_error"] == pytest.approx(perplexity_error, rel=1e-3)
    base, _ = printed(reference["F16"], r"Final estimate: PPL =")
    assert metrics["base_perplexity"]["value"] == pytest.approx(base, rel=2e-4)
    divergence, divergence_error = printed(reference[kind], r"Mean\s+KLD")
    assert metrics["mean_divergence"]["value"] == pytest.approx(divergence, rel=0.02)
    assert metrics["mean_divergence"]["standard_error"] == pytest.approx(divergence_error, rel=0.05)
    agreement, _ = printed(reference[kind], r"Same top p")
    assert 100 * metrics["top1_agreement"]["value"] == pytest.approx(agreement, abs=0.2)
    delta, _ = printed(reference[kind], r"RMS Δp")
    assert 100 * metrics["rms_delta_p"]["value"] == pytest.approx(delta, rel=0.02)
    items = pq.read_table(tmp_path / "items.parquet")
    assert items.num_rows == summary["items"] == WINDOWS * 255
    assert items["nll"].null_count == 0
    assert summary["protocol"]["text"]["digest"].startswith("sha256:173c87a5")


def test_perplexity_alone_is_the_same_figure(reference: dict[str, str], tmp_path: Path) -> None:
    text = str(data_file("wikitext2/wiki.test.raw"))
    task = PerplexityConfig(text=text, windows=WINDOWS, context=CONTEXT)
    expected, _ = printed(reference["Q8_0"], r"Mean PPL\(Q\)")
    found = measured(task, GgufType.Q8_0, tmp_path)["metrics"]
    assert found["perplexity"]["value"] == pytest.approx(expected, rel=2e-4)


def test_acceptance_of_sound_and_of_ruined_weights(tmp_path: Path) -> None:
    baseline = scorable(artefact(GgufType.F16))

    def verdict(path: Path) -> dict[str, Any]:
        return accept(
            variant=type(baseline)(format="gguf", path=path, key="tested", label="tested"),
            baseline=baseline,
            scorer=LlamaCppScorer(toolchain()),
            max_divergence=0.1,
            work_dir=tmp_path / "work",
            progress=Progress(),
        )

    sound = artefact(GgufType.Q8_0).model_path
    accepted = verdict(sound)
    assert accepted["verdict"] == "accepted", accepted
    assert 0 < accepted["mean_divergence"] < 0.02
    ruined = bytearray(sound.read_bytes())
    middle = len(ruined) // 2
    ruined[middle : middle + (4 << 20)] = bytes(range(256)) * ((4 << 20) // 256)
    (tmp_path / "ruined.gguf").write_bytes(ruined)
    refused = verdict(tmp_path / "ruined.gguf")
    assert refused["verdict"] == "corrupt", refused
    (tmp_path / "cut.gguf").write_bytes(sound.read_bytes()[:1_000_000])
    assert "does not load" in verdict(tmp_path / "cut.gguf")["reason"]


def test_memory_is_bounded_by_a_window(tmp_path: Path) -> None:
    few, many = (
        measured(PerplexityConfig(windows=windows, context=256), GgufType.Q8_0, tmp_path / str(windows))["usage"]
        for windows in (2, 8)
    )
    assert many["peak_rss_bytes"] < few["peak_rss_bytes"] * 1.1
