"""Starting an engine, waiting until it generates, and ending it with everything below it."""

from __future__ import annotations

import contextlib
import functools
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.base.clock import NS_PER_S, Clock, SystemClock
from bench.base.errors import CellFailure, FailureKind
from bench.base.files import read_from, tail
from bench.base.process import Supervised, free_port, spawn
from bench.base.progress import Progress
from bench.engines.base import Command, Engine, EngineConfig, Launch, ServedModel, ServerCounters

if TYPE_CHECKING:
    import httpx

    from bench.toolchains.toolchain import Toolchain

HOST = "127.0.0.1"
_PORT_TAKEN = ("couldn't bind", "address already in use", "Address already in use")
_PORT_ATTEMPTS = 3
_POLL_NS = 100_000_000


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """A running engine. `api_key` never leaves the process that holds it."""

    url: str
    model: str
    api_key: str = field(repr=False)
    command: Command = field(repr=False)
    process: Supervised = field(repr=False)
    log: Path
    ready_s: float
    engine: Engine = field(repr=False)
    log_start: int = 0
    """Where in `log` this server began to write; what is before is another's."""

    def raise_if_dead(self) -> None:
        """Raise CellFailure with the log's tail when the server has ended."""
        code = self.process.poll()
        if code is not None:
            message = f"{self.engine.kind} ended while it was needed ({exit_text(code)})"
            raise died(self.engine, tail(self.log, start=self.log_start), message)

    def counters(self) -> ServerCounters | None:
        """The engine's own token counters, or None when it has no metrics."""
        if self.engine.metrics_path is None:
            return None
        import httpx

        with _client(self.url, self.api_key) as client:
            try:
                response = client.get(self.engine.metrics_path)
                response.raise_for_status()
            except httpx.HTTPError:
                return None
        return read_counters(self.engine, response.text)


def read_counters(engine: Engine, exposition: str) -> ServerCounters:
    """Pick an engine's counters out of Prometheus text; a counter it lacks is None."""
    from prometheus_client.parser import text_string_to_metric_families

    totals: dict[str, float] = {}
    for family in text_string_to_metric_families(exposition):
        for sample in family.samples:
            name = sample.name.removesuffix("_total")
            totals[name] = totals.get(name, 0.0) + sample.value

    def value(name: str | None) -> int | None:
        return None if name is None or name not in totals else round(totals[name])

    return ServerCounters(
        prompt_tokens=value(engine.prompt_counter), generation_tokens=value(engine.generation_counter)
    )


@contextlib.contextmanager
def launched(
    engine: Engine,
    config: EngineConfig,
    model: ServedModel,
    *,
    toolchain: Toolchain,
    log: Path,
    progress: Progress,
    clock: Clock | None = None,
    port: int | None = None,
    api_key: str | None = None,
) -> Iterator[Endpoint]:
    """Start `engine` on a free loopback port with a random key; ready means one token was generated.

    Raises CellFailure (start_timeout, crashed, out_of_memory, corrupt …) with the log's tail.
    """
    clock = clock or SystemClock()
    attempts = 1 if port is not None else _PORT_ATTEMPTS
    for attempt in range(attempts):
        launch = Launch(host=HOST, port=port or free_port(HOST), api_key=api_key or secrets.token_urlsafe(24))
        command = engine.command(config, model, launch, toolchain)
        started_ns = clock.now_ns()
        logged_bytes = log.stat().st_size if log.exists() else 0
        with log.open("ab") as output:
            process = spawn(command.argv, output=output, env=toolchain.environ({**command.env, **command.secret_env}))
        try:
            said = functools.partial(tail, log, start=logged_bytes)
            _wait_ready(engine, config, model, launch, process=process, said=said, progress=progress, clock=clock)
            engine.check_log(config, read_from(log, logged_bytes))
        except CellFailure as failure:
            process.__exit__()
            if attempt + 1 < attempts and any(sign in failure.log_tail for sign in _PORT_TAKEN):
                continue
            raise
        except BaseException:
            process.__exit__()
            raise
        break
    ready_s = (clock.now_ns() - started_ns) / NS_PER_S
    progress.say(f"{engine.kind} is ready after {ready_s:.1f} s")
    try:
        yield Endpoint(
            url=f"http://{HOST}:{launch.port}",
            model=model.name,
            api_key=launch.api_key,
            command=command,
            process=process,
            log=log,
            ready_s=round(ready_s, 3),
            engine=engine,
            log_start=logged_bytes,
        )
    finally:
        if process.poll() is None:
            process.stop(config.stop_grace_s)


