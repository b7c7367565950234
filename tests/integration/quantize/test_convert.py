"""A Hugging Face folder through llama.cpp's converter and quantizer, against what transformers computes from it."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bench.base.errors import CellFailure, FailureKind
from bench.base.progress import Progress, ProgressEvent
from bench.engines.llama_cpp_scoring import LlamaCppScorer
from bench.engines.scoring import TokenWindows
from bench.toolchains.toolchain import Toolchain
from bench.toolchains.worker import run_worker
from quantize.artefact import Artefact
from quantize.gguf_file import read_gguf
from quantize.models import LocalConfig
from quantize.run import ConfiguredToolchains, quantize
from quantize.schemes.gguf import GgufConfig, GgufType
from tests.integration.quantize.real_llama_cpp import TOOLCHAIN, scorable, toolchain
from tests.support import CHECKOUT

pytestmark = [pytest.mark.toolchains, pytest.mark.llama_cpp]

WORKER = Path(__file__).with_name("tiny_checkpoint.py")
WINDOW = 128
#: Embeddings and output of 1000 x 256, two layers, and the norms.
PARAMETERS = 2 * 1000 * 256 + 2 * (2 * 256 * 256 + 2 * 128 * 256 + 3 * 256 * 512) + 5 * 256


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A tiny checkpoint, the text it was made with, and artefacts of its own."""

    folder: Path
    cache: Path
    work: Path
    converter: Toolchain
    text: str
    ids: list[int]

    def quantize(self, kind: GgufType, folder: Path | None = None, progress: Progress | None = None) -> Artefact:
        return quantize(
            LocalConfig(path=str(folder or self.folder)),
            GgufConfig(type=kind, toolchain=TOOLCHAIN),
            cache=self.cache,
            progress=progress or Progress(),
        )

    def ask(self, **request: Any) -> dict[str, Any]:
        return ask(self.converter, self.work, **request)

    def nll(self, **changes: Any) -> NDArray[np.float64]:
        """What transformers says of the first window."""
        return np.array(self.ask(task="score", folder=str(self.folder), ids=self.window, **changes)["nll"])

    @property
    def window(self) -> list[int]:
        return [1, *self.ids][:WINDOW]


def ask(converter: Toolchain, work: Path, **request: Any) -> dict[str, Any]:
    return run_worker(converter, WORKER, request, work_dir=work, log=work / "log", progress=Progress(), timeout_s=300)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    root = tmp_path_factory.mktemp("convert")
    converter = ConfiguredToolchains().ensure("llama_cpp_convert", Progress())
    text = str(CHECKOUT / "bench" / "quality" / "texts" / "default.txt")
    made = ask(converter, root, task="make", folder=str(root / "tiny-llama"), text=text, dtype="bfloat16")
    return Checkpoint(
        folder=root / "tiny-llama",
        cache=root / "cache",
        work=root,
        converter=converter,
        text=made["text"],
        ids=made["ids"],
    )


def llama_cpp_nll(checkpoint: Checkpoint, made: Artefact, work: Path) -> NDArray[np.float64]:
    windows = TokenWindows(ids=np.array([checkpoint.window], dtype=np.int32), first=0)
    scorer = LlamaCppScorer(toolchain())
    scores = scorer.score(windows, variant=scorable(made), baseline=None, work_dir=work, progress=Progress())
    assert scores.non_finite == 0
    nll: NDArray[np.float64] = scores.nll[0]
    return nll


def test_the_master_keeps_the_checkpoints_precision(checkpoint: Checkpoint) -> None:
    events: list[ProgressEvent] = []
    made = checkpoint.quantize(GgufType.F16, progress=Progress(events.append))
    master_folder = made.directory.parent / made.manifest["made_from"]
    master = json.loads((master_folder / "manifest.json").read_text())
    assert {row["type"]: row["tensors"] for row in master["tensor_types"]} == {"BF16": 16, "F32": 5}
    assert master["parameters"] == PARAMETERS
    assert master["command"][:3] == ["convert_hf_to_gguf.py", "--outtype", "bf16"]
    assert master["toolchain"]["name"] == "llama_cpp_convert"
    assert master["toolchain"]["versions"]["transformers"] == "4.57.6"
    assert master["wall_s"] > 0
    assert master["cpu_s"] > 0
    assert master["peak_rss_bytes"] > 50 << 20
    assert "Model architecture: LlamaForCausalLM" in (master_folder / "quantize.log").read_text()
    assert str(checkpoint.work) not in json.dumps(master)
    assert (100, 100, "%") in [(event.done, event.total, event.unit) for event in events]
    assert read_gguf(master_folder / "model.gguf").text("general.name") == "tiny-llama"
    assert {file.name for file in master_folder.iterdir()} == {"model.gguf", "manifest.json", "quantize.log"}


