"""Config group `toolchain`: how an isolated environment is made, as ordered typed steps, or where the user's own is."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar

from bench.base.compose import compose, conf_dir
from bench.base.errors import UsageError
from bench.base.schema import identity_when_changed, not_identity, schema

MISSING: Any = "???"
"""OmegaConf's sign for a mandatory value, without importing it."""


class Accelerator(StrEnum):
    """What the environment computes on."""

    cpu = "cpu"
    cuda = "cuda"


class StepKind(StrEnum):
    """One thing done to an environment; which fields of `Step` it reads is said there."""

    install = "install"
    install_no_deps = "install_no_deps"
    install_with_deps = "install_with_deps"
    uninstall = "uninstall"
    alias = "alias"
    fetch_source = "fetch_source"
    edit_source = "edit_source"
    build_native = "build_native"
    install_source = "install_source"
    keep_source = "keep_source"
    reuse_native = "reuse_native"
    set_env = "set_env"


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step. Flat, because Hydra cannot fill a list of subclasses.

    install           `lock`: a requirements file with exact versions and hashes, installed without resolving
    install_no_deps   `requirements`: exact requirements that have no hashes, installed without what they ask for
    install_with_deps `requirements`: the same, with what they ask for beyond what is installed: where a package brings
                      other libraries for every index, as torch does
    uninstall         `requirements`: names of distributions
    alias             `distribution`, `alias`: make an installed distribution known under a second name
    fetch_source      `lock`: one hash-pinned requirement whose source archive is unpacked for later steps
    edit_source       `paths`: one file below `directory` of the source, in which `before`, which must stand there once,
                      becomes `after`
    build_native      `directory` inside the source, CMake `options`, `accelerator_options`, `targets`
    install_source    `environment` during the installation of the unpacked source, which is not compiled again
    keep_source       `paths`: files and folders below `directory` of the source, kept as they are in `{prefix}/source`
    reuse_native      `toolchain`: another toolchain, made first, whose programs and libraries become `native/` here too
    set_env           `environment` that every process in the toolchain gets; `{prefix}` is its folder
    """

    kind: StepKind = MISSING
    lock: str | None = None
    requirements: list[str] = field(default_factory=list)
    distribution: str | None = None
    alias: str | None = None
    directory: str = "."
    options: dict[str, str] = field(default_factory=dict)
    accelerator_options: dict[str, dict[str, str]] = field(default_factory=dict)
    targets: list[str] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    before: str = identity_when_changed(default="")
    after: str = identity_when_changed(default="")
    toolchain: str | None = None
    environment: dict[str, str] = field(default_factory=dict)
    only: Accelerator | None = None

    def __post_init__(self) -> None:
        needed = _NEEDED_FIELDS.get(self.kind, ()) if self.kind != MISSING else ()
        for name in needed:
            if not getattr(self, name):
                raise ValueError(f"toolchain step '{self.kind.value}' needs '{name}'")
        unknown = set(self.accelerator_options) - {member.value for member in Accelerator}
        if unknown:
            raise ValueError(f"toolchain step '{self.kind.value}': unknown accelerator '{min(unknown)}'")


_NEEDED_FIELDS: dict[StepKind, tuple[str, ...]] = {
    StepKind.install: ("lock",),
    StepKind.install_no_deps: ("requirements",),
    StepKind.install_with_deps: ("requirements",),
    StepKind.uninstall: ("requirements",),
    StepKind.alias: ("distribution", "alias"),
    StepKind.fetch_source: ("lock",),
    StepKind.edit_source: ("paths", "before"),
    StepKind.build_native: ("targets",),
    StepKind.keep_source: ("paths",),
    StepKind.reuse_native: ("toolchain",),
    StepKind.set_env: ("environment",),
}


@dataclass(frozen=True, kw_only=True)
class Verification:
    """A command that must end with `exit_code` inside the finished environment.

    `{python}` and `{prefix}` in `command` are replaced; a bare first word is looked up among the toolchain's
    executables. `version` is a regular expression whose first group, found in the output, becomes
    `versions[name]` of the toolchain.
    """

    name: str = MISSING
    command: list[str] = field(default_factory=list)
    version: str | None = None
    exit_code: int = 0


@dataclass(frozen=True, kw_only=True)
class ToolchainConfig:
    """Base of the group. `implementation` is the module that offers `identity`, `find`, `make` and `remove`."""

    implementation: ClassVar[str] = ""

    kind: str = MISSING
    name: str = MISSING
    accelerator: Accelerator = Accelerator.cpu
    description: str = not_identity(default="")
    verify: list[Verification] = not_identity(default_factory=list)  # noqa: RUF009 - a field, made once a class


@schema("toolchain", "venv")
@dataclass(frozen=True, kw_only=True)
class VenvConfig(ToolchainConfig):
    """An environment made here: the standard library's venv, pip, and the steps in order."""

    implementation: ClassVar[str] = "bench.toolchains.venv"

    kind: str = "venv"
    steps: list[Step] = field(default_factory=list)
    disk_gib: float = not_identity(default=1.0)

    def active_steps(self) -> list[Step]:
        """The steps that apply to this accelerator."""
        return [step for step in self.steps if step.only in (None, self.accelerator)]


