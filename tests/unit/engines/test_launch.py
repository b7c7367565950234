"""Starting an engine: ready means it generated; every other ending is typed and leaves no process."""

from __future__ import annotations

import dataclasses
import re
import sys
from pathlib import Path

import psutil
import pytest

from bench.base.errors import CellFailure, FailureKind
from bench.base.progress import Progress
from bench.engines.base import LogPattern, ServedModel
from bench.engines.launch import Endpoint, launched, read_counters
from bench.toolchains.toolchain import Toolchain
from tests.plugins.imaginary_engine import Imaginary, ImaginaryConfig

MODEL = ServedModel(format="gguf", path=Path("model.gguf"), name="imaginary-model")


class Advised(Imaginary):
    log_patterns = (
        LogPattern(
            pattern=re.compile("failed to allocate"),
            kind=FailureKind.OUT_OF_MEMORY,
            advice="lower engine.max_sequences",
        ),
    )


@pytest.fixture
def toolchain(tmp_path: Path) -> Toolchain:
    env = {"TMPDIR": str(tmp_path)}
    return Toolchain(name="own", lock_hash="0", prefix=tmp_path, python=Path(sys.executable), env=env)


def launch(toolchain: Toolchain, behaviour: str, *, start_timeout_s: float = 20.0) -> Endpoint:
    config = ImaginaryConfig(behaviour=behaviour, start_timeout_s=start_timeout_s)
    log = toolchain.prefix / "engine.log"
    with launched(Advised(), config, MODEL, toolchain=toolchain, log=log, progress=Progress()) as endpoint:
        endpoint.raise_if_dead()
        assert psutil.pid_exists(endpoint.process.supervisor_pid)
        counters = endpoint.counters()
        assert counters is not None
        assert counters.generation_tokens == 1, "readiness is one generated token"
        assert counters.prompt_tokens is None, "a counter the engine lacks is missing, not 0"
    return endpoint


def test_a_server_is_ready_when_it_generates_and_gone_afterwards(toolchain: Toolchain) -> None:
    endpoint = launch(toolchain, "slow")
    assert endpoint.url.startswith("http://127.0.0.1:")
    assert endpoint.ready_s >= 0.5
    assert not psutil.pid_exists(endpoint.process.supervisor_pid)
    with pytest.raises(CellFailure, match="ended while it was needed"):
        endpoint.raise_if_dead()


def test_the_key_is_in_no_command_line_and_no_repr(toolchain: Toolchain) -> None:
    endpoint = launch(toolchain, "serve")
    assert len(endpoint.api_key) >= 32
    assert endpoint.api_key not in repr(endpoint)
    assert all(endpoint.api_key not in word for word in endpoint.command.argv)


@pytest.mark.parametrize(
    ("behaviour", "kind", "message"),
    [
        ("dies", FailureKind.CRASHED, "ended before it was ready (exit code 7)"),
        ("out_of_memory", FailureKind.OUT_OF_MEMORY, "lower engine.max_sequences"),
        ("never_generates", FailureKind.START_TIMEOUT, "last: HTTP 503: loading"),
    ],
)
def test_a_bad_start_is_a_typed_failure_with_the_log(
    toolchain: Toolchain, behaviour: str, kind: FailureKind, message: str
) -> None:
    before = set(psutil.Process().children(recursive=True))
    with pytest.raises(CellFailure) as caught:
        launch(toolchain, behaviour, start_timeout_s=2.0)
    assert caught.value.kind is kind
    assert message in str(caught.value)
    if behaviour == "dies":
        assert "fatal: no such tensor" in caught.value.log_tail
    assert set(psutil.Process().children(recursive=True)) <= before


def test_a_lost_race_for_the_port_is_tried_again(toolchain: Toolchain) -> None:
    assert launch(toolchain, "port_taken_once").ready_s > 0


def test_counters_are_summed_over_labels_and_missing_ones_stay_missing() -> None:
    text = (
        "# TYPE imaginary:generation_tokens counter\n"
        'imaginary:generation_tokens_total{model="a"} 40\nimaginary:generation_tokens_total{model="b"} 2\n'
    )
    counters = read_counters(Imaginary(), text)
    assert counters.generation_tokens == 42
    assert counters.prompt_tokens is None


def test_a_config_says_what_is_wrong_with_it() -> None:
    with pytest.raises(ValueError, match="max_sequences=0 must be at least 1"):
        dataclasses.replace(ImaginaryConfig(), max_sequences=0)
