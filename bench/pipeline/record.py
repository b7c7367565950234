"""What a cell's manifest says of its parts."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from bench.base.hashing import canonical_json
from bench.engines.base import EngineConfig
from bench.engines.launch import recorded_command
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
    toolchain = context.toolchains.ensure(config.toolchain, context.progress)
    description = toolchain.describe()
    return {
        "kind": config.kind,
        "build": f"{toolchain.name} {toolchain.lock_hash}",
        "command": recorded_command(started),
        "toolchain": description,
        "ready_s": started.ready_s,
        "peak_rss_bytes": endpoint.peak_memory_bytes,
        "validity": [],
    }