@schema("toolchain", "existing")
@dataclass(frozen=True, kw_only=True)
class ExistingConfig(ToolchainConfig):
    """The user's own build or environment, by path; nothing is installed, its files enter the key by content."""

    implementation: ClassVar[str] = "bench.toolchains.existing"

    kind: str = "existing"
    bin_dir: str | None = not_identity(default=None)
    python: str | None = not_identity(default=None)
    executables: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)


@schema(None, "toolchain_root")
@dataclass(frozen=True, kw_only=True)
class ToolchainRoot:
    """Root config of the `toolchain` command: one choice of the group."""

    toolchain: ToolchainConfig = MISSING


def load_toolchain_config(name: str, *, overrides: Sequence[str] = ()) -> ToolchainConfig:
    """Compose `conf/toolchain/<name>.yaml` with `overrides` such as `toolchain.accelerator=cuda`, anew when it changed.

    Raises UsageError naming the nearest match when there is none, or when an override does not fit.
    """
    if not name.replace("_", "").replace("-", "").isalnum():
        raise UsageError(f"'{name}' is not a toolchain name; see: quantbench toolchain list")
    return _composed(name, tuple(overrides), (*sorted(os.environ.items()), *_written()))


@functools.cache
def _composed(name: str, overrides: tuple[str, ...], _read: tuple[tuple[str, str | int], ...]) -> ToolchainConfig:
    """`_read` is what else decides: variables of the environment, and when the files were written."""
    return compose("base_toolchain_root", [f"+toolchain={name}", *overrides], ToolchainRoot).toolchain


def _written() -> Iterator[tuple[str, int]]:
    for folder in _folders():
        for file in sorted((folder / "toolchain").glob("*.yaml")):
            with contextlib.suppress(OSError):  # an editor's lock is a link to nowhere
                yield str(file), file.stat().st_mtime_ns


def _folders() -> list[Path]:
    """The user's own configuration folder, where there is one, and the shipped one."""
    extra = os.environ.get("QUANTBENCH_CONFIG_DIR")
    return [*([Path(extra)] if extra else []), conf_dir()]


def lock_file(name: str) -> Path:
    """The path of a lock shipped in `conf/toolchain/locks` or in the user's own configuration folder."""
    for folder in _folders():
        candidate = folder / "toolchain" / "locks" / name
        if candidate.is_file():
            return candidate
    raise UsageError(f"toolchain lock '{name}' does not exist in {_folders()[0] / 'toolchain' / 'locks'}")


def plain(config: Any) -> dict[str, Any]:
    """A config (or a mapping of its fields) as JSON-able values, for manifests."""
    import json

    from bench.base.hashing import canonical_json

    value: dict[str, Any] = json.loads(canonical_json(config))
    return value
