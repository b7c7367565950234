"""The transformers scorer against plain forward passes and llama.cpp, and on checkpoints that do not load whole."""

from __future__ import annotations

import json
import shutil
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from bench.base.progress import Progress
from bench.engines.llama_cpp_scoring import LlamaCppScorer
from bench.engines.scoring import ContinuationScores, PromptGroup, ScorableModel, TokenWindows
from bench.engines.transformers_scoring import TransformersScorer
from bench.quality.mmlu import CONTINUATIONS
from bench.toolchains.worker import WorkerError, run_worker
from quantize.schemes.gguf import GgufType
from tests.integration.quantize.real_llama_cpp import artefact, scorable, toolchain
from tests.integration.quantize.real_transformers import packaged_checkpoint, transformers_toolchain
from tests.support import CHECKOUT

pytestmark = pytest.mark.toolchains

HERE = Path(__file__).parent
TINY = HERE.parent / "quantize" / "tiny_checkpoint.py"
WINDOW, FIRST = 48, 7
EXAMPLES = (
    "<|im_start|>user\nAnswer with a letter.\n\n"
    "Which of these is a river?\nA. Rhine\nB. Berlin\nC. Alps\nD. Rome\nAnswer: A"
    "\n\nHow many legs has a spider?\nA. 2\nB. 4\nC. 6\nD. 8\nAnswer: D\n\n"
)
QUESTIONS = (
    "What is frozen water called?\nA. Steam\nB. Ice\nC. Wine\nD. Sand\nAnswer:",
    "Which is the largest?\nA. An ant\nB. A dog\nC. A whale\nD. A cat\nAnswer:",
    "What is 7 × 6?\nA. 42\nB. 13\nC. 76\nD. 1\nAnswer:",
)


@dataclass(frozen=True, kw_only=True)
class Tiny:
    """A tiny Llama with random weights, the same with one matrix emptied, and ids of a text."""

    folder: Path
    other: Path
    ids: list[int]

    @property
    def windows(self) -> list[list[int]]:
        return [[1, *self.ids[: WINDOW - 1]], [1, *self.ids[100 : 99 + WINDOW]]]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    root = tmp_path_factory.mktemp("scoring")
    text = str(CHECKOUT / "bench" / "quality" / "texts" / "default.txt")
    request = {"task": "make", "folder": str(root / "tiny"), "text": text, "dtype": "float32"}
    made = run_worker(
        transformers_toolchain(), TINY, request, work_dir=root, log=root / "log", progress=Progress(), timeout_s=300
    )
    shutil.copytree(root / "tiny", root / "other")
    empty(root / "other" / "model.safetensors", "model.layers.1.mlp.down_proj.weight")
    return Tiny(folder=root / "tiny", other=root / "other", ids=made["ids"])


def empty(file: Path, tensor: str) -> None:
    """Set a tensor to zeros."""
    raw = bytearray(file.read_bytes())
    (length,) = struct.unpack_from("<Q", raw)
    start, end = json.loads(raw[8 : 8 + length])[tensor]["data_offsets"]
    raw[8 + length + start : 8 + length + end] = bytes(end - start)
    file.write_bytes(raw)


def folder_model(folder: Path) -> ScorableModel:
    return ScorableModel(format="hf", path=folder, key=folder.name, label=folder.name)


def scorer() -> TransformersScorer:
    return TransformersScorer(transformers_toolchain())


def log_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    result: NDArray[np.float64] = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    return result


def test_scores_are_those_of_a_plain_forward_pass(tiny: Tiny, tmp_path: Path) -> None:
    request = {
        "folders": {"variant": str(tiny.other), "baseline": str(tiny.folder)},
        "windows": tiny.windows,
        "arrays": str(tmp_path / "direct.npz"),
    }
    run_worker(
        transformers_toolchain(),
        HERE / "direct_logits.py",
        request,
        work_dir=tmp_path,
        log=tmp_path / "log",
        progress=Progress(),
    )
    with np.load(tmp_path / "direct.npz") as direct:
        p, q = (log_softmax(direct[name][:, FIRST:-1]) for name in ("baseline", "variant"))
    windows = TokenWindows(ids=np.array(tiny.windows, dtype=np.int32), first=FIRST)
    found = scorer().score(
        windows,
        variant=folder_model(tiny.other),
        baseline=folder_model(tiny.folder),
        work_dir=tmp_path / "work",
        progress=Progress(),
    )
    targets = np.array(tiny.windows)[:, FIRST + 1 :, None]
    assert found.baseline is not None
    assert found.non_finite == 0
    assert found.nll.shape == (2, WINDOW - 1 - FIRST)
    assert found.nll == pytest.approx(-np.take_along_axis(q, targets, axis=2)[..., 0], abs=1e-4)
    assert found.baseline.nll == pytest.approx(-np.take_along_axis(p, targets, axis=2)[..., 0], abs=1e-4)
    divergence = (np.exp(p) * (p - q)).sum(axis=2)
    assert divergence.mean() > 0.1, "the two are different models"
    assert found.baseline.divergence == pytest.approx(divergence, rel=1e-3, abs=1e-5)
    assert found.baseline.top1_match.tolist() == (p.argmax(axis=2) == q.argmax(axis=2)).tolist()


