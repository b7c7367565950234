"""A server that runs: what the rest of the harness may ask of it, and how its end is told."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from bench.base.errors import CellFailure, FailureKind
from bench.base.files import tail
from bench.base.process import Supervised
from bench.engines.base import Command, Engine, ServerCounters
from bench.load.preflight import open_client
from bench.load.target import Target

if TYPE_CHECKING:
    import httpx


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """A running engine. `api_key` never leaves the process that holds it; empty: none is asked for.

    `process` is None for a server that others started. `contained`: the process is the client of a container runtime.
    """

    url: str
    model: str
    api_key: str = field(repr=False)
    command: Command = field(repr=False)
    process: Supervised | None = field(repr=False)
    log: Path
    ready_s: float | None
    engine: Engine = field(repr=False)
    log_start: int = 0
    """Where in `log` this server began to write; what is before is another's."""
    contained: bool = False
    unhealthy_after_s: float | None = None

    @property
    def alive(self) -> bool:
        """False once a server that was started here has ended."""
        return self.process is None or self.process.poll() is None

    @property
    def tree_pid(self) -> int | None:
        """The process above all of the engine's; None where they are not below us."""
        return None if self.process is None or self.contained else self.process.supervisor_pid

    @property
    def said(self) -> str:
        """The end of what this server has logged."""
        return tail(self.log, start=self.log_start)

    @property
    def said_at_length(self) -> str:
        """Enough of what it has logged to hold a cause that several processes' tracebacks follow."""
        return tail(self.log, start=self.log_start, lines=4000, limit_bytes=1 << 19)

    def client(self) -> httpx.Client:
        """A client for the few requests beside a measurement."""
        return open_client(Target(url=self.url, model=self.model, api_key=self.api_key or None))

    def raise_if_dead(self) -> None:
        """Raise CellFailure with the log's tail when the server has ended."""
        code = None if self.process is None else self.process.poll()
        if code is not None:
            message = f"{self.engine.kind} ended while it was needed ({exit_text(code)})"
            raise died(self.engine, self.said_at_length, message)

    def counters(self) -> ServerCounters | None:
        """The engine's own token counters, or None when it has no metrics."""
        if self.engine.metrics_path is None:
            return None
        import httpx

        with self.client() as client:
            try:
                response = client.get(self.engine.metrics_path)
                response.raise_for_status()
            except httpx.HTTPError:
                return None
        return read_counters(self.engine, response.text)


def read_counters(engine: Engine, exposition: str) -> ServerCounters:
    """Pick an engine's counters out of Prometheus text; a counter it lacks is None, and so is text that is none."""
    from prometheus_client.parser import text_string_to_metric_families

    totals: dict[str, float] = {}
    with contextlib.suppress(ValueError):
        for family in text_string_to_metric_families(exposition):
            for sample in family.samples:
                name = sample.name.removesuffix("_total")
                totals[name] = totals.get(name, 0.0) + sample.value

    def value(name: str | None) -> int | None:
        return None if name is None or name not in totals else round(totals[name])

    return ServerCounters(
        prompt_tokens=value(engine.prompt_counter), generation_tokens=value(engine.generation_counter)
    )


def died(engine: Engine, log: str, message: str) -> CellFailure:
    """The typed failure for a server that ended, with the cause that its log gives.

    The failure's `log_tail` ends with the log, or with the cause where much was said after it.
    """
    from bench.engines.log_patterns import COMMON_PATTERNS

    for known in (*engine.log_patterns, *COMMON_PATTERNS):
        found = known.pattern.search(log)
        if found:
            kept = _kept(log, found.start())
            return CellFailure(known.kind, f"{message}; {known.advice}", log_tail=kept)
    return CellFailure(FailureKind.CRASHED, message, log_tail=_kept(log, len(log)))


_KEPT_LINES = 40


def _kept(log: str, cause: int) -> str:
    lines = log.splitlines()
    end = min(len(lines), log.count("\n", 0, cause) + 2)
    if end > len(lines) - _KEPT_LINES:
        end = len(lines)
    return "\n".join(lines[max(0, end - _KEPT_LINES) : end])


def exit_text(code: int) -> str:
    """An exit code in words; codes above 128 are signals."""
    import signal

    if code > 128:
        with contextlib.suppress(ValueError):
            return f"killed by {signal.Signals(code - 128).name}"
    return f"exit code {code}"
