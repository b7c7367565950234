"""Toolchains of kind `existing`: the user's own build or Python environment, used where it lies."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.base.errors import UsageError
from bench.base.hashing import DigestCache
from bench.base.paths import cache_dir
from bench.base.progress import Progress
from bench.toolchains.config import ExistingConfig
from bench.toolchains.ensure import State
from bench.toolchains.toolchain import Toolchain
from bench.toolchains.verify import installed_versions, run_verifications


def identity(config: ExistingConfig) -> dict[str, Any]:
    """Content of the programs and libraries in `bin_dir`, and the distributions beside `python`; paths do not count."""
    bin_dir, python = _checked(config)
    digests = DigestCache(cache_dir() / "toolchains" / "digests.json")
    files = {} if bin_dir is None else {file.name: digests.digest(file) for file in _build_files(config, bin_dir)}
    return {
        "accelerator": config.accelerator,
        "environment": dict(config.environment),
        "files": files,
        "distributions": [] if python is None else _distributions(python),
    }


def folder(config: ExistingConfig, lock_hash: str) -> Path:  # noqa: ARG001
    """The build's folder, or the environment's."""
    bin_dir, python = _checked(config)
    return bin_dir if bin_dir is not None else _venv_of(python or Path(sys.executable))


def state(config: ExistingConfig, lock_hash: str) -> State:  # noqa: ARG001
    """Ready when what the user named is there."""
    try:
        _checked(config)
    except UsageError:
        return State.not_configured
    return State.ready


def find(config: ExistingConfig, lock_hash: str) -> Toolchain | None:  # noqa: ARG001
    """Always None: the user's build may have changed, so it is verified each time (in well under a second)."""
    return None


def make(config: ExistingConfig, lock_hash: str, progress: Progress) -> Toolchain:
    """Verify what is there; nothing is installed.

    Without `python`, workers run on the interpreter below the harness's own: the standard library and nothing else.
    """
    bin_dir, python = _checked(config)
    prefix = folder(config, lock_hash)
    base = Path(sys.base_prefix) / "bin" / f"python{sys.version_info[0]}.{sys.version_info[1]}"
    chosen = python or base
    values = {"{bin_dir}": str(bin_dir or ""), "{prefix}": str(prefix)}
    env = {name: _filled(value, values) for name, value in config.environment.items()}

    def toolchain(versions: dict[str, str]) -> Toolchain:
        return Toolchain(
            name=config.name, lock_hash=lock_hash, prefix=prefix, python=chosen, env=env, versions=versions,
            kind=config.kind, accelerator=config.accelerator.value, bin_dirs=() if bin_dir is None else (bin_dir,),
        )  # fmt: skip

    with tempfile.TemporaryDirectory(prefix="quantbench-") as scratch:
        log = Path(scratch) / "verify.log"
        draft = toolchain({})
        versions = {} if python is None else installed_versions(draft, log=log)
        versions.update(run_verifications(draft, config.verify, log=log, progress=progress))
    return toolchain(versions)


def remove(config: ExistingConfig, lock_hash: str) -> int:  # noqa: ARG001
    """Refused: this is the user's."""
    raise UsageError(f"toolchain {config.name} is your own build: quantbench did not make it and does not remove it")


def _checked(config: ExistingConfig) -> tuple[Path | None, Path | None]:
    """The paths the user gave, absolute; raises UsageError when they are absent or lack a program."""
    where = f"toolchain {config.name}"
    if config.bin_dir is None and config.python is None:
        raise UsageError(f"{where}: no path given; {config.description or 'set bin_dir or python'}")
    bin_dir = None if config.bin_dir is None else Path(os.path.abspath(Path(config.bin_dir).expanduser()))  # noqa: PTH100
    # Resolving a venv's python would lead out of the venv, so links are kept.
    python = None if config.python is None else Path(os.path.abspath(Path(config.python).expanduser()))  # noqa: PTH100
    if bin_dir is not None:
        if not bin_dir.is_dir():
            raise UsageError(f"{where}: bin_dir {bin_dir} is not a folder; give the folder that holds the programs")
        for name in config.executables:
            if not os.access(bin_dir / name, os.X_OK):
                raise UsageError(f"{where}: there is no program '{name}' in {bin_dir}; build it or name its folder")
    if python is not None and not os.access(python, os.X_OK):
        raise UsageError(f"{where}: python {python} does not exist or cannot be run")
    return bin_dir, python


def _build_files(config: ExistingConfig, bin_dir: Path) -> list[Path]:
    """The named programs and every shared library beside them, each file once."""
    libraries = [file for pattern in ("*.so", "*.so.*", "*.dylib") for file in bin_dir.glob(pattern) if file.is_file()]
    real = {file.resolve(): file for file in [*libraries, *(bin_dir / name for name in config.executables)]}
    return sorted(real)


def _venv_of(python: Path) -> Path:
    return python.parent.parent


def _distributions(python: Path) -> list[str]:
    """Names and versions of what is installed beside `python`, read from folder names: no process is started."""
    return sorted(folder.name for folder in _venv_of(python).glob("lib/python3*/site-packages/*.dist-info"))


def _filled(text: str, values: dict[str, str]) -> str:
    for name, value in values.items():
        text = text.replace(name, value)
    return text
