"""Making or reusing a toolchain, whatever its kind."""

from __future__ import annotations

import importlib
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol, cast

from bench.base.errors import ToolchainError
from bench.base.hashing import key_of
from bench.base.progress import Progress
from bench.toolchains.config import ToolchainConfig
from bench.toolchains.toolchain import Toolchain

LOCK_SCHEMA = 1


class State(StrEnum):
    """What is there of a toolchain."""

    ready = "ready"
    incomplete = "incomplete"
    absent = "absent"
    not_configured = "not_configured"


class Implementation(Protocol):
    """What the module named by a config's `implementation` offers; a new kind of toolchain is such a module."""

    def identity(self, config: Any) -> dict[str, Any]:
        """What decides the environment's content, JSON-able; cheap, nothing is made."""
        ...

    def folder(self, config: Any, lock_hash: str) -> Path:
        """Where it lives, or would."""
        ...

    def state(self, config: Any, lock_hash: str) -> State:
        """What is there of it now."""
        ...

    def find(self, config: Any, lock_hash: str) -> Toolchain | None:
        """The ready environment, or None; quick."""
        ...

    def make(self, config: Any, lock_hash: str, progress: Progress) -> Toolchain:
        """Make it, verified; raises ToolchainError."""
        ...

    def remove(self, config: Any, lock_hash: str) -> int:
        """Delete what was made; returns the bytes freed."""
        ...


def implementation(config: ToolchainConfig) -> Implementation:
    """The module behind a config's kind."""
    name = type(config).implementation
    if not name:
        raise ToolchainError(f"toolchain kind '{config.kind}' has no implementation")
    return cast("Implementation", importlib.import_module(name))


def lock_hash(config: ToolchainConfig) -> str:
    """The key of an environment: locks' content, steps, accelerator, Python and machine type. Makes nothing."""
    return key_of({"schema": LOCK_SCHEMA, "kind": config.kind, **implementation(config).identity(config)})


def ensure(config: ToolchainConfig, *, progress: Progress) -> Toolchain:
    """Reuse the environment of `config`, or make and verify it (two processes make it once).

    Raises ToolchainError with the log's tail and one remedy. Ctrl-C or a kill leaves no process, and the next call
    resumes what was begun.
    """
    kind = implementation(config)
    digest = lock_hash(config)
    return kind.find(config, digest) or kind.make(config, digest, progress.within(stage=f"toolchain {config.name}"))
