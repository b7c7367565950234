"""lm-evaluation-harness for real: a task of our own with its data beside it, over both routes of a llama-server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from bench.base.errors import UsageError
from bench.base.progress import Progress
from bench.engines.running import Endpoint
from bench.quality.generation.cache import AnswerStore
from bench.quality.generation.config import LmEvalConfig, LmEvalModel
from bench.quality.generation.evaluate import evaluate_served
from bench.quality.generation.session import Session
from bench.toolchains.worker import WorkerError, run_worker
from quantize.run import ConfiguredToolchains
from tests.integration.quality.test_served_tasks import llama_server, session
from tests.support import CHECKOUT

pytestmark = [pytest.mark.toolchains, pytest.mark.llama_cpp]

CAPITALS = {"France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Portugal": "Lisbon"}
TASK = """
task: capitals
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
output_type: generate_until
doc_to_text: "The capital of {{{{country}}}} is"
doc_to_target: "{{{{capital}}}}"
generation_kwargs:
  until: ["\\n"]
  max_gen_toks: 12
filter_list:
  - name: found
    filter:
      - function: regex
        regex_pattern: "(Paris|Rome|Madrid|Lisbon)"
      - function: take_first
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
metadata: {{version: 1.0}}
"""


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    with llama_server(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tasks")
    data = folder / "capitals.jsonl"
    data.write_text("".join(json.dumps({"country": c, "capital": n}) + "\n" for c, n in CAPITALS.items()))
    (folder / "capitals.yaml").write_text(TASK.format(data=data))
    return folder


def asking(endpoint: Endpoint, folder: Path, key: str) -> Session:
    toolchains = ConfiguredToolchains()
    return replace(
        session(endpoint, folder, key),
        work_dir=folder / key,
        toolchain=lambda name: toolchains.ensure(name, Progress()),
    )


@pytest.mark.parametrize("model", [LmEvalModel.local_completions, LmEvalModel.local_chat_completions])
def test_a_task_of_ones_own_is_read_back_into_metrics_and_items(
    endpoint: Endpoint, tasks: Path, tmp_path: Path, model: LmEvalModel
) -> None:
    task = LmEvalConfig(tasks=["capitals"], include_path=str(tasks), model=model, concurrency=2)
    task.check()
    asked = asking(endpoint, tmp_path, "v")
    own = (asked, task.generate(asked))
    summary = evaluate_served(
        task, own=own, base=(replace(asked, key="b"), own[1]), scored_by={}, out=tmp_path / "out", progress=Progress()
    )
    items = pq.read_table(tmp_path / "out" / "items.parquet").to_pydict()
    metric = summary["metrics"]["capitals_exact_match_found"]
    assert metric["n"] == 4
    assert metric["value"] == sum(items["exact_match"]) / 4
    if model is LmEvalModel.local_completions:
        assert metric["value"] > 0, "it knows one of them"
    assert metric["lo"] <= metric["value"] <= metric["hi"]
    assert summary["protocol"]["harness"] == "lm-eval 0.4.13"
    assert summary["metrics"]["capitals_exact_match_found_change"]["n"] == 4
    assert sorted(items["target"]) == sorted(CAPITALS.values())
    assert items["exact_match"] == [
        float(target in out) for target, out in zip(items["target"], items["output"], strict=True)
    ]
    assert endpoint.api_key not in (tmp_path / "v" / "lm_eval_worker.request.json").read_text()
    assert endpoint.api_key not in (tmp_path / "v" / "lm_eval.log").read_text()


def test_an_unknown_task_is_told_in_a_line(endpoint: Endpoint, tasks: Path, tmp_path: Path) -> None:
    task = LmEvalConfig(tasks=["no_such_task"], include_path=str(tasks))
    with pytest.raises(WorkerError, match="lm-eval has no task 'no_such_task'") as caught:
        task.generate(asking(endpoint, tmp_path, "v"))
    assert caught.value.kind == "usage"


def test_weights_that_lm_eval_cannot_load_are_refused(endpoint: Endpoint, tmp_path: Path) -> None:
    task = LmEvalConfig(tasks=["capitals"], model=LmEvalModel.hf)
    with pytest.raises(UsageError, match="loads Hugging Face weights itself"):
        task.generate(asking(endpoint, tmp_path, "v"))


CHOICES = """
task: sums
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}} ="
doc_to_choice: ["1", "2", "3"]
doc_to_target: answer
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
metadata: {{version: 1.0}}
"""


def test_a_hugging_face_variant_is_evaluated_in_process(tmp_path: Path) -> None:
    """Log-likelihoods of given continuations, on a tiny model with random weights: chance is what it gets."""
    toolchain = ConfiguredToolchains().ensure("lm_eval", Progress())
    text = tmp_path / "text.txt"
    text.write_text(
        "\n".join(f"{a} + {b} is {a + b}, said the teacher number {a * b}." for a in range(40) for b in range(40))
    )
    folder = tmp_path / "model"
    request = {"task": "make", "folder": str(folder), "text": str(text), "dtype": "float32"}
    worker = CHECKOUT / "tests" / "integration" / "quantize" / "tiny_checkpoint.py"
    run_worker(toolchain, worker, request, work_dir=tmp_path / "make", log=tmp_path / "make.log", progress=Progress())
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    data = tasks / "sums.jsonl"
    data.write_text("".join(json.dumps({"question": f"{n} + 1", "answer": n}) + "\n" for n in range(3)) * 4)
    (tasks / "sums.yaml").write_text(CHOICES.format(data=data))
    asked = Session(
        key="v",
        label="tiny",
        server=lambda: pytest.fail("no server is needed"),
        store=AnswerStore(tmp_path / "v.jsonl"),
        progress=Progress(),
        work_dir=tmp_path / "work",
        model_path=folder,
        model_format="hf",
        toolchain=lambda _: toolchain,
    )
    task = LmEvalConfig(tasks=["sums"], include_path=str(tasks), model=LmEvalModel.hf, limit=6)
    run = task.generate(asked)
    summary = evaluate_served(
        task, own=(asked, run), base=(asked, run), scored_by={}, out=tmp_path / "out", progress=Progress()
    )
    metric = summary["metrics"]["sums_acc"]
    assert metric["n"] == 6
    assert metric["lo"] <= metric["value"] <= metric["hi"]
    assert summary["metrics"]["sums_acc_change"]["value"] == 0
    assert {row["filter"] for row in run.samples} == {"none"}
