"""Quantizing the packaged model with the real llama-quantize."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.base.errors import CellFailure, UsageError
from bench.base.paths import cache_dir
from bench.base.progress import Progress, ProgressEvent
from quantize.gguf_file import read_gguf
from quantize.models import LocalConfig
from quantize.run import quantize
from quantize.schemes.gguf import GgufConfig, GgufType
from tests.integration.quantize.real_llama_cpp import TOOLCHAIN, artefact, packaged_model

pytestmark = pytest.mark.llama_cpp


def test_q8_0_manifest_tells_what_is_in_the_file() -> None:
    made = artefact(GgufType.Q8_0)
    manifest = made.manifest
    assert (manifest["label"], manifest["format"]) == ("Q8_0", "gguf")
    assert manifest["model"]["license"] == "Apache-2.0"
    assert "Q4_1" in manifest["model"]["notes"][0]
    assert manifest["parameters"] == 134_515_008
    assert {row["type"]: row["tensors"] for row in manifest["tensor_types"]} == {"Q8_0": 211, "F32": 61}
    # llama-quantize prints 8.51 BPW for it.
    assert manifest["effective_bits_per_weight"] == pytest.approx(8.506, abs=0.001)
    assert manifest["warnings"] == []
    assert manifest["command"][:3] == ["llama-quantize", "--allow-requantize", "F16/model.gguf"]
    assert manifest["cpu_s"] > 0
    assert manifest["peak_rss_bytes"] > 50 << 20
    assert str(cache_dir()) not in str(manifest)
    assert read_gguf(made.model_path).text("general.architecture") == "llama"


def test_k_quants_fall_back_visibly_on_rows_of_576() -> None:
    manifest = artefact(GgufType.Q4_K_M).manifest
    # llama-quantize prints 6.17 BPW and "180 of 272 tensor(s) required fallback", not counting the embedding.
    assert manifest["effective_bits_per_weight"] == pytest.approx(6.165, abs=0.001)
    (warning,) = manifest["warnings"]
    assert warning.startswith("181 of 272 tensors fell back: rows of 576")


def test_a_repeat_is_a_cache_hit() -> None:
    made = artefact(GgufType.Q8_0)
    written_ns = made.model_path.stat().st_mtime_ns
    events: list[ProgressEvent] = []
    again = quantize(
        packaged_model(),
        GgufConfig(type=GgufType.Q8_0, toolchain=TOOLCHAIN),
        cache=cache_dir(),
        progress=Progress(events.append),
    )
    assert again.manifest == made.manifest
    assert again.model_path.stat().st_mtime_ns == written_ns
    assert not any("quantizing" in event.message for event in events)
    assert "already made" in events[-1].message


def test_a_local_gguf_and_one_that_is_cut_short(tmp_path: Path) -> None:
    source = artefact(GgufType.Q8_0).model_path.read_bytes()
    scheme = GgufConfig(type=GgufType.F16, toolchain=TOOLCHAIN)
    whole = tmp_path / "whole.gguf"
    whole.write_bytes(source)
    made = quantize(LocalConfig(path=str(whole)), scheme, cache=tmp_path / "cache", progress=Progress())
    assert made.manifest["effective_bits_per_weight"] == pytest.approx(16.004, abs=0.001)
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(source[: len(source) // 2])
    with pytest.raises(UsageError, match="is cut short: tensor"):
        quantize(LocalConfig(path=str(cut)), scheme, cache=tmp_path / "cache", progress=Progress())


def test_what_llama_quantize_refuses_is_a_quantizer_failure(tmp_path: Path) -> None:
    from tests.unit.quantize.gguf_writer import write_gguf

    strange = write_gguf(tmp_path / "strange.gguf")  # sound, but no model
    with pytest.raises(CellFailure, match=r"llama-quantize exited with code 1: .*failed to load model") as caught:
        quantize(
            LocalConfig(path=str(strange)),
            GgufConfig(type=GgufType.F16, toolchain=TOOLCHAIN),
            cache=tmp_path / "cache",
            progress=Progress(),
        )
    assert "gguf_init" in caught.value.log_tail
