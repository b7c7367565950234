"""What every stage of a run shares."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from bench.base.progress import Progress
from bench.store.run import RunStore

if TYPE_CHECKING:
    from bench.toolchains.toolchain import Toolchain


@dataclass(frozen=True, kw_only=True)
class Stages:
    """Which of the stages after acceptance a command asks for."""

    load: bool = True
    evaluate: bool = True


class Toolchains:
    """Environments as `conf/toolchain` describes them, each made once and remembered for the run."""

    def __init__(self) -> None:
        self._ready: dict[str, Toolchain] = {}
        self._locks: dict[str, str] = {}

    def ensure(self, name: str, progress: Progress) -> Toolchain:
        """The ready toolchain `name`, made on first use. Raises ToolchainError or UsageError."""
        from bench.toolchains.config import load_toolchain_config
        from bench.toolchains.ensure import ensure

        if name not in self._ready:
            self._ready[name] = ensure(load_toolchain_config(name), progress=progress)
        return self._ready[name]

    def lock(self, name: str) -> str:
        """The lock hash of toolchain `name`, without making it."""
        from bench.toolchains.config import load_toolchain_config
        from bench.toolchains.ensure import lock_hash

        if name not in self._locks:
            self._locks[name] = lock_hash(load_toolchain_config(name))
        return self._locks[name]


@dataclass(frozen=True, kw_only=True)
class Workshop:
    """Where variants are made and judged."""

    cache: Path
    toolchains: Toolchains = field(default_factory=Toolchains)


@dataclass(frozen=True, kw_only=True)
class Context(Workshop):
    """The run's surroundings."""

    run: RunStore
    progress: Progress
    stages: Stages = Stages()
