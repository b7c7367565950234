"""Running a worker in a toolchain and getting its answer back, whatever happens to it."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.base.errors import QuantbenchError, ToolchainError
from bench.base.files import read_json, tail, write_json
from bench.base.process import Supervised, spawn
from bench.base.progress import Progress
from bench.toolchains.toolchain import Toolchain

PROTOCOL = 1
_BOOTSTRAP = Path(__file__).with_name("bootstrap.py")
_POLL_S = 0.1


class WorkerError(QuantbenchError):
    """A worker did not give a result.

    `kind` is what the worker reported (`error`, `import_error`, `out_of_memory`, `disk_full`, or a name of its own),
    or what was seen from outside: `crashed`, `timeout`, `bad_reply`.
    """

    def __init__(self, kind: str, message: str, *, log_tail: str = "") -> None:
        super().__init__(message)
        self.kind = kind
        self.log_tail = log_tail


def run_worker(
    toolchain: Toolchain,
    worker: Path,
    request: Mapping[str, Any],
    *,
    work_dir: Path,
    log: Path,
    progress: Progress,
    timeout_s: float | None = None,
    env: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Run `worker` (a file that defines `run(request, progress) -> dict`) with the toolchain's Python.

    Request and reply are JSON files in `work_dir`; stdout and stderr are appended to `log`. Returns the worker's
    result plus `usage`: {wall_s, cpu_s, peak_rss_bytes}, the last two null when the supervisor could not tell.
    Raises WorkerError; any exception, Ctrl-C included, ends the whole process tree first.
    """
    if not toolchain.python.exists():
        raise ToolchainError(f"toolchain {toolchain.name}: there is no Python at {toolchain.python}")
    work_dir.mkdir(parents=True, exist_ok=True)
    log.parent.mkdir(parents=True, exist_ok=True)
    name = worker.stem
    request_path, reply_path = work_dir / f"{name}.request.json", work_dir / f"{name}.reply.json"
    reply_path.unlink(missing_ok=True)
    write_json(request_path, dict(request))
    argv = [str(toolchain.python), "-I", str(_BOOTSTRAP), str(worker), str(request_path), str(reply_path)]
    started = time.monotonic()
    with log.open("ab") as stream, _ProgressPipe(progress) as pipe:
        variables = toolchain.environ({**(env or {}), "QUANTBENCH_PROGRESS_FD": str(pipe.writer)})
        with spawn(argv, output=stream, env=variables, pass_fds=[pipe.writer]) as tool:
            code = _follow(tool, pipe, name, timeout_s, log)
    wall_s = time.monotonic() - started
    result = _read_reply(reply_path, name, code, log)
    used = tool.usage
    result["usage"] = {
        "wall_s": wall_s,
        "cpu_s": None if used is None else used.cpu_s,
        "peak_rss_bytes": None if used is None else used.peak_rss_bytes,
    }
    return result


def _follow(tool: Supervised, pipe: _ProgressPipe, name: str, timeout_s: float | None, log: Path) -> int:
    """Pass progress on until the worker ends; kills its tree at the deadline."""
    pipe.close_writer()
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    while (code := tool.poll()) is None:
        pipe.forward(_POLL_S)
        if deadline is not None and time.monotonic() > deadline:
            tool.kill()
            raise WorkerError("timeout", f"{name} did not end within {timeout_s:g} s", log_tail=tail(log))
    pipe.forward(0.0)
    return code


def _read_reply(path: Path, name: str, code: int, log: Path) -> dict[str, Any]:
    try:
        reply = read_json(path)
    except FileNotFoundError:
        raise WorkerError("crashed", f"{name} {ended(code)} without a reply", log_tail=tail(log)) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise WorkerError("bad_reply", f"{name} wrote a reply that is not JSON: {error}", log_tail=tail(log)) from error
    if not isinstance(reply, dict) or reply.get("protocol") != PROTOCOL:
        raise WorkerError("bad_reply", f"{name} answered in another protocol than {PROTOCOL}", log_tail=tail(log))
    if reply.get("status") == "error":
        raise WorkerError(str(reply.get("kind")), f"{name}: {reply.get('message')}", log_tail=tail(log))
    result = reply.get("result")
    if reply.get("status") != "ok" or not isinstance(result, dict):
        raise WorkerError("bad_reply", f"{name} answered neither with a result nor an error", log_tail=tail(log))
    return result


def ended(code: int) -> str:
    """How a process ended, in words: `exited with code 3`, `was killed by SIGSEGV`."""
    if code <= 128:
        return f"exited with code {code}"
    with contextlib.suppress(ValueError):
        number = signal.Signals(code - 128)
        hint = " (most likely for lack of memory)" if number is signal.SIGKILL else ""
        return f"was killed by {number.name}{hint}"
    return f"exited with code {code}"


class _ProgressPipe:
    """The reading end of a worker's progress lines."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._reader, self.writer = os.pipe()
        self._writer_open = True
        self._at_end = False
        self._rest = b""
        os.set_blocking(self._reader, False)

    def __enter__(self) -> _ProgressPipe:
        return self

    def __exit__(self, *_: object) -> None:
        self.close_writer()
        os.close(self._reader)

    def close_writer(self) -> None:
        """Close our own copy of the writing end, so that the worker's end is the end."""
        if self._writer_open:
            os.close(self.writer)
            self._writer_open = False

    def forward(self, wait_s: float) -> None:
        """Report what has arrived, waiting at most `wait_s` seconds for it."""
        if self._at_end:
            time.sleep(min(wait_s, 0.005))
            return
        if not select.select([self._reader], [], [], wait_s)[0]:
            return
        data = b""
        with contextlib.suppress(BlockingIOError):
            while chunk := os.read(self._reader, 65_536):
                data += chunk
            self._at_end = True
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._report(line)

    def _report(self, line: bytes) -> None:
        with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError):
            event = json.loads(line)
            total = event.get("total")
            self._progress.advance(
                int(event["done"]), None if total is None else int(total), str(event["unit"]), str(event["message"])
            )
