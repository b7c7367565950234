"""Serving one variant for a person: the same launch as a run's, with a key the user can read."""

from __future__ import annotations

import contextlib
import shlex
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.base.errors import UsageError
from bench.base.paths import cache_dir
from bench.base.progress import Progress
from bench.engines.base import Launch, ServedModel, SupportAnswer, engine_of
from bench.engines.launch import HOST, Endpoint, engine_command, launched, wait_forever
from bench.pipeline.cell import served_model
from bench.pipeline.context import Workshop
from bench.pipeline.quality import Judge
from bench.plan.config import RunConfig
from bench.quality.accept import ACCEPTED
from bench.store.artefacts import ArtefactStore
from quantize.run import Artefact, quantize


@dataclass(frozen=True, kw_only=True)
class Serving:
    """A running server; the key is in `key_file`, which only the user can read."""

    url: str
    model: str
    key_file: Path
    endpoint: Endpoint

    def wait(self) -> None:
        """Until the server ends (CellFailure) or the user interrupts (KeyboardInterrupt)."""
        wait_forever(self.endpoint)


@contextlib.contextmanager
def serving(config: RunConfig, *, port: int | None, api_key: str, progress: Progress) -> Iterator[Serving]:
    """Quantize and accept where needed, start the engine, and stop it on leaving."""
    engine = engine_of(config.engine)
    refuse_unsupported(config)
    if config.engine.base_url:
        raise UsageError(f"serve starts a server, and engine.base_url={config.engine.base_url} names one that runs")
    engine.check_machine(config.engine)
    if port is not None:
        refuse_taken(port)
    workshop = Workshop(cache=cache_dir())
    toolchains = workshop.toolchains
    artefact = quantize(config.model, config.scheme, cache=workshop.cache, progress=progress, toolchains=toolchains)
    require_accepted(config, artefact, workshop, progress)
    model = served_model(artefact)
    toolchain = toolchains.ensure(config.engine.toolchain, progress) if config.engine.uses_toolchain else None
    with tempfile.TemporaryDirectory(prefix="quantbench-serve-") as folder:
        key_file = Path(folder) / "api-key"
        key_file.touch(mode=0o600)
        key_file.write_text(api_key + "\n", encoding="utf-8")
        with launched(
            engine,
            config.engine,
            model,
            toolchain=toolchain,
            log=Path(folder) / "engine.log",
            progress=progress.within(stage="serve"),
            port=port,
            api_key=api_key,
        ) as endpoint:
            yield Serving(url=endpoint.url, model=endpoint.model, key_file=key_file, endpoint=endpoint)


def require_accepted(config: RunConfig, artefact: Artefact, workshop: Workshop, progress: Progress) -> None:
    """Accept the variant as a run does, unless it was accepted before; raises CellFailure(corrupt) with figures."""
    last = ArtefactStore(workshop.cache / "artefacts").last_acceptance(artefact.key)
    if last is None or last.get("verdict") != ACCEPTED:
        Judge(config, artefact, engine_of(config.engine), workshop, progress).accept()


def print_command(config: RunConfig, *, port: int | None) -> tuple[str, list[str]]:
    """The command line, quoted for a shell, and the names of the variables that carry secrets; nothing is made."""
    refuse_unsupported(config)
    name = f"{config.model.name or config.model.kind}-{config.scheme.label}"
    scheme = config.scheme
    model = ServedModel(
        format=scheme.format_of(config.model), path=Path("MODEL"), name=name, load_method=scheme.load_method
    )
    if config.engine.base_url:
        raise UsageError(f"engine.base_url={config.engine.base_url} names a server that runs: there is no command")
    launch = Launch(host=HOST, port=port or 8080, api_key="")
    command = engine_command(engine_of(config.engine), config.engine, model, launch, None)
    keys = sorted(set(command.secret_env) - set(config.engine.pass_env))
    words = [*(f"{name}=$API_KEY" for name in keys), *(f"{name}=${name}" for name in sorted(config.engine.pass_env))]
    words += [f"{name}={shlex.quote(value)}" for name, value in command.env.items()]
    files = [f"printf %s {shlex.quote(text)} > {name}" for name, text in command.files.items()]
    line = " ".join([*words, shlex.join(str(word) for word in command.argv)])
    return " && ".join([*files, line]), sorted(command.secret_env)


def refuse_taken(port: int) -> None:
    """Raise UsageError when no server can listen on the port the user named, before anything is made for it."""
    if not 1 <= port <= 65535:
        raise UsageError(f"--port {port} is not a port; name one from 1 to 65535")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise UsageError(f"--port {port}: {reason}; name another, or leave it out for a free one") from None


def refuse_unsupported(config: RunConfig) -> None:
    """Raise UsageError with the engine's own reason when it cannot serve what the scheme makes."""
    engine, scheme = engine_of(config.engine), config.scheme
    support = engine.serves(config.engine, scheme.format_of(config.model), scheme.load_method, scheme.packing)
    if support.answer is SupportAnswer.NO:
        raise UsageError(support.reason)
