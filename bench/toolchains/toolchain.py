"""A ready environment: what the rest of the harness may know of a toolchain."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.base.errors import ToolchainError
from bench.base.process import clean_env


@dataclass(frozen=True, kw_only=True)
class Toolchain:
    """An environment that was made (or found) and verified.

    `lock_hash` identifies it in keys; `versions` maps distributions and native builds to what is really there;
    `env` are the extra variables every process in it gets; executables are looked up in `bin_dirs`, in order.
    """

    name: str
    lock_hash: str
    prefix: Path
    python: Path
    env: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    kind: str = "venv"
    accelerator: str = "cpu"
    bin_dirs: tuple[Path, ...] = ()

    def executable(self, name: str) -> Path:
        """The absolute path of a program; raises ToolchainError when the toolchain has none of that name."""
        for folder in self._folders():
            candidate = folder / name
            if candidate.is_file() and os.access(candidate, os.X_OK):
                return candidate
        raise ToolchainError(
            f"toolchain {self.name} has no executable '{name}'; choose a toolchain that has it, "
            f"or make it again: quantbench toolchain remove {self.name}"
        )

    def environ(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        """The whole environment of a process in this toolchain: the basics, its own variables, `extra`."""
        env = clean_env(extra={**self.env, **(extra or {})})
        own = os.pathsep.join(str(folder) for folder in self._folders())
        env["PATH"] = os.pathsep.join(part for part in (own, env.get("PATH", os.defpath)) if part)
        return env

    def describe(self) -> dict[str, Any]:
        """What manifests record: JSON-able, free of this machine's paths."""
        return {
            "name": self.name,
            "kind": self.kind,
            "accelerator": self.accelerator,
            "lock_hash": self.lock_hash,
            "versions": dict(sorted(self.versions.items())),
        }

    def _folders(self) -> list[Path]:
        return [*self.bin_dirs, self.python.parent]
