"""When a server is ready, what it does until then, and when its start is given up."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.base.clock import NS_PER_MS, NS_PER_S, Clock
from bench.base.errors import CellFailure, FailureKind
from bench.base.files import read_from
from bench.base.process import Supervised
from bench.base.progress import Progress
from bench.engines.base import EngineConfig, StartPhase
from bench.engines.running import Endpoint, died, exit_text

if TYPE_CHECKING:
    import httpx

_POLL_NS = 100 * NS_PER_MS
_LOOK_NS = 500 * NS_PER_MS
_SAY_NS = 5 * NS_PER_S
#: Less processor time than this share of a core, or than this sum, is what a server uses that waits for nothing.
_BUSY_SHARE = 0.05
_BUSY_S = 0.25
_READ_BYTES = 1 << 20
#: A server that refuses is asked less often: answering is work, too, which is no sign of progress.
_REFUSED_S = 1.0


@dataclass(frozen=True, kw_only=True)
class Signs:
    """What can be seen of a server that starts, all counted from its start."""

    log_bytes: int = 0
    cpu_s: float = 0.0
    read_bytes: int = 0


class Patience:
    """Decides when a start is given up: after `quiet_s` without a sign of progress, after `limit_s` in any case."""

    def __init__(self, clock: Clock, *, quiet_s: float, limit_s: float) -> None:
        self._clock = clock
        self._quiet_s = quiet_s
        self._limit_s = limit_s
        self._start_ns = self._last_ns = clock.now_ns()
        self._last = Signs()

    def see(self, signs: Signs, *, refuses: bool = False) -> None:
        """Take note of what is seen now; the log of a server that `refuses` grows because it is asked."""
        now_ns = self._clock.now_ns()
        used_s = signs.cpu_s - self._last.cpu_s
        busy = used_s >= max(_BUSY_S, _BUSY_SHARE * (now_ns - self._last_ns) / NS_PER_S)
        read = signs.read_bytes - self._last.read_bytes >= _READ_BYTES
        if busy or read or (signs.log_bytes != self._last.log_bytes and not refuses):
            self._last, self._last_ns = signs, now_ns

    @property
    def exhausted(self) -> str:
        """Why the start is given up, with what to do; empty while there is hope."""
        now_ns = self._clock.now_ns()
        if now_ns - self._start_ns >= self._limit_s * NS_PER_S:
            return f"generated nothing within {self._limit_s:g} s; raise engine.start_limit_s if it is only slow"
        if now_ns - self._last_ns >= self._quiet_s * NS_PER_S:
            return (
                f"showed no sign of progress for {self._quiet_s:g} s and had generated nothing; "
                "raise engine.start_timeout_s if it is only slow"
            )
        return ""


def newest_phase(log: str, phases: Sequence[StartPhase]) -> str | None:
    """The words of the last line that tells a phase, or None when none does."""
    for line in reversed(log.splitlines()):
        for phase in phases:
            found = phase.pattern.search(line)
            if found:
                return phase.words.format(*found.groups())
    return None


def await_ready(
    endpoint: Endpoint,
    config: EngineConfig,
    *,
    progress: Progress,
    clock: Clock,
    find_pid: Callable[[], int | None] = lambda: None,
) -> None:
    """Return once the server has generated one token; raises CellFailure with the log's tail, the server then killed.

    Asking is left to a thread, so that the log and the processes are watched while an answer is waited for. `find_pid`
    tells the process above a container's, which is not below us; None while it is not known.
    """
    process, engine = endpoint.process, endpoint.engine
    assert process is not None
    patience = Patience(clock, quiet_s=config.start_timeout_s, limit_s=config.start_limit_s)
    watch = _Watch(endpoint, process, find_pid)
    looked_ns = said_ns = clock.now_ns()
    with _Probe(endpoint, config) as probe:
        while not probe.ready:
            code = process.poll()
            if code is not None:
                message = f"{engine.kind} ended before it was ready ({exit_text(code)})"
                raise died(engine, endpoint.said_at_length, message)
            now_ns = clock.now_ns()
            if now_ns - looked_ns >= _LOOK_NS:
                looked_ns = now_ns
                patience.see(watch.look(), refuses=probe.refused)
            if patience.exhausted:
                message = f"{engine.kind} {patience.exhausted} (last: {probe.last_answer})"
                process.kill()
                raise CellFailure(FailureKind.START_TIMEOUT, message, log_tail=endpoint.said)
            if watch.phase_changed or now_ns - said_ns >= _SAY_NS:
                said_ns = now_ns
                progress.say(f"waiting for {engine.kind} ({watch.take_phase() or probe.state})")
            clock.sleep_ns(_POLL_NS)


class _Watch:
    """Looks at a server's log and processes while it starts."""

    def __init__(self, endpoint: Endpoint, process: Supervised, find_pid: Callable[[], int | None]) -> None:
        self._find_pid = find_pid
        self._log: Path = endpoint.log
        self._phases = endpoint.engine.start_phases
        self._pid = endpoint.tree_pid
        self._start = self._read = endpoint.log_start
        self._phase: str | None = None
        self.phase_changed = False

    def look(self) -> Signs:
        """What can be seen now; a phase that the log newly tells is kept."""
        with contextlib.suppress(FileNotFoundError):
            grown = self._log.stat().st_size
            if grown > self._read:
                phase = newest_phase(read_from(self._log, self._read), self._phases)
                self._read = grown
                self.phase_changed = self.phase_changed or (phase is not None and phase != self._phase)
                self._phase = phase or self._phase
        self._pid = self._pid or self._find_pid()
        cpu_s, read_bytes = (0.0, 0) if self._pid is None else tree_use(self._pid)
        return Signs(log_bytes=self._read - self._start, cpu_s=cpu_s, read_bytes=read_bytes)

    def take_phase(self) -> str | None:
        """The newest phase, told from now on."""
        self.phase_changed = False
        return self._phase


