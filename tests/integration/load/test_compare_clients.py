"""The comparison of load generators: our side of it for real, the others' results read as they write them."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.support import CHECKOUT


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("compare_clients", CHECKOUT / "scripts" / "compare_clients.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["compare_clients"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def work(script: ModuleType, folder: Path, result: Any) -> Any:
    (folder / "result.json").write_text(json.dumps(result))
    return script.Work(
        url="http://127.0.0.1:1", streams=1, requests=4, tokens=3, prompts=folder, tokenizer=folder, folder=folder
    )


def test_ours_is_set_beside_the_truth() -> None:
    command = [sys.executable, "scripts/compare_clients.py", "--clients", "ours", "--streams", "3", "--seconds", "0.5"]
    done = subprocess.run(
        [*command, "--ttft-ms", "20", "--itl-ms", "3", "--tokens", "8"],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    name, streams, answers, failed, ttft, *_, delivered, cpu = map(str.strip, done.stdout.splitlines()[-1].split("|"))
    assert (name, streams, failed) == ("ours", "3", "0")
    assert int(answers) == 39
    reported, true = ttft.rstrip(")").split(" (")
    assert float(true) - 0.11 <= float(reported) < float(true) + 20
    assert 0 < float(delivered.rstrip(" %")) <= 100
    assert float(cpu) > 0


def test_guidellms_result(script: ModuleType, tmp_path: Path) -> None:
    def request(start: float, ttft: float, gap: float) -> dict[str, float]:
        return {"request_start_time": start, "time_to_first_token_ms": ttft, "inter_token_latency_ms": gap}

    found = [request(3, 30, 3), request(1, 10, 1), request(2, 20, 2)]
    requests = {"successful": found, "errored": [{}], "incomplete": []}
    reported = script.read_guidellm(work(script, tmp_path, {"benchmarks": [{"requests": requests}]}))
    assert (reported.ttft_ms, reported.gap_ms, reported.failed) == ([10, 20, 30], [3], 1)


def test_vllms_result(script: ModuleType, tmp_path: Path) -> None:
    result = {
        "errors": ["", "", "boom", ""],
        "start_times": [0.3, 0.1, 0.0, 0.2],
        "ttfts": [0.03, 0.01, 0.0, 0.02],
        "itls": [[0.003, 0.004], [0.001], [], [0.002]],
    }
    reported = script.read_vllm(work(script, tmp_path, result))
    assert reported.ttft_ms == pytest.approx([10, 20, 30])
    assert reported.gap_ms == pytest.approx([3, 4])
    assert reported.failed == 1


def test_the_tokenizer_that_is_written_counts_words(script: ModuleType, tmp_path: Path) -> None:
    prompts, tokenizer = script.write_inputs(tmp_path, 3, 5)
    lines = [json.loads(line) for line in prompts.read_text().splitlines()]
    assert [len(line["prompt"].split()) for line in lines] == [script.INPUT_WORDS] * 3
    vocabulary = json.loads((tokenizer / "tokenizer.json").read_text())["model"]["vocab"]
    assert all(word in vocabulary for line in lines for word in line["prompt"].split())
