"""What goes wrong with a real llama-server at its start: a typed failure with the log's tail, and nothing left."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from bench.base.errors import CellFailure, FailureKind
from bench.base.progress import Progress
from bench.engines.base import ServedModel, engine_of
from bench.engines.launch import Endpoint, launched
from bench.engines.llama_cpp import LlamaCppConfig
from quantize.schemes.gguf import GgufType
from tests.integration.quantize.real_llama_cpp import artefact, toolchain

pytestmark = pytest.mark.llama_cpp

SMALL = LlamaCppConfig(max_model_len=256, max_sequences=1, threads=1)


@pytest.fixture(scope="module")
def model() -> ServedModel:
    return ServedModel(format="gguf", path=artefact(GgufType.Q8_0).model_path, name="smol")


def servers() -> list[psutil.Process]:
    found = []
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if child.name() == "llama-server":
                found.append(child)
    return found


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    yield
    assert servers() == []


def start(config: LlamaCppConfig, model: ServedModel, folder: Path) -> Endpoint:
    log = folder / "engine.log"
    with launched(engine_of(config), config, model, toolchain=toolchain(), log=log, progress=Progress()) as endpoint:
        return endpoint


def signal_at_start(number: signal.Signals) -> threading.Thread:
    """Send a signal to the server as soon as there is one."""

    def run() -> None:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            for server in servers():
                server.send_signal(number)
                return
            time.sleep(0.002)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_killed_while_it_starts(model: ServedModel, tmp_path: Path) -> None:
    thread = signal_at_start(signal.SIGKILL)
    with pytest.raises(CellFailure, match=r"ended before it was ready \(killed by SIGKILL\)") as caught:
        start(SMALL, model, tmp_path)
    thread.join()
    assert caught.value.kind is FailureKind.CRASHED


def test_hung_while_it_starts(model: ServedModel, tmp_path: Path) -> None:
    thread = signal_at_start(signal.SIGSTOP)
    began = time.monotonic()
    with pytest.raises(CellFailure, match="no sign of progress for 2 s") as caught:
        start(dataclasses.replace(SMALL, start_timeout_s=2.0), model, tmp_path)
    thread.join()
    assert caught.value.kind is FailureKind.START_TIMEOUT
    assert time.monotonic() - began < 20


def test_a_model_that_is_not_there(model: ServedModel, tmp_path: Path) -> None:
    missing = dataclasses.replace(model, path=tmp_path / "model.gguf")
    with pytest.raises(CellFailure, match="the model's file is gone") as caught:
        start(SMALL, missing, tmp_path)
    assert caught.value.kind is FailureKind.CRASHED
    assert "No such file or directory" in caught.value.log_tail


def test_a_model_of_an_architecture_that_it_does_not_know(model: ServedModel, tmp_path: Path) -> None:
    strange = tmp_path / "model.gguf"
    strange.write_bytes(model.path.read_bytes().replace(b"llama", b"lxama"))
    with pytest.raises(CellFailure, match="use a newer toolchain") as caught:
        start(SMALL, dataclasses.replace(model, path=strange), tmp_path)
    assert caught.value.kind is FailureKind.UNSUPPORTED_ARCHITECTURE
    assert "unknown model architecture: 'lxama'" in caught.value.log_tail


def test_a_context_that_no_memory_holds(model: ServedModel, tmp_path: Path) -> None:
    huge = dataclasses.replace(SMALL, max_model_len=90_000_000)
    with pytest.raises(CellFailure, match=r"lower engine\.max_model_len") as caught:
        start(huge, model, tmp_path)
    assert caught.value.kind is FailureKind.OUT_OF_MEMORY
    assert re.search("unable to fit model into|failed to allocate", caught.value.log_tail)


def test_a_taken_port_is_named(model: ServedModel, tmp_path: Path) -> None:
    import socket

    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        with (
            pytest.raises(CellFailure, match="name another port") as caught,
            launched(
                engine_of(SMALL),
                SMALL,
                model,
                toolchain=toolchain(),
                log=tmp_path / "engine.log",
                progress=Progress(),
                port=port,
            ),
        ):
            pass
    assert caught.value.kind is FailureKind.PORT_TAKEN
