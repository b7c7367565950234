"""Starting an engine, waiting until it generates, and ending it with everything below it."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import secrets
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from bench.base.clock import NS_PER_S, Clock, SystemClock
from bench.base.errors import CellFailure, FailureKind, UsageError
from bench.base.files import read_from
from bench.base.process import clean_env, free_port, spawn
from bench.base.progress import Progress
from bench.engines.base import Command, Engine, EngineConfig, Launch, ServedModel, file_word
from bench.engines.container import (
    FILES_FOLDER,
    INNER_HOST,
    RUN_LABEL,
    ContainerProcess,
    Mount,
    client_env,
    container_command,
    guarded,
    model_mounts,
    require_runtime,
)
from bench.engines.readiness import await_ready
from bench.engines.running import Endpoint, died, exit_text, read_counters

if TYPE_CHECKING:
    from bench.toolchains.toolchain import Toolchain

__all__ = [
    "DEVICE_VARIABLES",
    "HOST",
    "Endpoint",
    "died",
    "engine_command",
    "exit_text",
    "inherited",
    "launched",
    "read_counters",
    "recorded_command",
    "wait_forever",
]

HOST = "127.0.0.1"
#: Provenance records them as in force.
DEVICE_VARIABLES = ("CUDA_VISIBLE_DEVICES",)
_PORT_ATTEMPTS = 3


@contextlib.contextmanager
def launched(
    engine: Engine,
    config: EngineConfig,
    model: ServedModel,
    *,
    toolchain: Toolchain | None,
    log: Path,
    progress: Progress,
    clock: Clock | None = None,
    port: int | None = None,
    api_key: str | None = None,
) -> Iterator[Endpoint]:
    """Start `engine` on a free loopback port with a random key; ready means one token was generated.

    `toolchain` is None where the engine comes from elsewhere: `engine.executable`, `engine.container`, or
    `engine.base_url`, where nothing is started. Raises CellFailure (start_timeout, crashed, out_of_memory, corrupt …)
    with the log's tail.
    """
    if config.base_url:
        from bench.engines.attach import attached

        with attached(engine, config, log=log, progress=progress) as endpoint:
            yield endpoint
        return
    clock = clock or SystemClock()
    attempts = 1 if port is not None else _PORT_ATTEMPTS
    for attempt in range(attempts):
        launch = Launch(host=HOST, port=port or free_port(HOST), api_key=api_key or secrets.token_urlsafe(24))
        with contextlib.ExitStack() as stack:
            try:
                endpoint = stack.enter_context(
                    _started(
                        engine,
                        config,
                        model,
                        launch,
                        toolchain=toolchain,
                        log=log,
                        progress=progress,
                        clock=clock,
                    )
                )
            except CellFailure as failure:
                if attempt + 1 < attempts and failure.kind is FailureKind.PORT_TAKEN:
                    continue
                raise
            progress.say(f"{engine.kind} is ready after {endpoint.ready_s:.1f} s")
            yield endpoint
            return


@contextlib.contextmanager
def _started(
    engine: Engine,
    config: EngineConfig,
    model: ServedModel,
    launch: Launch,
    *,
    toolchain: Toolchain | None,
    log: Path,
    progress: Progress,
    clock: Clock,
) -> Iterator[Endpoint]:
    """One attempt."""
    with contextlib.ExitStack() as stack:
        labels: Mapping[str, str] = {}
        if config.container.image:
            require_runtime(config.container.runtime)
            labels = stack.enter_context(guarded(config.container.runtime))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="quantbench-engine-")))
        secret = handed_over(config)
        command = engine_command(
            engine, config, model, launch, toolchain, files=folder, labels=labels, handed_over=secret
        )
        _write_files(command, folder)
        started_ns = clock.now_ns()
        logged_bytes = log.stat().st_size if log.exists() else 0
        env = {**command.env, **command.secret_env}
        with log.open("ab") as output:
            process = spawn(command.argv, output=output, env=_environ(config, toolchain, env))
        endpoint = Endpoint(
            url=f"http://{launch.host}:{launch.port}",
            model=engine.request_name(model),
            api_key=launch.api_key,
            command=command,
            process=process,
            log=log,
            ready_s=None,
            engine=engine,
            log_start=logged_bytes,
            contained=bool(config.container.image),
            unhealthy_after_s=config.unhealthy_after_s,
        )
        try:
            if config.container.image:
                inner = ContainerProcess(config.container.runtime, f"{RUN_LABEL}={labels[RUN_LABEL]}", clock=clock)
                await_ready(endpoint, config, progress=progress, clock=clock, find_pid=inner.find)
            else:
                await_ready(endpoint, config, progress=progress, clock=clock)
            engine.check_log(config, read_from(log, logged_bytes))
        except BaseException:
            process.__exit__()
            raise
        ready_s = (clock.now_ns() - started_ns) / NS_PER_S
        try:
            yield dataclasses.replace(endpoint, ready_s=round(ready_s, 3))
        finally:
            if process.poll() is None:
                process.stop(config.stop_grace_s)


def engine_command(
    engine: Engine,
    config: EngineConfig,
    model: ServedModel,
    launch: Launch,
    toolchain: Toolchain | None,
    *,
    files: Path | None = None,
    labels: Mapping[str, str] | None = None,
    handed_over: Mapping[str, str] | None = None,
) -> Command:
    """The whole command line of a start, wherever the engine comes from; nothing is started.

    `files` is where the command's files are written (None: their names stand for them), `labels` are a container's,
    `handed_over` the values of `engine.pass_env`.
    """
    inside, served = launch, model
    mounts: list[Mount] = []
    if config.container.image:
        mounts, path = model_mounts(model.path, model.format)
        served = dataclasses.replace(model, path=path)
        inside = dataclasses.replace(launch, host=INNER_HOST, port=config.container.port)
    made = engine.command(config, served, inside, toolchain if config.uses_toolchain else None)
    argv = [str(word) for word in made.argv]
    if config.executable:
        argv[0] = str(Path(config.executable).expanduser())
    for name in made.files:
        argv = [word.replace(file_word(name), _file_path(name, files, config)) for word in argv]
    made = dataclasses.replace(
        made,
        argv=argv,
        env={**made.env, **config.env},
        secret_env={**(handed_over or dict.fromkeys(config.pass_env, "")), **made.secret_env},
    )
    if not config.container.image:
        return made
    mounts += [Mount(source=(files or Path()) / name, target=FILES_FOLDER / name) for name in made.files]
    return container_command(config.container, made, mounts, port=launch.port, labels=labels or {})


def _file_path(name: str, files: Path | None, config: EngineConfig) -> str:
    if config.container.image:
        return str(FILES_FOLDER / name)
    return name if files is None else str(files / name)


def _write_files(command: Command, folder: Path) -> None:
    for name, text in command.files.items():
        (folder / name).write_text(text, encoding="utf-8")


def handed_over(config: EngineConfig) -> dict[str, str]:
    """The variables of `engine.pass_env` with their values; raises UsageError for one that is not set."""
    missing = [name for name in config.pass_env if name not in os.environ]
    if missing:
        raise UsageError(f"engine.pass_env: the environment variable {missing[0]} is not set")
    return {name: os.environ[name] for name in config.pass_env}


def inherited(config: EngineConfig) -> dict[str, str]:
    """Variables of this process that decide on which devices an engine computes, where it takes them over.

    `engine.env` comes before them. A container takes over what is in `engine.pass_env`, an attached server nothing.
    """
    if config.base_url:
        return {}
    names = [name for name in DEVICE_VARIABLES if name in os.environ and name not in config.env]
    return {name: os.environ[name] for name in names if not config.container.image or name in config.pass_env}


def _environ(config: EngineConfig, toolchain: Toolchain | None, extra: Mapping[str, str]) -> dict[str, str]:
    if config.container.image:
        return client_env(extra)
    extra = {**inherited(config), **extra}
    return clean_env(extra=extra) if toolchain is None or config.executable else toolchain.environ(extra)


def recorded_command(endpoint: Endpoint) -> list[str]:
    """The command line for manifests; the key is not in it, because it travels in the environment."""
    return [str(word) for word in endpoint.command.argv]


def wait_forever(endpoint: Endpoint) -> None:
    """Keep serving until the server ends (raises CellFailure) or the user interrupts."""
    while True:
        endpoint.raise_if_dead()
        time.sleep(0.5)
