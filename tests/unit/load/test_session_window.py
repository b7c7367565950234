"""The window of a closed loop of sessions ends when a user finds no session left to begin."""

from __future__ import annotations

import dataclasses

import numpy as np

from bench.load.config import ClosedConfig
from bench.load.window import find_window
from tests.unit.load.timelines import MS, Requests, request, tables


def test_it_ends_with_the_first_user_that_has_nothing_to_do() -> None:
    """Two users, five sessions of three turns of 10 ms: the second user is idle from 61 ms, the first from 90 ms."""
    starts = [[0, 10, 20], [1, 11, 21], [30, 40, 50], [31, 41, 51], [60, 70, 80]]
    sent = [start for session in starts for start in session]
    requests: Requests = [request(slot, start, [4, 5]) for slot, start in enumerate(sent)]
    table, _ = tables(requests)
    table = dataclasses.replace(table, session=np.repeat(np.arange(5), 3), turn=np.tile(np.arange(3), 5))
    window = find_window(table, ClosedConfig(concurrency=2, requests=15, drop_waves=0))
    assert window.end_ns == 61 * MS
