"""What a cell asks before it makes anything, and what its key is made of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.base.errors import UsageError
from bench.base.progress import Progress
from bench.pipeline.cell import Cell
from bench.pipeline.context import Context
from bench.pipeline.schemas import register_all
from bench.plan.plan import plan
from bench.store.run import RunStore, Status
from quantize.run import Artefact

register_all()


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """What was quantized, in place of quantizing."""
    asked: list[str] = []

    def quantize(model: Any, scheme: Any, **_: Any) -> Artefact:
        asked.append(scheme.label)
        return Artefact(key="v", directory=tmp_path, manifest={})

    monkeypatch.setattr("bench.pipeline.cell.quantize", quantize)
    return asked


def cell(folder: Path, *overrides: str) -> Cell:
    (spec,) = plan(list(overrides)).cells
    return Cell(spec, Context(cache=folder / "cache", run=RunStore(folder / "out"), progress=Progress()))


def test_the_key_of_an_attached_server_is_looked_for_before_anything_is_made(tmp_path: Path, made: list[str]) -> None:
    attached = ("scheme=gguf_q8_0", "engine=openai", "engine.base_url=http://127.0.0.1:1/v1")
    found = cell(tmp_path, *attached, "engine.api_key_env=NO_SUCH_KEY")
    assert found.run() is Status.FAILED
    assert isinstance(found.failure, UsageError)
    assert "engine.api_key_env: the environment variable NO_SUCH_KEY is not set" in str(found.failure)
    assert found.record["failure"]["stage"] == "quantize"
    assert made == []


def test_devices_that_the_engine_inherits_make_another_measurement(
    tmp_path: Path, made: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def key(*overrides: str) -> str | None:
        found = cell(tmp_path, "scheme=gguf_q8_0", *overrides)
        found.quantize()
        return found.key

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    plain, told = key(), key("+engine.env.CUDA_VISIBLE_DEVICES=0")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert len({plain, told, key()}) == 3
    assert key("+engine.env.CUDA_VISIBLE_DEVICES=0") == told, "it inherits nothing"


def test_a_hopeless_variants_other_tasks_are_skipped_and_say_why(tmp_path: Path, made: list[str]) -> None:
    found = cell(tmp_path, "scheme=gguf_q8_0", "+task@tasks.mmlu=multiple_choice", "stop_when.divergence=0.5")
    found.quantize()
    found.hopeless = "hopeless: mean_divergence of d is 0.8, above stop_when.divergence=0.5"
    found.evaluate(None, ["mmlu"])  # type: ignore[arg-type]  # nothing is judged
    entry = found.record["tasks"]["mmlu"]
    assert (entry["status"], entry["failure"]["kind"]) == ("unsupported", "hopeless")
    assert "above stop_when.divergence=0.5" in entry["failure"]["message"]
