"""Whether a server still answers while it is under load: one that hangs would keep every request to its deadline."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from bench.base.errors import CellFailure, FailureKind
from bench.engines.running import Endpoint

if TYPE_CHECKING:
    import httpx

#: A machine under load may take this long for any answer, however often it is asked.
_ANSWER_S = 1.0


class HealthWatch:
    """Asks a server for its health in a thread between entering and leaving.

    Any answer below 500 is a sign of life. A server that gave none on entering has no such route, and is not watched;
    nor is one whose `unhealthy_after_s` is None, or whose engine answers nothing else while it answers a request.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._limit_s = endpoint.unhealthy_after_s if endpoint.engine.health_under_load else None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="health-watch", daemon=True)
        self._answered_s: float | None = None
        self._lost = False

    def __enter__(self) -> HealthWatch:
        if self._limit_s is not None:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._limit_s is not None:
            self._thread.join()

    def lost(self) -> bool:
        """Whether the server has not answered for too long; after leaving, whether that was ever seen."""
        if self._limit_s is not None and self._answered_s is not None and not self._lost and not self._stop.is_set():
            self._lost = time.monotonic() - self._answered_s > self._limit_s
        return self._lost

    def failure(self) -> CellFailure:
        """What is recorded of a server that was lost."""
        kind = self._endpoint.engine.kind
        message = (
            f"{kind} did not answer for {self._limit_s:g} s under load, and was given up; "
            "raise engine.unhealthy_after_s if it is only busy"
        )
        return CellFailure(FailureKind.UNHEALTHY, message, log_tail=self._endpoint.said)

    def _run(self) -> None:
        assert self._limit_s is not None
        every_s = min(5.0, self._limit_s / 5)
        with self._endpoint.client() as client:
            client.timeout = max(_ANSWER_S, every_s)
            while True:
                if self._answers(client):
                    self._answered_s = time.monotonic()
                elif self._answered_s is None:
                    return
                if self._stop.wait(every_s):
                    return

    def _answers(self, client: httpx.Client) -> bool:
        import httpx

        try:
            return client.get(self._endpoint.engine.health_path).status_code < 500
        except httpx.HTTPError:
            return False
