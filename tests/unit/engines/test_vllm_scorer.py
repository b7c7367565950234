"""vLLM's scorer without vLLM: which rows of logits are a prompt's, what a baseline is given, what is called corrupt."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from tests.support import worker_module

VOCABULARY = 5


class Rows:
    """A tensor as far as the scorer looks at one."""

    def __init__(self, array: Any) -> None:
        self.array = array
        self.shape = array.shape

    def detach(self) -> Rows:
        return self

    def __getitem__(self, index: Any) -> Rows:
        return Rows(self.array[index])

    def to(self, _: Any) -> Rows:
        return self

    def cpu(self) -> Rows:
        return self

    def numpy(self) -> Any:
        return self.array


@pytest.fixture(scope="module")
def worker() -> Iterator[Any]:
    """The worker's module, with as much of torch as it asks for."""
    with worker_module("vllm_scorer", absent=("torch", "transformers", "vllm")) as module:
        cat: Callable[..., Rows] = lambda rows: Rows(np.concatenate([row.array for row in rows]))  # noqa: E731
        module.torch = types.SimpleNamespace(cat=cat, float32="float32")
        yield module


class Engine:
    """Computes logits as one of vLLM's runners: `calls` are the rows of each call after that of the sampled token."""

    def __init__(self, calls: Callable[[int], list[slice]]) -> None:
        self.model = types.SimpleNamespace(compute_logits=Rows)
        self.calls = calls

    def generate(self, prompts: list[dict[str, Any]], *_: Any, **__: Any) -> list[Any]:
        (prompt,) = prompts
        ids = np.array(prompt["prompt_token_ids"], dtype=np.float32)
        hidden = np.repeat(ids[:, None], VOCABULARY + 3, axis=1)  # some models pad their output
        self.model.compute_logits(hidden[-1:])
        for rows in self.calls(len(ids)):
            self.model.compute_logits(hidden[rows])
        return []


def model_of(worker: Any, engine: Engine) -> Any:
    worker.vllm.SamplingParams = lambda **_: None
    model = object.__new__(worker.Model)
    model.engine, model.vocabulary, model._seen, model._parts = engine, VOCABULARY, None, 1
    model._watch(engine.model)
    return model


@pytest.mark.parametrize(
    "calls",
    [
        lambda n: [slice(0, n - 1)],
        lambda n: [slice(0, n)],
        lambda n: [slice(0, 4), slice(4, n)],
        lambda n: [slice(start, start + 1) for start in range(n)],
    ],
    ids=["V1", "V2", "V2 in parts", "row by row"],
)
@pytest.mark.parametrize("first", [0, 2])
def test_rows_are_those_of_the_prompts_tokens_but_the_last(worker: Any, calls: Any, first: int) -> None:
    ids = np.array([10, 11, 12, 13, 14], dtype=np.int32)
    found = model_of(worker, Engine(calls)).logits(ids, first)
    assert found.shape == (4 - first, VOCABULARY)
    assert found[:, 0].tolist() == [10, 11, 12, 13][first:]


def test_too_few_rows_are_not_scored(worker: Any) -> None:
    model = model_of(worker, Engine(lambda n: [slice(0, n - 2)]))
    with pytest.raises(worker.ScorerError, match="computed 3 rows of logits for 5 tokens"):
        model.logits(np.arange(5, dtype=np.int32), 0)


def failing(message: str) -> Callable[..., Any]:
    def load(**_: Any) -> Any:
        raise RuntimeError(message)

    return load


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("Error while deserializing header: SafetensorError", "load_failed"),
        ("There is no module or parameter named 'model.layers.0.x'", "load_failed"),
        ("Free memory on device cuda:0 (1/80 GiB) is less than desired GPU memory utilization", "out_of_memory"),
        ("CUDA out of memory. Tried to allocate", "out_of_memory"),
        ("Engine core initialization failed. See root cause above.", "error"),
        ("Invalid attention backend", "error"),
    ],
)
def test_only_what_speaks_against_the_checkpoint_makes_it_corrupt(worker: Any, message: str, kind: str) -> None:
    worker.vllm.LLM = failing(message)
    request = {"options": {}, "variant": "v", "variant_load_method": "", "baseline": "b", "baseline_load_method": ""}
    with pytest.raises(worker.ScorerError) as caught:
        worker.loaded(request, "variant", 8)
    assert caught.value.kind == kind
    with pytest.raises(worker.ScorerError) as caught:
        worker.loaded(request, "baseline", 8)
    assert caught.value.kind == ("error" if kind == "load_failed" else kind), "it says nothing of the variant"


def test_a_baseline_is_not_quantized_by_the_engine(worker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, dict[str, Any]] = {}
    monkeypatch.setattr(worker, "Model", lambda path, method, options, context: given.update({path: options}))
    options = {"dtype": "float16", "quantization": "fp8_per_channel", "kv_cache_dtype": "fp8"}
    request = {"options": options, "variant": "v", "variant_load_method": "", "baseline": "b"}
    for side in ("variant", "baseline"):
        worker.loaded({**request, "baseline_load_method": ""}, side, 8)
    assert given["v"] == {**options, "enable_prefix_caching": False}
    assert given["b"] == {"dtype": "float16", "enable_prefix_caching": False}