def tree_use(root_pid: int) -> tuple[float, int]:
    """Seconds of processor time and bytes read from storage of a process and all below it, ended ones too."""
    import psutil

    cpu_s, read_bytes = 0.0, 0
    with contextlib.suppress(psutil.Error):
        root = psutil.Process(root_pid)
        for process in [root, *root.children(recursive=True)]:
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                cpu_s += times.user + times.system + times.children_user + times.children_system
            with contextlib.suppress(psutil.Error, AttributeError):
                read_bytes += int(process.io_counters().read_bytes)
    return cpu_s, read_bytes


class _Probe:
    """Asks a server for its health and then for one token, in a thread, until it answers or is let go."""

    def __init__(self, endpoint: Endpoint, config: EngineConfig) -> None:
        self._endpoint = endpoint
        self._limit_s = config.start_limit_s
        self._same_s = config.start_timeout_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="readiness", daemon=True)
        self.ready = False
        self.state = "loading"
        self.last_answer = "no answer"
        self._refusal: tuple[int, float] | None = None

    def __enter__(self) -> _Probe:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(1.0)  # it may hang on a server that is about to be killed

    @property
    def refused(self) -> bool:
        """Whether it answers and will not serve: the request is wrong, or the answer the same for `start_timeout_s`."""
        refusal = self._refusal
        if refusal is None:
            return False
        status, since_s = refusal
        return 400 <= status < 500 or time.monotonic() - since_s >= self._same_s

    def _run(self) -> None:
        import httpx

        every_s = _POLL_NS / NS_PER_S
        with self._endpoint.client() as client:
            while not self._stop.wait(every_s):
                try:
                    if self._ask(client):
                        self.ready = True
                        return
                except ValueError as error:
                    self.last_answer = type(error).__name__
                except httpx.HTTPError as error:
                    self.last_answer = type(error).__name__
                    self._refusal = None
                every_s = _REFUSED_S if self.refused else _POLL_NS / NS_PER_S

    def _note(self, status: int) -> None:
        """Remember since when it has given this answer."""
        if self._refusal is None or self._refusal[0] != status:
            self._refusal = (status, time.monotonic())

    def _ask(self, client: httpx.Client) -> bool:
        if self.state == "loading":
            answer = client.get(self._endpoint.engine.health_path)
            self.state = "loaded" if answer.status_code == 200 else "loading"
            self.last_answer = f"HTTP {answer.status_code}"
            if self.state == "loading":
                self._note(answer.status_code)
            else:
                self._refusal = None
        if self.state == "loading":
            return False
        timeout = self._limit_s
        answer = client.post("/v1/completions", json=_one_token(self._endpoint.model), timeout=timeout)
        self._note(answer.status_code)
        if answer.status_code == 200 and answer.json().get("choices"):
            return True
        self.last_answer = f"HTTP {answer.status_code}: {answer.text[:200]}"
        return False


def _one_token(model: str) -> Mapping[str, Any]:
    return {"model": model, "prompt": "The", "max_tokens": 1, "temperature": 0}