def test_f16_is_the_same_model(checkpoint: Checkpoint, tmp_path: Path) -> None:
    made = checkpoint.quantize(GgufType.F16)
    assert {row["type"]: row["tensors"] for row in made.manifest["tensor_types"]} == {"F16": 16, "F32": 5}
    assert made.manifest["command"][2] == "converted/model.gguf"
    assert (made.manifest["parameters"], made.manifest["warnings"]) == (PARAMETERS, [])
    expected = checkpoint.nll()
    found = llama_cpp_nll(checkpoint, made, tmp_path)
    assert found.shape == expected.shape == (WINDOW - 1,)
    # The tolerance is small beside what the text varies by, and beside what another rotary base would do.
    assert expected.std() > 1
    assert np.abs(found - expected).max() < 0.05
    assert np.abs(checkpoint.nll(rope_theta=10_000.0) - expected).max() > 0.5


def test_q8_0_is_close(checkpoint: Checkpoint, tmp_path: Path) -> None:
    made = checkpoint.quantize(GgufType.Q8_0)
    assert {row["type"]: row["tensors"] for row in made.manifest["tensor_types"]} == {"Q8_0": 16, "F32": 5}
    assert made.manifest["effective_bits_per_weight"] == pytest.approx(8.5, abs=0.05)
    assert np.abs(llama_cpp_nll(checkpoint, made, tmp_path) - checkpoint.nll()).mean() < 0.2


def test_the_vocabulary_is_the_same(checkpoint: Checkpoint, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text(checkpoint.text, encoding="utf-8")
    made = checkpoint.quantize(GgufType.F16)
    tokens = LlamaCppScorer(toolchain()).tokenize(scorable(made), text, work_dir=tmp_path, progress=Progress())
    assert tokens.bos_id == 1
    assert tokens.ids.tolist() == [1, *checkpoint.ids]


def changed_copy(checkpoint: Checkpoint, folder: Path, **config: Any) -> Path:
    shutil.copytree(checkpoint.folder, folder)
    original = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**original, **config}))
    return folder


def test_an_unknown_architecture_is_one_clear_line(checkpoint: Checkpoint, tmp_path: Path) -> None:
    folder = changed_copy(checkpoint, tmp_path / "copy", architectures=["ImaginaryForCausalLM"])
    with pytest.raises(CellFailure, match="does not know the architecture ImaginaryForCausalLM") as caught:
        checkpoint.quantize(GgufType.Q8_0, folder)
    assert caught.value.kind is FailureKind.QUANTIZER
    assert "\n" not in str(caught.value)
    assert "Model ImaginaryForCausalLM is not supported" in caught.value.log_tail


def test_code_of_the_checkpoint_never_runs(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """For this architecture, among others, the converter asks transformers to run the tokenizer's own code."""
    proof = tmp_path / "it-ran"
    folder = changed_copy(checkpoint, tmp_path / "copy", architectures=["DreamModel"])
    (folder / "tokenizer.model").unlink()
    (folder / "hostile.py").write_text(f"open({str(proof)!r}, 'w')\nclass Tokenizer: pass\n")
    (folder / "tokenizer.json").write_text(
        json.dumps(
            {
                "version": "1.0",
                "added_tokens": [],
                "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True},
                "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True},
                "model": {"type": "BPE", "vocab": {chr(33 + n): n for n in range(90)}, "merges": []},
            }
        )
    )
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "TokenizersBackend",
                "extra_special_tokens": ["!"],
                "auto_map": {"AutoTokenizer": ["hostile.Tokenizer", "hostile.Tokenizer"]},
            }
        )
    )
    with pytest.raises(CellFailure, match="does not know this model's tokenizer"):
        checkpoint.quantize(GgufType.Q8_0, folder)
    assert not proof.exists()
