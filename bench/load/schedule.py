"""When requests leave. Drawn whole before the run, from a seed; split over workers without changing the process.

What is spread over time is *units*: a request, or a session whose later turns follow from its answers. The open-loop
processes are drawn here as offsets from the start. The arrivals are what a worker asks during the run: they know times
and counts, no sockets, and take every time from their caller.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from bench.base.clock import NS_PER_S
from bench.load.arrivals.config import ClosedStagesConfig, GammaConfig, StagesConfig, TraceConfig
from bench.load.arrivals.stages import draw_times, presence
from bench.load.arrivals.trace import read_trace
from bench.load.config import ClosedConfig, OpenConfig, PoissonConfig, RatedConfig, ScenarioConfig, ThinkTime

_THINK_STREAM = 1

FAR_NS = 2**62
"""Later than everything: due when something outside has happened."""


def draw_offsets(scenario: OpenConfig, repeat: int) -> npt.NDArray[np.int64]:
    """Offsets in ns from the start, one a unit, ascending. At one rate and of a trace, the first is 0.

    Constant: i / rate. Poisson: cumulative sums of exponential gaps of mean 1 / rate; gamma: of gamma gaps of the same
    mean. Stages: see `bench.load.arrivals.stages`. Each repeat draws anew. Raises UsageError for a trace that cannot be
    read.
    """
    if isinstance(scenario, TraceConfig):
        return read_trace(scenario).offsets_ns
    generator = np.random.default_rng([scenario.seed, repeat])
    if isinstance(scenario, StagesConfig):
        times = draw_times(scenario.read(), scenario.burstiness, generator)
        return np.asarray(times[: scenario.requests or None] * NS_PER_S).astype(np.int64)
    assert isinstance(scenario, RatedConfig)
    mean_ns, number = NS_PER_S / scenario.rate_per_s, scenario.requests
    if isinstance(scenario, PoissonConfig):
        gaps = generator.exponential(mean_ns, number - 1)
    elif isinstance(scenario, GammaConfig):
        gaps = generator.gamma(scenario.burstiness, mean_ns / scenario.burstiness, number - 1)
    else:
        return (np.arange(number) * mean_ns).astype(np.int64)
    return np.concatenate([[0], np.cumsum(gaps)]).astype(np.int64)


def draw_thinking(scenario: ScenarioConfig, repeat: int) -> Iterator[int]:
    """How long is thought after each request, ns, in order of position."""
    mean_ns = round(getattr(scenario, "think_time_s", 0.0) * NS_PER_S)
    if getattr(scenario, "think", ThinkTime.constant) is ThinkTime.constant or not mean_ns:
        while True:
            yield mean_ns
    generator = np.random.default_rng([scenario.seed, repeat, _THINK_STREAM])
    while True:
        yield from generator.exponential(mean_ns, 256).astype(np.int64).tolist()


def users_in_all(scenario: ScenarioConfig) -> int | None:
    """The users of a closed loop, at most at once; None in an open one."""
    if isinstance(scenario, ClosedConfig):
        return scenario.concurrency
    return scenario.most_users() if isinstance(scenario, ClosedStagesConfig) else None


def workers_used(scenario: ScenarioConfig) -> int:
    """How many workers can have something to do: never more than users, or requests."""
    users = users_in_all(scenario)
    return min(scenario.workers, scenario.requests, scenario.requests if users is None else users)


def users_of(scenario: ScenarioConfig, worker: int) -> range:
    """The users of a closed loop that live in `worker`: user u lives in worker u mod workers."""
    return range(worker, users_in_all(scenario) or 0, workers_used(scenario))


def presence_of(scenario: ClosedStagesConfig, worker: int) -> list[list[tuple[int, int]]]:
    """For each user of a worker, the intervals (ns from the start) in which it asks."""
    stages = scenario.read()
    return [presence(stages, user) for user in users_of(scenario, worker)]


def worker_of(scenario: ScenarioConfig, position: int) -> int:
    """Which worker sends the unit at `position` of its phase.

    Open loop: position mod workers, each at its own drawn time, so that the union is the drawn process.
    Closed loop: the worker of user (position mod users), so that each worker's share is that of its users.
    """
    workers = workers_used(scenario)
    users = users_in_all(scenario)
    return position % workers if users is None else (position % users) % workers


class Arrivals(Protocol):
    """What the client loop asks: when is the next request due, which is it, is there any more."""

    def next_due_ns(self) -> int | None:
        """When the next request is due; None when nothing is due before another request ends, or at all."""
        ...

    def take(self, now_ns: int) -> tuple[int, int] | None:
        """The (slot, scheduled_ns) of a request that is due at `now_ns`, or None."""
        ...

    def finished(self, slot: int, now_ns: int) -> None:
        """The request in `slot` ended at `now_ns`."""
        ...

    def stop(self) -> None:
        """Nothing more shall be sent."""
        ...


ThinkOf = Callable[[int], int]
"""How long is thought after the request in a slot, ns."""


def _no_thinking(_: int) -> int:
    return 0


class ClosedArrivals:
    """Users that send, wait for the end, think, and send again until the slots run out or the time is over.

    `present` gives each user's intervals (ns from the start) in which it sends; without it all are there throughout.
    """

    def __init__(
        self,
        slots: Sequence[int],
        users: int,
        start_ns: int,
        *,
        think_of: ThinkOf = _no_thinking,
        duration_ns: int | None = None,
        present: Sequence[Sequence[Sequence[int]]] | None = None,
    ) -> None:
        self._slots = slots
        self._next = 0
        self._think_of = think_of
        always = [(0, FAR_NS - start_ns if duration_ns is None else duration_ns)]
        shifts: Sequence[Sequence[Sequence[int]]] = [always] * min(users, len(slots)) if present is None else present
        self._shifts = [[(start_ns + begin, start_ns + end) for begin, end in user] for user in shifts]
        self._due = [(user[0][0], number) for number, user in enumerate(self._shifts) if user]
        heapq.heapify(self._due)
        self._asking: dict[int, int] = {}

    def next_due_ns(self) -> int | None:
        return self._due[0][0] if self._due and self._next < len(self._slots) else None

    def take(self, now_ns: int) -> tuple[int, int] | None:
        if not self._due or self._next >= len(self._slots) or self._due[0][0] > now_ns:
            return None
        scheduled_ns, user = heapq.heappop(self._due)
        slot = self._slots[self._next]
        self._next += 1
        self._asking[slot] = user
        return slot, scheduled_ns

    def finished(self, slot: int, now_ns: int) -> None:
        user = self._asking.pop(slot, None)
        if user is None:
            return
        due_ns = now_ns + self._think_of(slot)
        for begin, end in self._shifts[user]:
            if due_ns < end:
                heapq.heappush(self._due, (max(due_ns, begin), user))
                return

    def stop(self) -> None:
        self._next = len(self._slots)


class OpenArrivals:
    """Units at drawn times, whatever happens to the others."""

    def __init__(self, slots: Sequence[int], offsets_ns: Sequence[int], start_ns: int) -> None:
        if len(slots) != len(offsets_ns):
            raise ValueError(f"{len(slots)} slots and {len(offsets_ns)} offsets")
        self._slots = slots
        self._offsets_ns = offsets_ns
        self._start_ns = start_ns
        self._next = 0

    def next_due_ns(self) -> int | None:
        return self._start_ns + self._offsets_ns[self._next] if self._next < len(self._slots) else None

    def take(self, now_ns: int) -> tuple[int, int] | None:
        due_ns = self.next_due_ns()
        if due_ns is None or due_ns > now_ns:
            return None
        self._next += 1
        return self._slots[self._next - 1], due_ns

    def finished(self, slot: int, now_ns: int) -> None:
        """An open loop does not care."""

    def stop(self) -> None:
        self._next = len(self._slots)


class SessionArrivals:
    """Sessions: their first turns as `first` says, each later one a time of thought after the answer before it.

    `following` names the slot after each slot that has one. Such a turn can leave only when its body is known: between
    the end of an answer and `answered` nothing is due, and the loop is woken from outside. No later turn begins
    `duration_ns` after the start or later.
    """

    def __init__(
        self,
        first: Arrivals,
        following: Mapping[int, int],
        start_ns: int,
        *,
        think_of: ThinkOf = _no_thinking,
        duration_ns: int | None = None,
    ) -> None:
        self._first = first
        self._following = following
        self._think_of = think_of
        self._last_ns = FAR_NS if duration_ns is None else start_ns + duration_ns
        self._origin: dict[int, int] = {}
        self._ended: dict[int, int] = {}
        self._due: list[tuple[int, int]] = []
        self._stopped = False

    def next_due_ns(self) -> int | None:
        dues = [self._due[0][0]] if self._due else []
        first_ns = self._first.next_due_ns()
        dues += [] if first_ns is None else [first_ns]
        dues += [FAR_NS] if self._ended else []
        return min(dues, default=None)

    def take(self, now_ns: int) -> tuple[int, int] | None:
        if self._due and self._due[0][0] <= now_ns:
            scheduled_ns, slot = heapq.heappop(self._due)
            return slot, scheduled_ns
        return self._first.take(now_ns)

    def finished(self, slot: int, now_ns: int) -> None:
        if slot in self._following and not self._stopped:
            self._ended[slot] = now_ns
        else:
            self._over(slot, now_ns)

    def answered(self, slot: int, now_ns: int, *, usable: bool) -> None:
        """The answer in `slot` has been understood; without a usable one, its session is over."""
        ended_ns = self._ended.pop(slot, None)
        if ended_ns is None:
            return
        due_ns = ended_ns + self._think_of(slot)
        if not usable or due_ns >= self._last_ns:
            self._over(slot, now_ns)
            return
        following = self._following[slot]
        self._origin[following] = self._origin.pop(slot, slot)
        heapq.heappush(self._due, (due_ns, following))

    def stop(self) -> None:
        self._stopped = True
        self._ended.clear()
        self._due.clear()
        self._first.stop()

    def _over(self, slot: int, now_ns: int) -> None:
        """The session that `slot` belongs to has ended."""
        self._first.finished(self._origin.pop(slot, slot), now_ns)
