"""Servers that run already: nothing is started, and what they serve is taken on their word."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

from bench.base.errors import UsageError
from bench.base.progress import Progress
from bench.engines.base import Command, Engine, EngineConfig
from bench.engines.running import Endpoint
from bench.load.command import make_target
from bench.load.config import EndpointConfig
from bench.load.preflight import check_endpoint, served_models
from bench.load.target import Target

#: The load generator's words for what is a setting of the engine here.
_SETTINGS = {"url": "base_url", "api_key_env": "api_key_env", "model": "served_name"}


@contextlib.contextmanager
def attached(engine: Engine, config: EngineConfig, *, log: Path, progress: Progress) -> Iterator[Endpoint]:
    """The server at `engine.base_url`, once it has answered; raises UsageError when it cannot be used as it is."""
    target = target_of(config)
    with _in_engine_terms():
        name = config.served_name or _only_model(target)
        check_endpoint(Target(url=target.url, model=name, api_key=target.api_key))
    progress.say(f"{name} is served at {config.base_url}")
    yield Endpoint(
        url=config.base_url.rstrip("/").removesuffix("/v1"),
        model=name,
        api_key=target.api_key or "",
        command=Command(argv=[]),
        process=None,
        log=log,
        ready_s=None,
        engine=engine,
        unhealthy_after_s=config.unhealthy_after_s,
    )


def target_of(config: EngineConfig) -> Target:
    """The server with its key, of no model yet; raises UsageError where the key's variable is not set."""
    with _in_engine_terms():
        return make_target(EndpointConfig(url=config.base_url, model="-", api_key_env=config.api_key_env or None))


def _only_model(target: Target) -> str:
    """The one model that the server names; raises UsageError when it names none, or several."""
    names = served_models(target)
    if len(names) == 1:
        return names[0]
    said = f"serves {', '.join(names)}" if names else "does not say what it serves"
    raise UsageError(f"endpoint.model: the server at {target.url} {said}; name one")


@contextlib.contextmanager
def _in_engine_terms() -> Iterator[None]:
    try:
        yield
    except UsageError as error:
        raise UsageError(in_engine_terms(str(error))) from error


def in_engine_terms(text: str) -> str:
    """What the load generator says, with the engine's settings in it."""
    return re.sub(r"endpoint\.(url|api_key_env|model)\b", lambda found: f"engine.{_SETTINGS[found.group(1)]}", text)
