"""Starting tools so that none outlives the harness: whatever runs for longer than a question goes through `spawn`."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

_SUPERVISOR = Path(__file__).with_name("supervisor.py")


@dataclass(frozen=True, kw_only=True)
class Usage:
    """Resources of a finished process tree: CPU seconds of all, and the largest single process's peak memory."""

    cpu_s: float
    peak_rss_bytes: int


class Supervised:
    """A running tool under its supervisor."""

    def __init__(self, popen: subprocess.Popen[bytes], lifeline: int, usage: int, argv: Sequence[str]) -> None:
        self._popen = popen
        self._lifeline: int | None = lifeline
        self._usage_fd: int | None = usage
        self._usage: Usage | None = None
        self.argv = list(argv)

    @property
    def supervisor_pid(self) -> int:
        """Process id of the supervisor; the tool and all it started are its descendants."""
        return self._popen.pid

    def poll(self) -> int | None:
        """The tool's exit code (128 + n for signal n), or None while it runs."""
        code = self._popen.poll()
        if code is not None:
            self._close()
        return code

    def wait(self, timeout_s: float | None = None) -> int:
        """Wait for the end; raises TimeoutError after `timeout_s` seconds."""
        try:
            code = self._popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"{self.argv[0]} still runs after {timeout_s} s") from None
        self._close()
        return code

    def stop(self, grace_s: float = 5.0) -> int:
        """Ask the tool to end, then kill its whole tree; returns its exit code."""
        self._send(b"T")
        with contextlib.suppress(TimeoutError):
            return self.wait(grace_s)
        return self.kill()

    def kill(self) -> int:
        """Kill the tool and everything below it now."""
        self._send(b"K")
        return self.wait(10.0)

    @property
    def usage(self) -> Usage | None:
        """Resource usage, once the tool has ended."""
        return self._usage

    def __enter__(self) -> Supervised:
        return self

    def __exit__(self, *_: object) -> None:
        if self.poll() is None:
            self.kill()

    def _send(self, command: bytes) -> None:
        if self._lifeline is not None:
            with contextlib.suppress(BrokenPipeError):
                os.write(self._lifeline, command)

    def _close(self) -> None:
        if self._usage_fd is not None:
            line = os.read(self._usage_fd, 4096)
            os.close(self._usage_fd)
            self._usage_fd = None
            if line:
                values = json.loads(line)
                self._usage = Usage(cpu_s=values["cpu_s"], peak_rss_bytes=values["peak_rss_bytes"])
        if self._lifeline is not None:
            os.close(self._lifeline)
            self._lifeline = None


def spawn(
    argv: Sequence[str],
    *,
    output: IO[bytes] | int | None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    pass_fds: Sequence[int] = (),
) -> Supervised:
    """Start `argv` (no shell) under a supervisor; stdout and stderr go to `output` (None: the null device).

    Children inherit only `pass_fds`, so the lifeline's writing end stays in the harness alone: when the harness
    dies the supervisor reads end of file and ends the whole tree.
    """
    lifeline_read, lifeline_write = os.pipe()
    usage_read, usage_write = os.pipe()
    command = [sys.executable, "-I", "-S", str(_SUPERVISOR), str(lifeline_read), str(usage_write), "--", *argv]
    try:
        popen = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL if output is None else output,
            stderr=subprocess.STDOUT,
            env=None if env is None else dict(env),
            cwd=cwd,
            pass_fds=[lifeline_read, usage_write, *pass_fds],
            start_new_session=True,
        )
    except BaseException:
        for descriptor in (lifeline_write, usage_read):
            os.close(descriptor)
        raise
    finally:
        os.close(lifeline_read)
        os.close(usage_write)
    return Supervised(popen, lifeline_write, usage_read, argv)


def free_port(host: str = "127.0.0.1") -> int:
    """A TCP port that was free a moment ago; the engine that takes it may still lose a race and fail to start."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


SHORT_SPIN = {"GOMP_SPINCOUNT": "20000"}
"""Threads of OpenMP wait some ten microseconds for each other before they sleep. torch does many small operations:
with its usual millisecond each wait costs a slice of the scheduler as soon as anything else runs, twenty times the work
where cores are shared; with none, a fifth more time where they are not (`scripts/bench_quantizers.py --overhead`)."""


def clean_env(*, keep: Sequence[str] = (), extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """An environment for tools: the basics, what `keep` names, and `extra`; no PYTHONPATH of ours leaks in."""
    basics = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "USER", "LD_LIBRARY_PATH", "SSL_CERT_FILE", "TZ")
    env = {name: os.environ[name] for name in (*basics, *keep) if name in os.environ}
    env.update(extra or {})
    return env


def wait_until(condition: object, *, timeout_s: float, every_s: float = 0.05) -> bool:
    """Poll a callable until it is true or `timeout_s` has passed."""
    assert callable(condition)
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(every_s)
    return bool(condition())
