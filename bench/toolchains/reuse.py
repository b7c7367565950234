"""One native build for several environments: a toolchain takes the programs and libraries another one compiled."""

from __future__ import annotations

import os
import shutil

from bench.base.errors import ToolchainError
from bench.toolchains.config import Step, StepKind, ToolchainConfig, VenvConfig, load_toolchain_config
from bench.toolchains.ensure import ensure, lock_hash
from bench.toolchains.steps import Build


def reused_locks(config: VenvConfig) -> dict[str, str]:
    """Lock hashes of the toolchains whose native build `config` takes, by name."""
    steps = [step for step in config.active_steps() if step.kind is StepKind.reuse_native]
    return {str(step.toolchain): lock_hash(_other(config, step)) for step in steps}


def reuse_native(build: Build, step: Step) -> None:
    """Make the other toolchain where it is not there, and take its `native/`, whole or not at all.

    Files are hard links where that is possible: no second copy, and removing the other toolchain breaks nothing.
    Raises ToolchainError when it has no native build.
    """
    if build.native.is_dir():
        return
    other = ensure(_other(build.config, step), progress=build.progress)
    native = other.prefix / "native"
    if not native.is_dir():
        raise ToolchainError(f"toolchain {build.config.name}: {other.name} has no native build to take")
    draft = build.prefix / "native.draft"
    shutil.rmtree(draft, ignore_errors=True)
    shutil.copytree(native, draft, symlinks=True, copy_function=_link_or_copy)
    draft.rename(build.native)


def _other(config: VenvConfig, step: Step) -> ToolchainConfig:
    accelerator = f"toolchain.accelerator={config.accelerator.value}"
    return load_toolchain_config(str(step.toolchain), overrides=[accelerator])


def _link_or_copy(source: str, target: str) -> str:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copy2(source, target)
    return target
