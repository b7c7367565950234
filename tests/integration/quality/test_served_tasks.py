"""Tasks on a real llama-server: structured answers, stop words, and the same server as MT-Bench's judge."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from bench.base.progress import Progress
from bench.engines.base import ServedModel, engine_of
from bench.engines.launch import launched
from bench.engines.llama_cpp import LlamaCppConfig
from bench.engines.running import Endpoint
from bench.quality.generation.ask import Api, Sampling, chat, completion, user
from bench.quality.generation.cache import AnswerStore
from bench.quality.generation.client import Limits
from bench.quality.generation.config import Grading, JudgeConfig, MtBenchConfig, ServedTaskConfig
from bench.quality.generation.evaluate import evaluate_served
from bench.quality.generation.session import Session
from quantize.schemes.gguf import GgufType
from tests.integration.quantize.real_llama_cpp import artefact, toolchain
from tests.support import test_data

pytestmark = pytest.mark.llama_cpp

LIMITS = Limits(start=2, concurrency=2)


@contextlib.contextmanager
def llama_server(folder: Path) -> Iterator[Endpoint]:
    config = LlamaCppConfig(max_model_len=4096, max_sequences=2, threads=1)
    model = ServedModel(format="gguf", path=artefact(GgufType.Q8_0).model_path, name="smol")
    log = folder / "engine.log"
    with launched(engine_of(config), config, model, toolchain=toolchain(), log=log, progress=Progress()) as endpoint:
        yield endpoint


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    with llama_server(tmp_path_factory.mktemp("server")) as running:
        yield running


def session(endpoint: Endpoint, folder: Path, key: str = "v") -> Session:
    return Session(
        key=key,
        label=key,
        server=lambda: endpoint,
        store=AnswerStore(folder / f"{key}.jsonl"),
        progress=Progress(),
        work_dir=folder / "work",
        concurrency=2,
        context=2048,
        model_format="gguf",
    )


def evaluated(task: ServedTaskConfig, endpoint: Endpoint, folder: Path) -> dict[str, Any]:
    sessions = [session(endpoint, folder, key) for key in ("v", "b")]
    own, base = ((each, task.generate(each)) for each in sessions)
    return evaluate_served(task, own=own, base=base, scored_by={}, out=folder / "out", progress=Progress())


def test_both_routes_answer_in_full_and_the_same_twice(endpoint: Endpoint, tmp_path: Path) -> None:
    greedy = Sampling(max_tokens=8)
    requests = [
        completion("The capital of France is", greedy),
        completion("1, 2, 3, 4, 5, 6,", Sampling(max_tokens=32, stop=("9",))),
        chat([user("Say hello.")], greedy),
    ]
    answers = session(endpoint, tmp_path).answers(requests, LIMITS)
    assert "Paris" in (answers[0].text or "")
    assert (answers[0].finish_reason, answers[0].output_tokens) == ("length", 8)
    assert answers[1].finish_reason == "stop"
    assert "8" in (answers[1].text or "")
    assert "9" not in (answers[1].text or "")
    assert all(answer.error is None and answer.prompt_tokens for answer in answers)
    assert requests[2].api is Api.chat
    again = session(endpoint, tmp_path, "again").answers(requests[:1], LIMITS)
    assert again[0].text == answers[0].text


def test_an_enforced_schema_is_kept(endpoint: Endpoint, tmp_path: Path) -> None:
    from bench.quality.probes import fits

    schema = {"type": "object", "properties": {"city": {"enum": ["Lima", "Rome"]}}, "required": ["city"]}
    form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}
    said = [user("In which city is the Colosseum? Answer with JSON.")]
    asked = [chat(said, Sampling(max_tokens=24), response_format=form), chat(said, Sampling(max_tokens=24))]
    enforced, free = session(endpoint, tmp_path).answers(asked, LIMITS)
    assert fits(enforced.text or "", schema)
    assert free.text
    assert not fits(free.text, schema), "this small model does not do it by itself"


def test_a_prompt_that_does_not_fit_is_refused_and_not_guessed(endpoint: Endpoint, tmp_path: Path) -> None:
    requests = [completion("word " * 9000, Sampling(max_tokens=1)), completion("word", Sampling(max_tokens=1))]
    long, short = session(endpoint, tmp_path).answers(requests, LIMITS)
    assert (long.text, long.error) == (None, "refused")
    assert "context" in (long.message or "")
    assert short.text is not None


def test_a_local_server_judges(endpoint: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The judge here is too small to be right: what is tested is that its words are asked for, read and counted."""
    monkeypatch.setenv("JUDGE_KEY", endpoint.api_key)
    judge = JudgeConfig(url=f"{endpoint.url}/v1", model=endpoint.model, api_key_env="JUDGE_KEY", max_tokens=24)
    task = MtBenchConfig(
        data=str(test_data("mtbench/question.jsonl").parent),
        judge=judge,
        limit=1,
        max_tokens=12,
        grading=Grading.both,
    )
    task.check()
    summary = evaluated(task, endpoint, tmp_path)
    assert summary["errors"] == {}
    assert summary["judge"]["model"] == "smol"
    items = pq.read_table(tmp_path / "out" / "items.parquet").to_pydict()
    said = [text for name in items if "judgement" in name for text in items[name] if text is not None]
    read = [each for name in ("rating", "base_rating", "as_a", "as_b") for each in items[name] if each is not None]
    assert len(said) == 4 * 2
    assert len(said) - len(read) == summary["judge"]["unreadable"]
    assert summary["metrics"]["mt_bench_score"]["n"] == sum(rating is not None for rating in items["rating"])
