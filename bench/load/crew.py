"""The worker processes of a scenario: started together, kept in step, listened to, stopped."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import selectors
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import bench
from bench.base.clock import NS_PER_MS
from bench.base.errors import CellFailure, FailureKind
from bench.base.files import tail
from bench.base.process import Supervised, clean_env, spawn
from bench.load.spec import API_KEY_VARIABLE, WorkerSpec

_HEAD_START_NS = 20 * NS_PER_MS
_START_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 120.0

Counts = dict[str, int]


@dataclass(kw_only=True)
class _Member:
    spec: WorkerSpec
    process: Supervised
    commands: int
    reports: int
    state: str = "starting"
    counts: Counts = field(default_factory=dict)
    pending: bytes = b""


class Stopped(Exception):
    """The scenario is to end early, because what was asked while listening said so."""


class Crew:
    """Workers of one scenario. Use as a context manager: leaving it ends them all.

    `stop_when` is asked about twice a second while listening; once it is true, Stopped is raised.
    """

    def __init__(self, on_counts: Callable[[Counts], None], stop_when: Callable[[], bool] = lambda: False) -> None:
        self._stop_when = stop_when
        self._members: list[_Member] = []
        self._selector = selectors.DefaultSelector()
        self._on_counts = on_counts

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *_: object) -> None:
        for member in self._members:
            if member.process.poll() is None:
                member.process.kill()
            _close(member.commands)
            _close(member.reports)
        self._selector.close()

    def start(self, make_spec: Callable[[int, int, int], WorkerSpec], worker: int, api_key: str | None) -> None:
        """Start one worker; `make_spec(worker, commands_fd, reports_fd)` gives its spec, whose files must exist."""
        commands_read, commands_write = os.pipe()
        reports_read, reports_write = os.pipe()
        try:
            spec = make_spec(worker, commands_read, reports_write)
            path = spec.write()
            log = path.with_suffix(".log").open("wb")
            with log:
                process = spawn(
                    [sys.executable, "-m", "bench.load.worker", str(path)],
                    output=log,
                    env=_environment(api_key),
                    pass_fds=(commands_read, reports_write),
                )
        except BaseException:
            _close(commands_write)
            _close(reports_read)
            raise
        finally:
            _close(commands_read)
            _close(reports_write)
        os.set_blocking(reports_read, False)
        member = _Member(spec=spec, process=process, commands=commands_write, reports=reports_read)
        self._members.append(member)
        self._selector.register(reports_read, selectors.EVENT_READ, member)

    def go(self) -> int:
        """Let all begin the next phase at one time, which is returned (CLOCK_MONOTONIC ns)."""
        start_ns = time.monotonic_ns() + _HEAD_START_NS
        self._command(f"go {start_ns}\n")
        return start_ns

    def stop(self) -> None:
        """Ask all to cancel what is in flight and digest what they have."""
        self._stop_when = lambda: False
        self._command("stop\n")

    def await_state(self, state: str, *, timeout_s: float | None = None) -> None:
        """Listen until every worker that lives has reported `state`. Raises CellFailure on a timeout."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while any(member.state not in (state, "done", "dead") for member in self._members):
            if deadline is not None and time.monotonic() > deadline:
                raise CellFailure(FailureKind.CLIENT_FAULT, f"a load worker was not {state} in {timeout_s} s")
            if self._stop_when():
                raise Stopped
            for key, _ in self._selector.select(0.5):
                self._listen(key.data)

    def await_ready(self) -> None:
        """Until all workers can begin. Raises CellFailure when one died, with its log's tail."""
        self.await_state("ready", timeout_s=_START_TIMEOUT_S)
        for member in self._members:
            if member.state == "dead":
                raise death(member.spec, "a load worker died at its start")

    def await_done(self, *, stopping: bool = False) -> None:
        """Until every worker has digested its recording, or died."""
        self.await_state("done", timeout_s=_STOP_TIMEOUT_S if stopping else None)

    def dead(self) -> Sequence[WorkerSpec]:
        """The workers that died before they were done; what they recorded is still to be digested."""
        return [member.spec for member in self._members if member.state == "dead"]

    def _command(self, line: str) -> None:
        for member in self._members:
            with contextlib.suppress(OSError):
                os.write(member.commands, line.encode())

    def _listen(self, member: _Member) -> None:
        try:
            read = os.read(member.reports, 65536)
        except BlockingIOError:
            return
        if not read:
            self._selector.unregister(member.reports)
            if member.state != "done":
                member.state = "dead"
            return
        *lines, member.pending = (member.pending + read).split(b"\n")
        for line in lines:
            self._report(member, json.loads(line))

    def _report(self, member: _Member, report: dict[str, Any]) -> None:
        if "state" in report:
            member.state = report["state"]
        else:
            member.counts = report
            every = [other.counts for other in self._members]
            names = ("done", "failed", "in_flight", "cpu_ms")
            self._on_counts({name: sum(counts.get(name, 0) for counts in every) for name in names})


def death(spec: WorkerSpec, message: str) -> CellFailure:
    """Why a worker died, as its log tells: a full disk is not a fault of the client."""
    said = tail(Path(spec.directory) / f"{spec.stem}.log")
    if os.strerror(errno.ENOSPC) in said or os.strerror(errno.EDQUOT) in said:
        where = Path(spec.directory).parent
        message = f"no space left on the disk of {where}: free some, the same command goes on from what is recorded"
        return CellFailure(FailureKind.DISK_FULL, message, log_tail=said)
    return CellFailure(FailureKind.CLIENT_FAULT, message, log_tail=said)


def _environment(api_key: str | None) -> dict[str, str]:
    package_root = str(Path(bench.__file__).resolve().parents[1])
    extra = {"PYTHONPATH": package_root} | ({API_KEY_VARIABLE: api_key} if api_key else {})
    return clean_env(extra=extra)


def _close(descriptor: int) -> None:
    with contextlib.suppress(OSError):
        os.close(descriptor)
