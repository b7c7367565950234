"""Between servers the GPUs' memory is waited for; under load others on them are noticed."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

import pytest

from bench.base.clock import NS_PER_S, FakeClock
from bench.pipeline.gpus import SLACK_BYTES, await_drained, memory_now, others_on_gpu
from bench.telemetry.gpu import GpuProcess, Unavailable

GIB = 1 << 30


def readings(*each: Sequence[int | None]) -> Callable[[], Sequence[int | None]]:
    """One reading after the other, the last one for ever."""
    left = list(each)
    return lambda: left.pop(0) if len(left) > 1 else left[0]


def nobody_tells() -> list[int | None]:
    raise Unavailable("NVML: not found")


def test_memory_that_is_given_back_late_is_waited_for() -> None:
    clock = FakeClock()
    used = readings([40 * GIB, GIB], [20 * GIB, GIB], [GIB + SLACK_BYTES, GIB])
    assert await_drained([GIB, GIB], used=used, clock=clock)
    assert clock.now_ns() == NS_PER_S // 2


def test_memory_that_is_not_given_back_does_not_stop_the_run() -> None:
    clock = FakeClock()
    assert not await_drained([GIB], used=readings([40 * GIB]), clock=clock)
    assert clock.now_ns() == 30 * NS_PER_S


@pytest.mark.parametrize("used", [nobody_tells, readings([None])])
def test_what_nobody_tells_is_not_waited_for(used: Callable[[], Sequence[int | None]]) -> None:
    clock = FakeClock()
    assert await_drained([GIB], used=used, clock=clock)
    assert await_drained(memory_now(nobody_tells), used=readings([40 * GIB]), clock=clock)
    assert clock.now_ns() == 0


@pytest.mark.parametrize(
    ("found", "shared"),
    [
        ([(0, os.getpid())], False),
        ([(0, os.getpid()), (0, 1)], True),
        ([(0, os.getpid()), (1, 1)], False),
        ([(0, 1)], False),
        ([], False),
    ],
    ids=["alone", "beside another", "another elsewhere", "on none", "nobody"],
)
def test_others_count_where_the_server_itself_is(found: list[tuple[int, int]], shared: bool) -> None:
    processes = [GpuProcess(gpu=gpu, pid=pid, memory_bytes=None) for gpu, pid in found]
    assert others_on_gpu(os.getpid(), lambda: processes) is shared


def test_of_a_server_that_is_not_below_us_nothing_is_known() -> None:
    processes = [GpuProcess(gpu=0, pid=1, memory_bytes=None)]
    assert not others_on_gpu(None, lambda: processes)
    assert not others_on_gpu(2**22 + 1, lambda: processes)
