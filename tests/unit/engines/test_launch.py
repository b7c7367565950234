"""Starting an engine: ready means it generated; every other ending is typed and leaves no process."""

from __future__ import annotations

import dataclasses
import re
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from bench.base.errors import CellFailure, FailureKind, UsageError
from bench.base.progress import Progress
from bench.engines.base import Command, LogPattern, ServedModel, StartPhase, file_word
from bench.engines.container import ContainerConfig
from bench.engines.launch import DEVICE_VARIABLES, Endpoint, inherited, launched, read_counters
from bench.telemetry.provenance import ENVIRONMENT_ALLOW_LIST
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
        assert endpoint.tree_pid is not None
        assert psutil.pid_exists(endpoint.tree_pid)
        counters = endpoint.counters()
        assert counters is not None
        assert counters.generation_tokens == 1, "readiness is one generated token"
        assert counters.prompt_tokens is None, "a counter the engine lacks is missing, not 0"
    return endpoint


def test_a_server_is_ready_when_it_generates_and_gone_afterwards(toolchain: Toolchain) -> None:
    endpoint = launch(toolchain, "slow")
    assert endpoint.url.startswith("http://127.0.0.1:")
    assert endpoint.ready_s is not None
    assert endpoint.ready_s >= 0.5
    assert not endpoint.alive
    with pytest.raises(CellFailure, match="ended while it was needed"):
        endpoint.raise_if_dead()


def test_the_key_is_in_no_command_line_and_no_repr(toolchain: Toolchain) -> None:
    endpoint = launch(toolchain, "serve")
    assert len(endpoint.api_key) >= 32
    assert endpoint.api_key not in repr(endpoint)
    assert all(endpoint.api_key not in word for word in endpoint.command.argv)


def start(
    toolchain: Toolchain, config: ImaginaryConfig, *, engine: Imaginary | None = None, progress: Progress | None = None
) -> Endpoint:
    log = toolchain.prefix / "engine.log"
    with launched(
        engine or Imaginary(), config, MODEL, toolchain=toolchain, log=log, progress=progress or Progress()
    ) as endpoint:
        return endpoint


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
        launch(toolchain, behaviour, start_timeout_s=4.0 if kind is FailureKind.START_TIMEOUT else 20.0)
    assert caught.value.kind is kind
    assert message in str(caught.value)
    if behaviour == "dies":
        assert "fatal: no such tensor" in caught.value.log_tail
    assert set(psutil.Process().children(recursive=True)) <= before


def test_a_server_that_is_stopped_while_it_loads_is_given_up(toolchain: Toolchain) -> None:
    with pytest.raises(CellFailure, match=r"no sign of progress for 4 s") as caught:
        launch(toolchain, "stops", start_timeout_s=4.0)
    assert caught.value.kind is FailureKind.START_TIMEOUT
    assert "loading weights" in caught.value.log_tail
    assert not [child for child in psutil.Process().children(recursive=True) if "stops" in child.cmdline()]


@pytest.mark.parametrize("behaviour", ["refuses_and_logs", "never_generates_and_logs"])
def test_a_log_that_only_our_own_questions_fill_is_no_progress(toolchain: Toolchain, behaviour: str) -> None:
    config = ImaginaryConfig(behaviour=behaviour, start_timeout_s=2.0, start_limit_s=20.0)
    with pytest.raises(CellFailure, match="no sign of progress for 2 s") as caught:
        start(toolchain, config)
    assert caught.value.kind is FailureKind.START_TIMEOUT
    assert "POST /v1/completions" in caught.value.log_tail


def test_a_server_that_works_longer_than_that_is_not(toolchain: Toolchain) -> None:
    ready_s = launch(toolchain, "works_long", start_timeout_s=2.5).ready_s
    assert ready_s is not None
    assert ready_s >= 3


def test_no_work_lasts_beyond_the_limit(toolchain: Toolchain) -> None:
    config = ImaginaryConfig(behaviour="works_long", start_limit_s=1.0)
    with pytest.raises(CellFailure, match=r"generated nothing within 1 s; raise engine\.start_limit_s"):
        start(toolchain, config)


