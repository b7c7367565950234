"""A second name for an installed distribution, for software that asks for its version under that name."""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path

from bench.base.errors import ToolchainError


def alias_distribution(site_packages: Path, distribution: str, alias: str) -> Path:
    """Write a `dist-info` named `alias` with the version and entry points of `distribution`; returns its folder.

    Raises ToolchainError when `distribution` is not installed in `site_packages`.
    """
    found = next(
        (
            candidate
            for candidate in importlib.metadata.distributions(path=[str(site_packages)])
            if _normal(candidate.metadata["Name"] or "") == _normal(distribution)
        ),
        None,
    )
    if found is None:
        raise ToolchainError(f"cannot name '{distribution}' also '{alias}': it is not installed in the toolchain")
    folder = site_packages / f"{_normal(alias).replace('-', '_')}-{found.version}.dist-info"
    folder.mkdir(exist_ok=True)
    files = {
        "METADATA": f"Metadata-Version: 2.1\nName: {alias}\nVersion: {found.version}\n",
        "INSTALLER": "quantbench\n",
        "entry_points.txt": found.read_text("entry_points.txt") or "",
    }
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    names = [*files, "RECORD"]
    (folder / "RECORD").write_text("".join(f"{folder.name}/{name},,\n" for name in names), encoding="utf-8")
    return folder


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
