"""Running a quantizer's executable: output to a log, progress from its lines, resources measured, failures named."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from bench.base.errors import CellFailure, FailureKind, UsageError
from bench.base.files import tail
from bench.base.process import spawn
from bench.base.progress import Progress
from quantize.gguf_file import GgufFile, read_gguf

_POLL_S = 0.05
_SIGKILL = 128 + 9
#: A C++ program that cannot write says only «iostream error»; with less than this left, the disk is why.
_FULL_BYTES = 16 << 20
_MEMORY = ("std::bad_alloc", "can't allocate memory", "MemoryError")


@dataclass(frozen=True, kw_only=True)
class Speech:
    """How a tool talks: `counted` finds `done` and `total`; `cause` finds what failed.

    Where `counted` finds no total it is `total`: 100 for percent, None when nobody knows.
    """

    counted: re.Pattern[str]
    cause: re.Pattern[str]
    unit: str
    total: int | None = 100


@dataclass(frozen=True, kw_only=True)
class ToolRun:
    """Resources a tool used; the last two are None when the supervisor could not tell."""

    wall_s: float
    cpu_s: float | None
    peak_rss_bytes: int | None


def run_quantizer(
    argv: Sequence[str],
    *,
    name: str,
    env: Mapping[str, str],
    cwd: Path,
    log: Path,
    progress: Progress,
    speech: Speech,
) -> ToolRun:
    """Run `argv` in `cwd`, appending its output to `log`; `name` is what messages call the tool.

    Raises CellFailure with the log's tail when it does not exit 0. Any exception, Ctrl-C included, ends the whole
    process tree first.
    """
    started = time.monotonic()
    with log.open("ab") as stream, log.open("rb") as reader:
        reader.seek(0, 2)
        with spawn(argv, output=stream, env=env, cwd=cwd) as tool:
            while (code := tool.poll()) is None:
                _report(reader, speech, progress)
                time.sleep(_POLL_S)
        _report(reader, speech, progress)
    wall_s = time.monotonic() - started
    if code != 0:
        raise failure(name, code, tail(log), speech.cause, free_bytes=shutil.disk_usage(cwd).free)
    used = tool.usage
    return ToolRun(
        wall_s=wall_s,
        cpu_s=None if used is None else used.cpu_s,
        peak_rss_bytes=None if used is None else used.peak_rss_bytes,
    )


def failure(name: str, code: int, log_tail: str, cause: re.Pattern[str], *, free_bytes: int) -> CellFailure:
    """The typed failure of a tool that exited with `code`; `free_bytes` are left where it was writing."""
    wrote_badly = "iostream error" in log_tail and free_bytes < _FULL_BYTES
    if wrote_badly or "No space left on device" in log_tail:
        return CellFailure(FailureKind.DISK_FULL, f"{name}: the disk is full; free some space", log_tail=log_tail)
    if code == _SIGKILL or any(words in log_tail for words in _MEMORY):
        message = f"{name} ran out of memory (exit code {code}); free memory or choose a smaller model"
        return CellFailure(FailureKind.OUT_OF_MEMORY, message, log_tail=log_tail)
    causes = cause.findall(log_tail) or [line.strip() for line in log_tail.splitlines() if line.strip()]
    said = causes[-1] if causes else "no output"
    return CellFailure(FailureKind.QUANTIZER, f"{name} exited with code {code}: {said[:200]}", log_tail=log_tail)


def checked_gguf(path: Path, name: str, log: Path) -> GgufFile:
    """The header of what tool `name` wrote; one that exits 0 with a broken file is a quantizer failure."""
    try:
        return read_gguf(path)
    except UsageError as error:
        raise CellFailure(FailureKind.QUANTIZER, f"{name} wrote no model: {error}", log_tail=tail(log)) from error


def _report(reader: IO[bytes], speech: Speech, progress: Progress) -> None:
    """Report the last count in what was written since the last call; a line cut in two is reported next time."""
    found = list(speech.counted.finditer(reader.read().decode(errors="replace")))
    if found:
        groups = found[-1].groupdict()
        total = int(groups["total"]) if groups.get("total") else speech.total
        progress.advance(int(groups["done"]), total, speech.unit)
