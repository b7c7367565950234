"""One clock: CLOCK_MONOTONIC in integer nanoseconds, injected wherever time is scheduled so that tests can fake it."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol

NS_PER_S = 1_000_000_000
NS_PER_MS = 1_000_000


class Clock(Protocol):
    """What scheduling code may know of time."""

    def now_ns(self) -> int:
        """Monotonic time, nanoseconds from an arbitrary origin."""
        ...

    def sleep_ns(self, duration_ns: int) -> None:
        """Block for `duration_ns` nanoseconds; returns at once when it is not positive."""
        ...


class SystemClock:
    """The machine's monotonic clock."""

    def now_ns(self) -> int:
        return time.monotonic_ns()

    def sleep_ns(self, duration_ns: int) -> None:
        if duration_ns > 0:
            time.sleep(duration_ns / NS_PER_S)


class FakeClock:
    """A clock that moves only when slept on or set: scheduling tests are exact and instant."""

    def __init__(self, start_ns: int = 0) -> None:
        self._now_ns = start_ns

    def now_ns(self) -> int:
        return self._now_ns

    def sleep_ns(self, duration_ns: int) -> None:
        self._now_ns += max(0, duration_ns)


def utc_now() -> str:
    """Wall-clock time for manifests, ISO 8601 in UTC with seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")
