"""Doing something at a fixed rate on the run's clock, in a thread of the harness: load workers are other processes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from bench.base.clock import NS_PER_S


class Sampler:
    """Calls `take(t_ns)` every `period_ns` from entering to leaving, and once more at the end.

    Ticks lie on a fixed grid from the first on; those that a slow `take` ran over are left out. `take` gives its own
    account of what fails: an exception ends the sampling and is kept in `error`.
    """

    def __init__(self, take: Callable[[int], object], *, name: str, period_ns: int = NS_PER_S) -> None:
        self._take = take
        self._period_ns = period_ns
        self._stop = threading.Event()
        self._first = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._started_ns = 0
        self.samples = 0
        self.cpu_ns = 0
        self.wall_ns = 0
        self.error: Exception | None = None

    @property
    def core_share(self) -> float | None:
        """Processor time of the sampling thread as a share of one core; None before leaving."""
        return self.cpu_ns / self.wall_ns if self.wall_ns else None

    def __enter__(self) -> Sampler:
        self._started_ns = time.monotonic_ns()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def await_first(self) -> None:
        """Wait until the first sample is taken, or could not be."""
        self._first.wait()

    def stop(self) -> None:
        """Take the last sample and end; a second time nothing happens."""
        self._stop.set()
        self._thread.join()
        self.wall_ns = self.wall_ns or time.monotonic_ns() - self._started_ns

    def _run(self) -> None:
        due_ns = self._started_ns
        try:
            while not self._stop.wait(max(0, due_ns - time.monotonic_ns()) / NS_PER_S):
                self._sample()
                self._first.set()
                due_ns += self._period_ns
                late_ns = time.monotonic_ns() - due_ns
                if late_ns > 0:
                    due_ns += -(-late_ns // self._period_ns) * self._period_ns
            self._sample()
        except Exception as error:  # whatever a probe meets, the measurement it watches goes on
            self.error = error
        finally:
            self._first.set()
        self.cpu_ns = time.thread_time_ns()

    def _sample(self) -> None:
        self._take(time.monotonic_ns())
        self.samples += 1
