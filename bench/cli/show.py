"""How progress and results look: a live line on a terminal, plain lines in a log, JSON lines for machines."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from bench.base.progress import Progress, ProgressEvent

if TYPE_CHECKING:
    from bench.cli.live import LiveScreen

_PLAIN_EVERY_S = 5.0
_LOG_LINES = 15


class Display:
    """Where a command's progress (stderr) and results (stdout) go."""

    def __init__(self, *, quiet: bool, json_lines: bool, out: TextIO | None = None, err: TextIO | None = None) -> None:
        self._quiet = quiet
        self._json = json_lines
        self._out = out or sys.stdout
        self._err = err or sys.stderr
        self._live = self._err.isatty() and not json_lines
        self._stage_started: dict[tuple[str, str | None], float] = {}
        self._last_line = 0.0
        self._live_width = 0
        self._screen: LiveScreen | None = None

    def progress(self) -> Progress:
        """A progress that draws here."""
        return Progress(sink=self._show, wants_live=self._live and not self._quiet)

    def result(self, text: str, **fields: Any) -> None:
        """A result: a line of text, or its fields as one JSON line."""
        self._clear_live()
        if self._json:
            self._put(json.dumps({"event": "result", **fields}, default=str))
        else:
            self._put(text)

    def note(self, text: str) -> None:
        """A line that helps people read a table; JSON records carry it already."""
        if not self._json:
            self._put(text)

    def log_tail(self, text: str) -> None:
        """The last lines of the log that tells why something failed, for people; JSON results carry it already."""
        lines = text.splitlines()[-_LOG_LINES:]
        if lines and not self._json:
            print("\n".join(f"    {line}" for line in lines), file=self._err, flush=True)

    def table(
        self,
        name: str,
        columns: Sequence[str],
        rows: Sequence[Sequence[str]],
        *,
        records: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        """A small table, or one JSON line a row: the row itself, or its record where `records` say more exactly."""
        self._clear_live()
        if self._json:
            for record in records or [dict(zip(columns, row, strict=True)) for row in rows]:
                self._put(json.dumps({"event": name, **record}))
            return
        widths = [
            max(len(column), *(len(row[i]) for row in rows)) if rows else len(column)
            for i, column in enumerate(columns)
        ]
        for row in (columns, *rows):
            self._put("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())

    def _show(self, event: ProgressEvent) -> None:
        if self._json:
            fields = {name: value for name, value in vars(event).items() if value is not None and name != "live"}
            self._put(json.dumps({"event": "progress", **fields}))
        elif not self._quiet:
            self._show_text(event)

    def _show_text(self, event: ProgressEvent) -> None:
        where = event.stage if event.cell is None else f"{event.cell} | {event.stage}"
        if event.done is None:
            self._clear_live()
            print(f"{where}: {event.message}", file=self._err, flush=True)
            return
        now = time.monotonic()
        key = (event.stage, event.cell)
        if event.done == 0 or key not in self._stage_started:
            self._stage_started[key] = now
        line = f"{where}: {_amount(event)}{_time_left(event, now - self._stage_started[key])}"
        finished = event.total is not None and event.done >= event.total
        if event.live is not None and self._live and not finished:
            self._draw(event, where, line)
        elif self._live:
            self._clear_live()
            end = "\n" if finished else "\r"
            print(line, file=self._err, end=end, flush=True)
            self._live_width = 0 if finished else len(line)
        elif finished or now - self._last_line >= _PLAIN_EVERY_S:
            self._last_line = now
            print(line, file=self._err, flush=True)
        if finished:
            self._stage_started.pop(key, None)

    def _draw(self, event: ProgressEvent, where: str, line: str) -> None:
        from bench.cli.live import LiveScreen

        if self._screen is None:
            self._clear_live()
            self._screen = LiveScreen(self._err)
        self._screen.update(event, where, line.removeprefix(f"{where}: "))

    def _put(self, line: str) -> None:
        """Print a line; when the reader of our output has gone, measuring goes on without one."""
        try:
            print(line, file=self._out, flush=True)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._out.fileno())

    def _clear_live(self) -> None:
        if self._screen is not None:
            self._screen.close()
            self._screen = None
        if self._live_width:
            print(" " * self._live_width, file=self._err, end="\r", flush=True)
            self._live_width = 0


def _amount(event: ProgressEvent) -> str:
    total = "" if event.total is None else f"/{event.total}"
    message = f" {event.message}" if event.message else ""
    return f"{event.done}{total} {event.unit or ''}{message}".rstrip()


def _time_left(event: ProgressEvent, elapsed_s: float) -> str:
    if not event.done or event.total is None or event.done >= event.total or elapsed_s < 1:
        return ""
    left_s = round(elapsed_s * (event.total - event.done) / event.done)
    return f", about {left_s // 60}:{left_s % 60:02d} left"
