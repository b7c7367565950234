"""A cell's server is started when it is asked for, once, and again only after it died."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.base.errors import CellFailure, FailureKind, QuantbenchError, ToolchainError, UsageError
from bench.base.process import spawn
from bench.engines.base import Command, Engine
from bench.engines.launch import Endpoint
from bench.pipeline.endpoint import LazyEndpoint


@pytest.mark.parametrize(
    "failure",
    [
        CellFailure(FailureKind.START_TIMEOUT, "generated nothing"),
        ToolchainError("generated nothing"),
        UsageError("generated nothing"),
    ],
)
def test_a_server_that_did_not_start_is_not_tried_again(failure: QuantbenchError) -> None:
    tried: list[str] = []

    def start() -> contextlib.AbstractContextManager[Endpoint]:
        tried.append("start")
        raise failure

    with LazyEndpoint(start) as endpoint:
        for _ in range(3):
            with pytest.raises(type(failure), match="generated nothing") as caught:
                endpoint.get()
            assert caught.value.stage == "serve"
    assert tried == ["start"]
    assert endpoint.started is None


def test_a_server_that_nothing_asks_for_is_not_started() -> None:
    def start() -> contextlib.AbstractContextManager[Endpoint]:
        raise AssertionError("nobody asked for it")

    with LazyEndpoint(start) as endpoint:
        assert endpoint.started is None


@pytest.mark.parametrize("attached", [True, False])
def test_gpus_are_waited_for_where_a_server_was_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attached: bool
) -> None:
    waited: list[object] = []
    monkeypatch.setattr("bench.pipeline.endpoint.await_drained", waited.append)
    running = Endpoint(
        url="http://127.0.0.1:1",
        model="m",
        api_key="",
        command=Command(argv=[]),
        process=None,
        log=tmp_path / "log",
        ready_s=None,
        engine=Engine(),
    )
    with LazyEndpoint(lambda: contextlib.nullcontext(running), attached=attached) as endpoint:
        assert endpoint.get() is running
    assert len(waited) == (0 if attached else 1)


def test_a_server_that_died_is_started_anew_for_what_comes_next(tmp_path: Path) -> None:
    ended: list[str] = []

    @contextlib.contextmanager
    def start() -> Iterator[Endpoint]:
        with spawn(["sleep", "60"], output=None) as process:
            yield Endpoint(
                url=f"http://127.0.0.1:{len(ended)}",
                model="m",
                api_key="k",
                command=Command(argv=[]),
                process=process,
                log=tmp_path / "log",
                ready_s=0.0,
                engine=Engine(),
            )
            ended.append("ended")

    with LazyEndpoint(start) as endpoint:
        first = endpoint.get()
        assert endpoint.get() is first
        assert first.process is not None
        first.process.kill()
        second = endpoint.get()
        assert second.url == "http://127.0.0.1:1"
        assert endpoint.started is second
    assert ended == ["ended", "ended"]
    assert not second.alive
