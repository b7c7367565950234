"""Running one installer or compiler: its output to a log, its progress to ours, its failure to one clear line."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from bench.base.errors import ToolchainError
from bench.base.files import tail
from bench.base.process import spawn
from bench.base.progress import Progress
from bench.toolchains.remedies import remedy

_POLL_S = 0.1
_PERCENT = re.compile(r"^\[\s*(\d+)%\]")
_STEPS = re.compile(r"^\[(\d+)/(\d+)\]")
_PIP = re.compile(r"^\s*(Collecting|Processing|Downloading|Using cached|Building wheel|Installing collected)\b(.*)")


def run_tool(
    argv: Sequence[str],
    *,
    what: str,
    log: Path,
    env: Mapping[str, str],
    progress: Progress,
    cwd: Path | None = None,
    expected_code: int = 0,
) -> None:
    """Run `argv` to its end, appending its output to `log`.

    Raises ToolchainError with the log's tail and one remedy when it ends with another exit code. Any exception, Ctrl-C
    included, ends the whole process tree first.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as stream:
        stream.write(f"\n$ {' '.join(argv)}\n".encode())
        stream.flush()
        start = stream.tell()
        with log.open("rb") as reader, spawn(argv, output=stream, env=env, cwd=cwd) as tool:
            reader.seek(start)
            follower = _Follower(reader, progress)
            while (code := tool.poll()) is None:
                follower.read()
                time.sleep(_POLL_S)
            follower.read()
    if code != expected_code:
        text = tail(log, lines=60)
        raise ToolchainError(f"{what} failed (exit code {code}): {remedy(text, code)} Log: {log}", log_tail=text)


class _Follower:
    """Reads what a tool appended to its log and reports what can be counted."""

    def __init__(self, reader: IO[bytes], progress: Progress) -> None:
        self._reader = reader
        self._progress = progress
        self._rest = b""
        self._last: tuple[int, int] | None = None

    def read(self) -> None:
        """Report the lines that were completed since the last call."""
        *lines, self._rest = (self._rest + self._reader.read()).split(b"\n")
        for line in lines:
            self._line(line.decode(errors="replace").rstrip())

    def _line(self, line: str) -> None:
        counted = parse_count(line)
        if counted is not None:
            if counted != self._last:
                self._last = counted
                self._progress.advance(*counted, "%" if counted[1] == 100 and "%" in line[:8] else "files")
            return
        match = _PIP.match(line)
        if match:
            self._progress.say(f"{match[1]}{match[2]}"[:120])


def parse_count(line: str) -> tuple[int, int] | None:
    """`[ 42%] …` (Make) → (42, 100), `[12/345] …` (Ninja) → (12, 345), anything else → None."""
    match = _STEPS.match(line)
    if match:
        return int(match[1]), int(match[2])
    match = _PERCENT.match(line)
    return (int(match[1]), 100) if match else None
