"""A cell's server is started at most once, also when it does not start."""

from __future__ import annotations

import contextlib

import pytest

from bench.base.errors import CellFailure, FailureKind
from bench.engines.launch import Endpoint
from bench.pipeline.endpoint import LazyEndpoint


def test_a_server_that_did_not_start_is_not_tried_again() -> None:
    tried: list[str] = []

    def start() -> contextlib.AbstractContextManager[Endpoint]:
        tried.append("start")
        raise CellFailure(FailureKind.START_TIMEOUT, "generated nothing")

    with LazyEndpoint(start) as endpoint:
        for _ in range(3):
            with pytest.raises(CellFailure, match="generated nothing"):
                endpoint.get()
    assert tried == ["start"]
    assert endpoint.started is None


def test_a_server_that_nothing_asks_for_is_not_started() -> None:
    def start() -> contextlib.AbstractContextManager[Endpoint]:
        raise AssertionError("nobody asked for it")

    with LazyEndpoint(start) as endpoint:
        assert endpoint.started is None
