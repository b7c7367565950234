"""What `quantbench toolchain list|install|verify|remove|path` do, as data; the command line prints it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.base.compose import options
from bench.base.errors import ToolchainError, UsageError
from bench.base.progress import Progress
from bench.toolchains.config import load_toolchain_config
from bench.toolchains.ensure import State, ensure, implementation, lock_hash
from bench.toolchains.toolchain import Toolchain
from bench.toolchains.verify import run_verifications


@dataclass(frozen=True, kw_only=True)
class ToolchainRow:
    """One line of the list; sizes in bytes, None where nothing was made."""

    name: str
    kind: str
    accelerator: str
    state: State
    description: str
    lock_hash: str | None
    path: Path | None
    size_bytes: int | None


def list_toolchains(*, with_sizes: bool = True) -> list[ToolchainRow]:
    """Every toolchain of the configuration and what is there of it."""
    return [_row(name, with_size=with_sizes) for name in options("toolchain")]


def install(name: str, *, overrides: Sequence[str] = (), progress: Progress) -> Toolchain:
    """Make it, or find it made."""
    return ensure(load_toolchain_config(name, overrides=overrides), progress=progress)


def verify(name: str, *, overrides: Sequence[str] = (), log: Path, progress: Progress) -> dict[str, str]:
    """Run its verifications again without installing anything; returns the versions they report."""
    return run_verifications(
        _ready(name, overrides, progress),
        load_toolchain_config(name, overrides=overrides).verify,
        log=log,
        progress=progress,
    )


def remove(name: str, *, overrides: Sequence[str] = ()) -> int:
    """Delete it; returns the bytes freed (0 when there was nothing)."""
    config = load_toolchain_config(name, overrides=overrides)
    return implementation(config).remove(config, lock_hash(config))


def path(name: str, *, overrides: Sequence[str] = ()) -> Path:
    """Where it lives; raises ToolchainError when it was not made yet."""
    return _ready(name, overrides, Progress()).prefix


def _ready(name: str, overrides: Sequence[str], progress: Progress) -> Toolchain:
    config = load_toolchain_config(name, overrides=overrides)
    kind = implementation(config)
    digest = lock_hash(config)
    if kind.state(config, digest) is not State.ready:
        raise ToolchainError(f"toolchain {name} is not installed; make it with: quantbench toolchain install {name}")
    return kind.find(config, digest) or ensure(config, progress=progress)


def _row(name: str, *, with_size: bool) -> ToolchainRow:
    from bench.toolchains.venv import size_bytes

    config = load_toolchain_config(name)
    kind = implementation(config)
    try:
        digest = lock_hash(config)
        folder = kind.folder(config, digest)
        state = kind.state(config, digest)
    except UsageError:  # an `existing` toolchain whose path is not given or wrong
        return ToolchainRow(
            name=name, kind=config.kind, accelerator=config.accelerator.value, state=State.not_configured,
            description=config.description, lock_hash=None, path=None, size_bytes=None,
        )  # fmt: skip
    made = config.kind == "venv" and state is not State.absent
    return ToolchainRow(
        name=name,
        kind=config.kind,
        accelerator=config.accelerator.value,
        state=state,
        description=config.description,
        lock_hash=digest,
        path=None if state is State.absent else folder,
        size_bytes=size_bytes(folder) if made and with_size else None,
    )
