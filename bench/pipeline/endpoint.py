"""The server of a cell, started when something first asks for it: a fully cached cell starts none."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack

from bench.base.errors import QuantbenchError
from bench.engines.launch import Endpoint
from bench.pipeline.gpus import await_drained, memory_now
from bench.telemetry.memory import MemoryWatch


class LazyEndpoint:
    """Enter it freely; `get` starts the server once, leaving stops it.

    `attached`: the server runs already and goes on, so that no GPU is waited for to be empty after it.
    """

    def __init__(self, start: Callable[[], AbstractContextManager[Endpoint]], *, attached: bool = False) -> None:
        self._start = start
        self._attached = attached
        self._stack = ExitStack()
        self._endpoint: Endpoint | None = None
        self._memory: MemoryWatch | None = None
        self._failure: QuantbenchError | None = None
        self._last: Endpoint | None = None
        self._earlier_peak_bytes: int | None = None

    def __enter__(self) -> LazyEndpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def get(self) -> Endpoint:
        """The running server; raises CellFailure, ToolchainError or UsageError when it does not start.

        One that did not start is not tried again: every further scenario would wait for the same deadline. One that
        died is started anew: its death is the failure of the scenario it died in, the next one may go well.
        """
        if self._failure is not None:
            raise self._failure
        if self._endpoint is not None and not self._endpoint.alive:
            self.leave()
        if self._endpoint is None:
            if not self._attached:
                self._stack.callback(await_drained, memory_now())
            try:
                self._endpoint = self._stack.enter_context(self._start())
            except QuantbenchError as failure:
                failure.stage = "serve"
                self._failure = failure
                raise
            if self._endpoint.tree_pid is not None:
                self._memory = self._stack.enter_context(MemoryWatch(self._endpoint.tree_pid))
        return self._endpoint

    def leave(self) -> None:
        """End the server; what asks next gets a new one."""
        self._earlier_peak_bytes = self.peak_memory_bytes
        self._last = self._endpoint
        self._stack.close()
        self._endpoint = self._memory = None

    @property
    def started(self) -> Endpoint | None:
        """The latest server when one was started."""
        return self._endpoint or self._last

    @property
    def memory_bytes(self) -> int | None:
        """Resident memory of the running server's process tree as last seen."""
        return None if self._memory is None else self._memory.latest_bytes

    @property
    def peak_memory_bytes(self) -> int | None:
        """Largest resident memory of the server's process tree seen so far; None when it never ran."""
        seen = (self._earlier_peak_bytes, None if self._memory is None else self._memory.peak_bytes)
        return max((peak for peak in seen if peak is not None), default=None)