def _wait_ready(
    engine: Engine,
    config: EngineConfig,
    model: ServedModel,
    launch: Launch,
    *,
    process: Supervised,
    said: Callable[[], str],
    progress: Progress,
    clock: Clock,
) -> None:
    import httpx

    deadline_ns = clock.now_ns() + int(config.start_timeout_s * NS_PER_S)
    healthy = False
    announced_ns = clock.now_ns()
    last_answer = "no answer"
    with _client(f"http://{launch.host}:{launch.port}", launch.api_key) as client:
        while clock.now_ns() < deadline_ns:
            code = process.poll()
            if code is not None:
                raise died(engine, said(), f"{engine.kind} ended before it was ready ({exit_text(code)})")
            try:
                if not healthy:
                    healthy = client.get(engine.health_path).status_code == httpx.codes.OK
                if healthy:
                    remaining_s = max(1.0, (deadline_ns - clock.now_ns()) / NS_PER_S)
                    answer = client.post("/v1/completions", json=_one_token(model.name), timeout=remaining_s)
                    if answer.status_code == httpx.codes.OK and answer.json().get("choices"):
                        return
                    last_answer = f"HTTP {answer.status_code}: {answer.text[:200]}"
            except httpx.HTTPError as error:
                last_answer = type(error).__name__
            if clock.now_ns() - announced_ns > 5 * NS_PER_S:
                announced_ns = clock.now_ns()
                progress.say(f"waiting for {engine.kind} ({'loaded' if healthy else 'loading'})")
            clock.sleep_ns(_POLL_NS)
    process.kill()
    message = (
        f"{engine.kind} generated nothing within {config.start_timeout_s:g} s (last: {last_answer}); "
        "raise engine.start_timeout_s if it is only slow"
    )
    raise CellFailure(FailureKind.START_TIMEOUT, message, log_tail=said())


def _one_token(model: str) -> Mapping[str, Any]:
    return {"model": model, "prompt": "The", "max_tokens": 1, "temperature": 0}


def _client(url: str, api_key: str) -> httpx.Client:
    import httpx

    return httpx.Client(base_url=url, headers={"Authorization": f"Bearer {api_key}"}, timeout=10.0, trust_env=False)


def died(engine: Engine, log_tail: str, message: str) -> CellFailure:
    """The typed failure for a server that ended, with the cause that the end of its log gives."""
    for known in engine.log_patterns:
        if known.pattern.search(log_tail):
            return CellFailure(known.kind, f"{message}; {known.advice}", log_tail=log_tail)
    return CellFailure(FailureKind.CRASHED, message, log_tail=log_tail)


def exit_text(code: int) -> str:
    """An exit code in words; codes above 128 are signals."""
    import signal

    if code > 128:
        with contextlib.suppress(ValueError):
            return f"killed by {signal.Signals(code - 128).name}"
    return f"exit code {code}"


def recorded_command(endpoint: Endpoint) -> list[str]:
    """The command line for manifests; the key is not in it, because it travels in the environment."""
    return [str(word) for word in endpoint.command.argv]


def wait_forever(endpoint: Endpoint) -> None:
    """Keep serving until the server ends (raises CellFailure) or the user interrupts."""
    while True:
        endpoint.raise_if_dead()
        time.sleep(0.5)
