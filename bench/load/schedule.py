"""When requests leave. Drawn whole before the run, from a seed; split over workers without changing the process.

The open-loop processes are drawn here as offsets from the start. `ClosedArrivals` and `OpenArrivals` are what a worker
asks during the run: they know times and counts, no sockets, and take every time from their caller.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from bench.base.clock import NS_PER_S
from bench.load.config import ClosedConfig, OpenConfig, PoissonConfig, ScenarioConfig


def draw_offsets(scenario: OpenConfig, repeat: int) -> npt.NDArray[np.int64]:
    """Offsets in ns from the start, one a request, ascending; the first is 0.

    Constant: i / rate. Poisson: cumulative sums of exponential gaps of mean 1 / rate. Each repeat draws anew.
    """
    if isinstance(scenario, PoissonConfig):
        generator = np.random.default_rng([scenario.seed, repeat])
        gaps = generator.exponential(NS_PER_S / scenario.rate_per_s, scenario.requests - 1)
        return np.concatenate([[0], np.cumsum(gaps)]).astype(np.int64)
    return (np.arange(scenario.requests) * (NS_PER_S / scenario.rate_per_s)).astype(np.int64)


def workers_used(scenario: ScenarioConfig) -> int:
    """How many workers can have something to do: never more than users, or requests."""
    users = scenario.concurrency if isinstance(scenario, ClosedConfig) else scenario.requests
    return min(scenario.workers, scenario.requests, users)


def users_of(scenario: ClosedConfig, worker: int) -> int:
    """How many users of a closed loop live in `worker`: user u lives in worker u mod workers."""
    workers = workers_used(scenario)
    return len(range(worker, scenario.concurrency, workers))


def worker_of(scenario: ScenarioConfig, position: int) -> int:
    """Which worker sends the request at `position` of its phase.

    Open loop: position mod workers, each at its own drawn time, so that the union is the drawn process.
    Closed loop: the worker of user (position mod concurrency), so that each worker's share is that of its users.
    """
    workers = workers_used(scenario)
    if isinstance(scenario, ClosedConfig):
        return (position % scenario.concurrency) % workers
    return position % workers


class Arrivals(Protocol):
    """What the client loop asks: when is the next request due, which is it, is there any more."""

    def next_due_ns(self) -> int | None:
        """When the next request is due; None when nothing is due before another request ends, or at all."""
        ...

    def take(self, now_ns: int) -> tuple[int, int] | None:
        """The (slot, scheduled_ns) of a request that is due at `now_ns`, or None."""
        ...

    def finished(self, now_ns: int) -> None:
        """A request ended at `now_ns`."""
        ...

    def stop(self) -> None:
        """Nothing more shall be sent."""
        ...


class ClosedArrivals:
    """Users that send, wait for the end, think, and send again until the slots run out or the time is over."""

    def __init__(
        self, slots: Sequence[int], users: int, start_ns: int, *, think_ns: int = 0, duration_ns: int | None = None
    ) -> None:
        self._slots = deque(slots)
        self._due = deque([start_ns] * min(users, len(slots)))
        self._think_ns = think_ns
        self._last_ns = None if duration_ns is None else start_ns + duration_ns

    def next_due_ns(self) -> int | None:
        return self._due[0] if self._due and self._slots else None

    def take(self, now_ns: int) -> tuple[int, int] | None:
        if not self._due or not self._slots or self._due[0] > now_ns:
            return None
        scheduled_ns = self._due.popleft()
        if self._last_ns is not None and scheduled_ns >= self._last_ns:
            self._slots.clear()
            return None
        return self._slots.popleft(), scheduled_ns

    def finished(self, now_ns: int) -> None:
        if self._slots:
            self._due.append(now_ns + self._think_ns)

    def stop(self) -> None:
        self._slots.clear()


class OpenArrivals:
    """Requests at drawn times, whatever happens to the others."""

    def __init__(self, slots: Sequence[int], offsets_ns: Sequence[int], start_ns: int) -> None:
        self._pending = deque((slot, start_ns + offset) for slot, offset in zip(slots, offsets_ns, strict=True))

    def next_due_ns(self) -> int | None:
        return self._pending[0][1] if self._pending else None

    def take(self, now_ns: int) -> tuple[int, int] | None:
        if not self._pending or self._pending[0][1] > now_ns:
            return None
        return self._pending.popleft()

    def finished(self, now_ns: int) -> None:
        """An open loop does not care."""

    def stop(self) -> None:
        self._pending.clear()