def test_a_checkpoint_that_does_not_load_whole_is_not_scored(tiny: Tiny, tmp_path: Path) -> None:
    shutil.copytree(tiny.folder, tmp_path / "damaged")
    file = tmp_path / "damaged" / "model.safetensors"
    file.write_bytes(file.read_bytes().replace(b'"model.norm.weight"', b'"model.morm.weight"'))
    windows = TokenWindows(ids=np.array(tiny.windows, dtype=np.int32), first=FIRST)
    with pytest.raises(WorkerError, match=r"does not load whole: missing_keys .*model\.norm\.weight") as caught:
        scorer().score(
            windows,
            variant=folder_model(tmp_path / "damaged"),
            baseline=None,
            work_dir=tmp_path / "work",
            progress=Progress(),
        )
    assert caught.value.kind == "load_failed"


def continued(
    model: ScorableModel, groups: list[PromptGroup], letters: tuple[str, ...], work: Path
) -> ContinuationScores:
    return scorer().continuations(groups, letters, model=model, work_dir=work, progress=Progress())


def whole_prompts(groups: list[PromptGroup]) -> list[PromptGroup]:
    return [PromptGroup(prefix="", endings=(group.prefix + ending,)) for group in groups for ending in group.endings]


def test_a_kept_prefix_gives_what_whole_prompts_give_and_what_llama_cpp_gives(tmp_path: Path) -> None:
    groups = [PromptGroup(prefix=EXAMPLES, endings=QUESTIONS)]
    model = scorable(packaged_checkpoint())
    shared = continued(model, groups, CONTINUATIONS, tmp_path / "shared")
    whole = continued(model, whole_prompts(groups), CONTINUATIONS, tmp_path / "whole")
    assert shared.logprobs.shape == (3, 4)
    assert shared.logprobs == pytest.approx(whole.logprobs, abs=1e-3)
    assert shared.prompt_tokens == whole.prompt_tokens == whole.decoded_tokens
    assert shared.decoded_tokens < 0.6 * shared.prompt_tokens
    theirs = LlamaCppScorer(toolchain()).continuations(
        groups,
        CONTINUATIONS,
        model=scorable(artefact(GgufType.F16)),
        work_dir=tmp_path / "llama",
        progress=Progress(),
    )
    assert shared.token_ids == theirs.token_ids
    assert shared.prompt_tokens == theirs.prompt_tokens
    assert shared.decoded_tokens == theirs.decoded_tokens
    assert shared.logprobs == pytest.approx(theirs.logprobs, abs=0.1)


def test_a_model_that_cannot_forget_computes_every_prompt_whole(tiny: Tiny, tmp_path: Path) -> None:
    """Attention with a window drops what lies before it, so that nothing can be taken back."""
    folder = tmp_path / "windowed"
    run_worker(
        transformers_toolchain(),
        HERE / "direct_logits.py",
        {"make": str(folder), "window": 16},
        work_dir=tmp_path,
        log=tmp_path / "log",
        progress=Progress(),
    )
    for name in ("tokenizer.model", "tokenizer_config.json"):
        shutil.copyfile(tiny.folder / name, folder / name)
    prefix = "It was the best of the times and the worst of all the times that we have seen in this "
    groups = [PromptGroup(prefix=prefix, endings=("and so it was", "but not for all of us", "it"))]
    shared = continued(folder_model(folder), groups, (" the", " a"), tmp_path / "shared")
    whole = continued(folder_model(folder), whole_prompts(groups), (" the", " a"), tmp_path / "whole")
    assert shared.prompt_tokens == shared.decoded_tokens == whole.decoded_tokens
    assert shared.prompt_tokens > 3 * 20, "each is longer than the window"
    assert shared.logprobs == pytest.approx(whole.logprobs, abs=1e-4)
