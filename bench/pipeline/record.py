"""What a cell's manifest says of its parts."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from bench.base.files import read_from
from bench.base.hashing import canonical_json
from bench.engines.base import EngineConfig
from bench.engines.launch import Endpoint, recorded_command
from bench.pipeline.build import engine_build
from bench.pipeline.context import Context
from bench.pipeline.endpoint import LazyEndpoint


def plain(config: Any) -> dict[str, Any]:
    """A config as JSON-able values."""
    value: dict[str, Any] = json.loads(canonical_json(dataclasses.asdict(config)))
    return value


def engine_record(endpoint: LazyEndpoint, config: EngineConfig, context: Context) -> dict[str, Any]:
    """The engine as it really ran. No key is in it: keys travel in the environment, which is not recorded."""
    started = endpoint.started
    assert started is not None
    return {
        "kind": config.kind,
        "command": recorded_command(started),
        **({"files": dict(started.command.files)} if started.command.files else {}),
        **engine_build(config, context, context.progress),
        "ready_s": started.ready_s,
        "peak_rss_bytes": endpoint.peak_memory_bytes,
        **dataclasses.asdict(started.engine.memory_of(_log(started))),
        "validity": [],
    }


def _log(started: Endpoint) -> str:
    try:
        return read_from(started.log, started.log_start)
    except FileNotFoundError:  # of a server that others started
        return ""
