"""Scoring on a running llama-server against the worker that scores the same file, and what outlives a kill."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from bench.base.progress import Progress
from bench.engines.llama_cpp_scoring import LlamaCppScorer
from bench.engines.running import Endpoint
from bench.engines.scoring import ChoiceGroup, PromptGroup
from bench.engines.workers.score_rows import Kept
from bench.quality.config import MultipleChoiceConfig, PerplexityConfig
from bench.quality.evaluate import evaluate
from bench.quality.generation.config import ServedTaskConfig
from bench.quality.generation.evaluate import evaluate_served
from bench.quality.mmlu import CONTINUATIONS, load_subjects, prompt_group
from bench.quality.served.config import ServedDivergenceConfig, ServedMultipleChoiceConfig
from quantize.schemes.gguf import GgufType
from tests.integration.quality.test_served_tasks import llama_server, session
from tests.integration.quantize.real_llama_cpp import artefact, scorable, toolchain

pytestmark = pytest.mark.llama_cpp

Q8 = GgufType.Q8_0


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    with llama_server(tmp_path_factory.mktemp("server")) as running:
        yield running


def served(task: ServedTaskConfig, endpoint: Endpoint, folder: Path) -> dict[str, Any]:
    sessions = [session(endpoint, folder, key) for key in ("v", "b")]
    own, base = ((each, task.generate(each)) for each in sessions)
    return evaluate_served(task, own=own, base=base, scored_by={}, out=folder / "out", progress=Progress())


def scored(task: Any, folder: Path, cache: Path | None = None) -> dict[str, Any]:
    return evaluate(
        task,
        variant=scorable(artefact(Q8)),
        baseline=None,
        scorer=LlamaCppScorer(toolchain()),
        out=folder,
        progress=Progress(),
        cache=cache,
    )


def test_letters_of_the_server_are_those_of_the_scorer(endpoint: Endpoint, tmp_path: Path) -> None:
    questions = {"subjects": ["geography"], "limit": 4, "shots": 1}
    ours = served(ServedMultipleChoiceConfig(**questions), endpoint, tmp_path / "served")  # type: ignore[arg-type]
    worker = scored(MultipleChoiceConfig(**questions, compare=False), tmp_path / "scored")  # type: ignore[arg-type]
    columns = [f"logprob_{letter}" for letter in "ABCD"]
    one, other = (
        pq.read_table(tmp_path / folder / "items.parquet").to_pandas()[columns]
        for folder in (Path("served") / "out", Path("scored"))
    )
    # llama.cpp rounds otherwise in a batch of another size: up to 0.2 nat was seen at Q8_0.
    assert np.abs(one.to_numpy() - other.to_numpy()).max() < 0.25
    assert ours["protocol"]["asked_by"] == "the 200 likeliest tokens, by id"
    assert ours["metrics"]["accuracy_change"]["value"] == 0.0
    assert worker["protocol"]["questions"] == ours["protocol"]["questions"] == 4


def test_a_server_without_prompt_log_probabilities_is_asked_place_by_place(endpoint: Endpoint, tmp_path: Path) -> None:
    cut = {"context": 32, "windows": 2}
    ours = served(ServedDivergenceConfig(**cut, top=2000), endpoint, tmp_path / "served")  # type: ignore[arg-type]
    worker = scored(PerplexityConfig(**cut), tmp_path / "scored")  # type: ignore[arg-type]
    assert ours["metrics"]["mean_divergence_lower_bound"]["value"] < 0.01
    assert ours["protocol"]["lower_bound"] is True
    items, others = (
        pq.read_table(tmp_path / folder / "items.parquet").to_pandas()
        for folder in (Path("served") / "out", Path("scored"))
    )
    assert items["token_id"].tolist() == others["token_id"].tolist(), "the server cuts the text as the scorer does"
    told = items["nll"].notna()
    assert told.mean() > 0.8
    assert np.abs(items["nll"][told] - others["nll"][told]).mean() < 0.05
    assert worker["protocol"]["scored_tokens"] == ours["protocol"]["scored_tokens"]


def test_letters_as_choices_are_letters_as_tokens_and_a_kill_costs_what_was_not_kept(tmp_path: Path) -> None:
    config = MultipleChoiceConfig(subjects=["geography"], limit=4, shots=1)
    group = prompt_group(load_subjects(config)[0])
    scorer, model = LlamaCppScorer(toolchain()), scorable(artefact(Q8))
    kept = tmp_path / "kept"

    def letters(folder: str, kept: Path | None) -> Any:
        return scorer.continuations(
            [group], CONTINUATIONS, model=model, work_dir=tmp_path / folder, progress=Progress(), kept=kept
        )

    whole = letters("whole", kept)
    choices = ChoiceGroup(prefix=group.prefix, endings=group.endings, choices=(CONTINUATIONS,) * len(group.endings))
    found = scorer.likelihoods([choices], model=model, work_dir=tmp_path / "choices", progress=Progress())
    assert found.logprobs.reshape(4, 4) == pytest.approx(whole.logprobs, abs=1e-9)
    assert found.tokens.tolist() == [1] * 16

    # Two of the four questions, as a worker that was killed in between leaves them.
    rows = Kept(str(kept)).columns()
    for part in kept.glob("*.npz"):
        part.unlink()
    columns = {name: values[:2] for name, values in rows.items()}
    columns["logprobs"] = columns["logprobs"] + 1.0  # so that it shows whose they are
    np.savez(kept / "00000000.npz", allow_pickle=False, **columns)
    resumed = letters("resumed", kept)
    assert resumed.logprobs[:2] == pytest.approx(whole.logprobs[:2] + 1.0, abs=1e-12)
    assert resumed.logprobs[2:] == pytest.approx(whole.logprobs[2:], abs=1e-9)


def test_a_choice_of_several_tokens_is_the_product_of_them(tmp_path: Path) -> None:
    scorer, model = LlamaCppScorer(toolchain()), scorable(artefact(GgufType.F16))
    texts = (" Paris is a city", " Paris", " zebra zebra")
    group = ChoiceGroup(prefix="The capital of ", endings=("France is",), choices=(texts,))
    found = scorer.likelihoods([group], model=model, work_dir=tmp_path / "all", progress=Progress())
    ids, total, prompt = [], 0.0, "The capital of France is"
    for word in (" Paris", " is", " a", " city"):
        one = scorer.continuations(
            [PromptGroup(prefix="", endings=(prompt,))], [word], model=model, work_dir=tmp_path, progress=Progress()
        )
        total, prompt = total + float(one.logprobs[0, 0]), prompt + word
        ids.append(one.token_ids[0])
    assert found.tokens.tolist()[:2] == [4, 1]
    assert found.logprobs[0] == pytest.approx(total, abs=0.05)
    assert found.greedy[1], "Paris is what comes next"
    assert not found.greedy[2]
    assert json.loads((tmp_path / "all" / "prompts.json").read_text())[0]["choices"] == [list(texts)]
