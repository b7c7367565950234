"""The live screen of a load run: rate, what is in flight, latencies of now, errors, the client's own error."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TextIO

from bench.base.progress import ProgressEvent

if TYPE_CHECKING:
    from rich.console import RenderableType

_RATE_S = 5.0


class LiveScreen:
    """Draws on a terminal, in place, and leaves nothing behind when closed."""

    def __init__(self, stream: TextIO, *, now_s: Callable[[], float] = time.monotonic) -> None:
        from rich.console import Console
        from rich.live import Live

        self._now_s = now_s
        self._started_s = now_s()
        self._past: deque[tuple[float, float, float]] = deque()
        """(time, requests done, CPU ms) of the last seconds."""
        self._live = Live(
            console=Console(file=stream),
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._live.start()

    def update(self, event: ProgressEvent, where: str, line: str) -> None:
        """Show the figures of `event`; `line` is the progress as one line."""
        self._live.update(self.render(event.live or {}, where, line), refresh=True)

    def close(self) -> None:
        self._live.stop()

    def render(self, live: Mapping[str, Any], where: str, line: str) -> RenderableType:
        """The screen for these figures."""
        from rich.panel import Panel
        from rich.table import Table
        from rich.text import Text

        rate, busy = self._rates(live)
        failed = f"{live['failed']} failed" + (f"   seen: {', '.join(live['errors'])}" if live["errors"] else "")
        tokens = live["tokens_an_answer"]
        sampled = "no answer yet" if not live["answers"] else f"of the last {live['answers']} answers sampled"
        late, slip = _figure(live["read_delay_p99_us"]), _figure(live["slip_p99_us"])
        used = "-" if busy is None else f"{100 * busy:.0f}"
        rows = (
            ("rate", f"{_figure(rate)} answers/s   {_figure(rate and tokens and rate * tokens)} tokens/s"),
            ("in flight", f"{live['in_flight']}   {failed}"),
            ("TTFT now", f"{_pair(live, 'ttft')}   {sampled}"),
            ("gap now", _pair(live, "gap")),
            (
                "own error",
                f"reads {late} µs late, requests {slip} µs (p99)   {used} % of {live['workers']} core(s) busy",
            ),
        )
        table = Table.grid(padding=(0, 2))
        table.add_column(style="dim")
        table.add_column(overflow="ellipsis", no_wrap=True)
        table.add_row("done", Text(line))
        for name, text in rows:
            table.add_row(
                name, Text(text, style="red" if name == "in flight" and (live["failed"] or live["errors"]) else "")
            )
        return Panel(table, title=Text(where), title_align="left")

    def _rates(self, live: Mapping[str, Any]) -> tuple[float | None, float | None]:
        """(answers per second, share of the workers' time in use) over the last seconds."""
        now = self._now_s()
        self._past.append((now, live["done"], live["cpu_ms"]))
        while len(self._past) > 2 and self._past[0][0] < now - _RATE_S:
            self._past.popleft()
        then, done, cpu_ms = self._past[0]
        if now - then < 0.2:
            return None, None
        busy = (live["cpu_ms"] - cpu_ms) / 1000 / (now - then) / live["workers"]
        return (live["done"] - done) / (now - then), busy


def _pair(live: Mapping[str, Any], name: str) -> str:
    return f"{_figure(live[f'{name}_p50_ms'])} ms p50, {_figure(live[f'{name}_p95_ms'])} p95"


def _figure(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
