"""Which cells verify an engine, and what is read from how they ended."""

from __future__ import annotations

from typing import Any

import pytest

from bench.base.errors import UsageError
from bench.engines.base import SupportAnswer
from bench.pipeline.run import CellOutcome
from bench.pipeline.schemas import register_all
from bench.pipeline.verify import Attempt, Seen, attempts, seen
from bench.store.run import Status
from bench.toolchains.config import Accelerator

WORKED: dict[str, Any] = {
    "engine": {"kind": "llama_cpp"},
    "failure": None,
    "scenarios": {
        "c1": {
            "status": "complete",
            "counted": {"output_tokens": 48},
            "server": {"generation_tokens": 48},
            "quiescent": True,
        }
    },
}
KERNEL = {"stage": "serve", "kind": "missing_kernel", "message": "no kernel", "log_tail": "the log"}


@pytest.fixture(autouse=True)
def _schemas() -> None:
    register_all()


@pytest.fixture(scope="module")
def gguf() -> Attempt:
    register_all()
    (found,) = attempts("llama_cpp", ["scheme=gguf_q8_0"])
    return found


def outcome(status: Status, **changes: Any) -> CellOutcome:
    return CellOutcome(label="Q8_0 · llama_cpp", status=status, record={**WORKED, **changes})


def without(key: str) -> dict[str, Any]:
    return {"c1": {name: value for name, value in WORKED["scenarios"]["c1"].items() if name != key}}


def test_what_the_table_denies_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.engines.support_matrix.processor_flags", frozenset)
    found = attempts("vllm", [])
    names = {attempt.format.name for attempt in found}
    assert {"unquantized", "fp8_dynamic", "int8", "w4a16"} <= names
    assert not names & {"gguf", "nvfp4", "fp8_block", "w8a16", "bitsandbytes", "load_eetq"}
    assert all(attempt.told.answer is not SupportAnswer.NO for attempt in found)
    kinds = {attempt.spec.config.engine.kind for attempt in found if attempt.spec.config}
    assert kinds == {"vllm"}


def test_a_preset_decides_where_it_computes() -> None:
    names = {attempt.format.name for attempt in attempts("vllm_gpu", [])}
    assert {"nvfp4", "fp8_block", "w8a16"} <= names


def test_cells_are_small_and_the_users_words_win() -> None:
    found = attempts("llama_cpp", ["scheme=gguf_q8_0,gguf_f16", "engine.threads=1", "scenarios.c1.requests=2"])
    configs = [attempt.spec.config for attempt in found]
    assert [config.scheme.label for config in configs if config] == ["Q8_0", "F16"]
    for config in configs:
        assert config is not None
        assert list(config.scenarios) == ["c1"]
        assert not config.tasks
        assert config.engine.threads == 1
        scenario, workload = config.scenario("c1")
        assert (getattr(scenario, "requests", None), workload.output_tokens) == (2, 16)


@pytest.mark.parametrize(
    ("engine", "overrides", "message"),
    [
        ("openai", [], "engine=openai is not in the table of support"),
        ("vlm", [], "engine 'vlm' is unknown"),
        ("tgi", ["scheme=prequantized"], "scheme=prequantized has no format of its own"),
        ("sglang", ["engine.toolchain=vllm"], "says yes to nothing on cpu"),
    ],
)
def test_what_cannot_be_verified(engine: str, overrides: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        attempts(engine, overrides)


def test_an_engine_that_works(gguf: Attempt) -> None:
    row = seen(gguf, outcome(Status.COMPLETE))
    assert (row.loads, row.generates, row.counted, row.metrics) == (True, True, True, True)
    assert (row.works, row.holds, row.correction) == (True, True, "")


@pytest.mark.parametrize(
    ("changes", "kind", "fault"),
    [
        ({"engine": None, "scenarios": {}, "failure": KERNEL}, "missing_kernel", "no kernel"),
        ({"scenarios": {}}, "", "generates: no"),
        ({"scenarios": {"c1": {**WORKED["scenarios"]["c1"], "server": {"generation_tokens": 47}}}}, "", "counted: no"),
        ({"scenarios": without("server")}, "", "tokens counted: no"),
        ({"scenarios": without("quiescent")}, "", "metrics read: no"),
    ],
)
def test_an_engine_that_does_not(gguf: Attempt, changes: dict[str, Any], kind: str, fault: str) -> None:
    row = seen(gguf, outcome(Status.FAILED, **changes))
    assert (row.works, row.holds, row.kind) == (False, False, kind)
    assert row.correction.startswith("llama_cpp on cpu, gguf: yes → no (")
    assert fault in row.correction


def failed_in(stage: str, kind: str = "corrupt") -> dict[str, Any]:
    failure = {"stage": stage, "kind": kind, "message": "it does not load", "log_tail": ""}
    return {"engine": None, "scenarios": {}, "failure": failure}


@pytest.mark.parametrize(
    ("stage", "kind", "holds"),
    [("quantize", "usage", True), ("quantize", "quantizer", False), ("accept", "evaluator", False)],
)
def test_what_was_not_asked_of_the_engine(gguf: Attempt, stage: str, kind: str, holds: bool) -> None:
    row = seen(gguf, outcome(Status.FAILED, **failed_in(stage, kind)))
    assert (row.tried, row.loads, row.correction, row.message) == (False, None, "", "it does not load")
    assert row.holds is holds


@pytest.mark.parametrize(("engine", "tried"), [("vllm", True), ("tgi", False)])
def test_what_its_own_library_cannot_load_is_a_failure_of_the_engine(engine: str, tried: bool) -> None:
    (attempt,) = attempts(engine, ["scheme=fp8_dynamic"])
    row = seen(attempt, outcome(Status.FAILED, **failed_in("accept")))
    assert (row.tried, row.holds, row.loads) == (tried, not tried, False if tried else None)


def test_a_refusal_is_what_a_no_looks_like(gguf: Attempt) -> None:
    row = seen(gguf, outcome(Status.UNSUPPORTED, engine=None, scenarios={}, unsupported_reason="not hf"))
    assert (row.tried, row.kind, row.message) == (False, "unsupported", "not hf")


def test_what_was_open_is_answered() -> None:
    row = Seen(
        engine="vllm",
        accelerator=str(Accelerator.cuda),
        format="nvfp4",
        variant="NVFP4",
        told=SupportAnswer.UNVERIFIED,
        tried=True,
        loads=True,
        generates=True,
    )
    assert row.correction == "vllm on cuda, nvfp4: unverified → yes"
    assert row.holds
