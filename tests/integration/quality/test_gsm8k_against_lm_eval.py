"""GSM8K's real questions asked by us and by lm-eval's own task on one server: the same texts, judged the same."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from bench.base.progress import Progress
from bench.quality.generation.config import Gsm8kConfig, LmEvalConfig, ServedTaskConfig
from bench.quality.generation.evaluate import evaluate_served
from bench.toolchains.toolchain import Toolchain
from quantize.run import ConfiguredToolchains
from tests.integration.quality.test_served_tasks import llama_server, session
from tests.support import test_data as data_path

pytestmark = [pytest.mark.toolchains, pytest.mark.llama_cpp]

QUESTIONS, TOKENS = 8, 96
TASK = """
include: {include}
task: gsm8k_here
tag: []
dataset_path: json
dataset_name: null
dataset_kwargs:
  data_files:
    test: {data}
"""


def task_file(toolchain: Toolchain) -> Path:
    (found,) = (toolchain.python.parent.parent / "lib").glob("python*/site-packages/lm_eval/tasks/gsm8k/gsm8k-cot.yaml")
    return found


def questions(strict: Sequence[str | None] = ()) -> bytes:
    """The first real questions; every second one's solution is what `strict` says, which makes that answer right."""
    rows = [json.loads(line) for line in gzip.decompress(data_path("gsm8k/test.jsonl.gz").read_bytes()).splitlines()]
    for row, answer in list(zip(rows, strict, strict=False))[::2]:
        row["answer"] = f"#### {answer}"
    return "".join(json.dumps(row) + "\n" for row in rows[:QUESTIONS]).encode()


def test_both_ask_extract_and_judge_alike(tmp_path: Path) -> None:
    data, tasks = tmp_path / "questions.jsonl", tmp_path / "tasks"
    tasks.mkdir()
    lm_eval = ConfiguredToolchains().ensure("lm_eval", Progress())
    (tasks / "gsm8k_here.yaml").write_text(TASK.format(include=task_file(lm_eval), data=data))
    ours = Gsm8kConfig(data=str(data), max_tokens=TOKENS)
    theirs = LmEvalConfig(
        tasks=["gsm8k_here"], include_path=str(tasks), concurrency=1, gen_kwargs={"max_gen_toks": TOKENS}
    )
    with llama_server(tmp_path) as endpoint:

        def items(task: ServedTaskConfig, key: str) -> dict[str, list[Any]]:
            asked = replace(session(endpoint, tmp_path, key), concurrency=1, toolchain=lambda _: lm_eval)
            own, out = (asked, task.generate(asked)), tmp_path / f"out-{key}"
            evaluate_served(task, own=own, base=None, scored_by={}, out=out, progress=Progress())
            return dict(pq.read_table(out / "items.parquet").to_pydict())

        data.write_bytes(questions())
        answered = items(ours, "ours")
        data.write_bytes(questions(answered["strict"]))
        mine, harness = items(ours, "ours"), items(theirs, "theirs")
    assert mine["output"] == answered["output"]
    first = harness["filter"].index("strict-match")
    texts = harness["response"][first : first + QUESTIONS]
    same = [json.loads(response)[0][0] == text for response, text in zip(texts, mine["output"], strict=True)]
    print(f"{sum(same)} of {QUESTIONS} texts are equal")
    assert sum(same) >= QUESTIONS - 2, "one prompt, decoded greedily, gives one text, but for ties of two tokens"
    for name, filter_name in (("strict", "strict-match"), ("flexible", "flexible-extract")):
        first = harness["filter"].index(filter_name)
        assert harness["doc_id"][first : first + QUESTIONS] == list(range(QUESTIONS))
        judged = [right == 1.0 for right in harness["exact_match"][first : first + QUESTIONS]]
        extracted = [json.loads(text)[0] for text in harness["output"][first : first + QUESTIONS]]
        assert sum(judged) >= 3, "some are right"
        for own, other in ((mine[name], extracted), (mine[f"{name}_correct"], judged)):
            assert [each for each, equal in zip(own, same, strict=True) if equal] == [
                each for each, equal in zip(other, same, strict=True) if equal
            ]
