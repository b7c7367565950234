"""`quantbench fit` as users meet it: a table, JSON lines, and one clear line for what cannot be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support import Answer, quantbench
from tests.unit.plan.test_fit import smollm

GIVEN = ("hardware.gpus=0", "hardware.memory_gib=16")


def fit(tmp_path: Path, *arguments: str) -> Answer:
    """Run it here, with a cache that nobody has filled."""
    return quantbench("fit", *arguments, cwd=tmp_path, env={"QUANTBENCH_CACHE": str(tmp_path / "cache")})


def test_a_table_tells_sizes_and_what_decided_and_nothing_is_written(tmp_path: Path) -> None:
    path = smollm(tmp_path)
    answer = fit(tmp_path, "model=local", f"model.path={path}", "-m", "scheme=gguf_q8_0,gguf_q4_0", *GIVEN)
    assert answer.returncode == 0, answer.stderr
    hardware, head, *rows = answer.stdout.splitlines()
    assert "main memory 16.0 GiB" in hardware
    assert head.split()[:3] == ["cell", "output", "quantizing"]
    assert [row.split("  ")[0] for row in rows] == ["Q8_0 · llama_cpp", "Q4_0 · llama_cpp"]
    assert all(" + 180 MiB + " in row and "16.0 GiB" in row and "fits (serving" in row for row in rows)
    assert list(tmp_path.iterdir()) == [path]


def test_json_lines_hold_bytes_and_null_for_what_is_not_known(tmp_path: Path) -> None:
    path = smollm(tmp_path)
    asked = ("model=local", f"model.path={path}", "engine.gpu_layers=0", "hardware=h100_80gb", "--json-lines")
    hardware, cell, *_ = (json.loads(line) for line in fit(tmp_path, *asked).stdout.splitlines())
    assert (hardware["gpu_bytes"], hardware["main_bytes"]) == (80 << 30, None)
    assert cell["cache_bytes"] == 180 << 20
    assert cell["serving_bytes"] == cell["weight_bytes"] + cell["cache_bytes"] + cell["overhead_bytes"]
    assert (cell["verdict"], cell["decided_by"]["available_bytes"]) == ("unknown", None)
    assert "main memory" in cell["unknown"]


def test_a_whole_experiment_of_a_model_that_is_not_here_is_unknown(tmp_path: Path) -> None:
    answer = fit(tmp_path, "experiment=quickstart")
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.count("unknown: the model is not on this machine") == 4
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_shows_the_same_figures(tmp_path: Path) -> None:
    path = smollm(tmp_path)
    asked = ("model=local", f"model.path={path}", "scheme=gguf_q8_0", "--json-lines")
    env = {"QUANTBENCH_CACHE": str(tmp_path / "cache")}
    for command in ("run", "quantize"):
        answer = quantbench(command, *asked, "--dry-run", cwd=tmp_path, env=env)
        (row,) = (json.loads(line) for line in answer.stdout.splitlines())
        assert (row["status"], row["cache_bytes"], row["supported"]) == ("planned", 180 << 20, "yes")
    assert list(tmp_path.iterdir()) == [path]


def test_a_dry_run_plans_for_a_model_that_is_not_here(tmp_path: Path) -> None:
    answer = quantbench("run", "model=local", "model.path=nothing.gguf", "--dry-run", cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    assert "planned" in answer.stdout
    assert "there is no such file" in answer.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("model=local", "model.path=nothing.gguf"), "there is no such file"),
        (("hardware=h100_80",), "hardware 'h100_80' is unknown; did you mean 'h100_80gb'?"),
        (("hardware.memory=80",), "'hardware.memory' is not a known key"),
        (("hardware.memory_gib=-1",), "hardware.memory_gib=-1.0 must be positive"),
        (("hardware.gpus=many",), "hardware.gpus"),
        (("hardware=h100_80gb,l4_24gb",), "name one hardware at a time"),
        (("scheme=gguf_f16,gguf_q8_0",), "add -m to run their product"),
        (("scheme=nothing",), "scheme 'nothing' is unknown"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_bad_input_is_one_clear_line(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    answer = fit(tmp_path, *arguments)
    assert answer.returncode == 2, answer.stdout + answer.stderr
    assert said in answer.stderr
    assert len(answer.stderr.splitlines()) == 1