def test_what_a_server_does_is_told_while_it_starts(toolchain: Toolchain) -> None:
    class Talking(Imaginary):
        start_phases = (StartPhase(pattern=re.compile("loading (weights)"), words="loading its {0}"),)

    told: list[str] = []
    config = ImaginaryConfig(behaviour="stops", start_timeout_s=4.0)
    with pytest.raises(CellFailure):
        start(toolchain, config, engine=Talking(), progress=Progress(sink=lambda event: told.append(event.message)))
    assert "waiting for imaginary (loading its weights)" in told


def test_a_program_of_ones_own_takes_the_toolchains_place(tmp_path: Path) -> None:
    program = tmp_path / "own-python"
    program.symlink_to(sys.executable)
    config = ImaginaryConfig(executable=str(program))
    log = tmp_path / "engine.log"
    with launched(Imaginary(), config, MODEL, toolchain=None, log=log, progress=Progress()) as endpoint:
        assert endpoint.command.argv[0] == str(program)
        assert endpoint.counters() is not None


def test_variables_reach_the_server_and_their_secrets_no_record(
    toolchain: Toolchain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKEN", "hf_secret")
    config = ImaginaryConfig(behaviour="tells_env", env={"PLAIN": "yes"}, pass_env=["TOKEN"])
    endpoint = start(toolchain, config)
    assert "PLAIN=yes TOKEN=hf_secret" in endpoint.log.read_text()
    assert endpoint.command.env == {"PLAIN": "yes"}
    assert "hf_secret" not in repr(endpoint)
    monkeypatch.delenv("TOKEN")
    with pytest.raises(UsageError, match=r"engine\.pass_env: the environment variable TOKEN is not set"):
        start(toolchain, config)


def test_the_devices_that_are_set_for_this_process_are_the_servers(
    toolchain: Toolchain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    told = start(toolchain, ImaginaryConfig(behaviour="tells_env")).log.read_text()
    assert "CUDA_VISIBLE_DEVICES=3\n" in told
    own = ImaginaryConfig(behaviour="tells_env", env={"CUDA_VISIBLE_DEVICES": "1"})
    assert "CUDA_VISIBLE_DEVICES=1\n" in start(toolchain, own).log.read_text()


def test_what_is_inherited_is_what_the_server_is_not_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    image = ContainerConfig(image="name:tag")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert inherited(ImaginaryConfig()) == {}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert inherited(ImaginaryConfig()) == inherited(ImaginaryConfig(executable="x")) == {"CUDA_VISIBLE_DEVICES": ""}
    assert inherited(ImaginaryConfig(env={"CUDA_VISIBLE_DEVICES": "1"})) == {}
    assert inherited(ImaginaryConfig(base_url="http://127.0.0.1:1")) == {}
    assert inherited(ImaginaryConfig(container=image)) == {}
    handed = ImaginaryConfig(container=image, pass_env=["CUDA_VISIBLE_DEVICES"])
    assert inherited(handed) == {"CUDA_VISIBLE_DEVICES": ""}
    assert set(DEVICE_VARIABLES) <= set(ENVIRONMENT_ALLOW_LIST)


def test_files_are_there_for_the_server_and_gone_afterwards(toolchain: Toolchain) -> None:
    class Filing(Imaginary):
        def command(self, *arguments: Any) -> Command:
            made = super().command(*arguments)
            return dataclasses.replace(made, argv=[*made.argv, file_word("a.yaml")], files={"a.yaml": "text"})

    log = toolchain.prefix / "engine.log"
    with launched(Filing(), ImaginaryConfig(), MODEL, toolchain=toolchain, log=log, progress=Progress()) as endpoint:
        path = Path(endpoint.command.argv[-1])
        assert path.read_text() == "text"
    assert not path.exists()


def test_a_lost_race_for_the_port_is_tried_again(toolchain: Toolchain) -> None:
    assert launch(toolchain, "port_taken_once").ready_s


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
