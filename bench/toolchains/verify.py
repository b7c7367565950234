"""Whether a toolchain really works, and which versions are really in it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.base.errors import ToolchainError
from bench.base.progress import Progress
from bench.toolchains.config import Verification
from bench.toolchains.runner import run_tool
from bench.toolchains.toolchain import Toolchain

_LIST_VERSIONS = """
import importlib.metadata, json, re
found = {d.metadata["Name"]: d.version for d in importlib.metadata.distributions() if d.metadata["Name"]}
print(json.dumps({re.sub(r"[-_.]+", "-", name).lower(): version for name, version in found.items()}))
"""


def run_verifications(
    toolchain: Toolchain, verifications: Sequence[Verification], *, log: Path, progress: Progress
) -> dict[str, str]:
    """Run every verification inside the toolchain; returns the versions they report.

    Raises ToolchainError when one does not end with its exit code, or does not print the version it should.
    """
    versions = {}
    for verification in verifications:
        program, *arguments = [
            part.replace("{python}", str(toolchain.python)).replace("{prefix}", str(toolchain.prefix))
            for part in verification.command
        ]
        path = program if "/" in program else str(toolchain.executable(program))
        said = _output(
            [path, *arguments],
            what=f"toolchain {toolchain.name}: verifying {verification.name}",
            log=log,
            env=toolchain.environ(),
            progress=progress,
            expected_code=verification.exit_code,
        )
        if verification.version is None:
            continue
        match = re.search(verification.version, said)
        if match is None:
            raise ToolchainError(
                f"toolchain {toolchain.name}: {Path(path).name} did not print its version as expected", log_tail=said
            )
        versions[verification.name] = match[1].strip()
    return versions


def installed_versions(toolchain: Toolchain, *, log: Path) -> dict[str, str]:
    """Versions of all distributions that the toolchain's Python sees, by normalised name."""
    said = _output(
        [str(toolchain.python), "-I", "-c", _LIST_VERSIONS],
        what=f"toolchain {toolchain.name}: listing its versions",
        log=log,
        env=toolchain.environ(),
        progress=Progress(),
    )
    versions: dict[str, str] = json.loads(said.strip().splitlines()[-1])
    return dict(sorted(versions.items()))


def _output(
    argv: list[str], *, what: str, log: Path, env: Mapping[str, str], progress: Progress, expected_code: int = 0
) -> str:
    before = log.stat().st_size if log.exists() else 0
    run_tool(argv, what=what, log=log, env=env, progress=progress, expected_code=expected_code)
    with log.open("rb") as stream:
        stream.seek(before)
        return stream.read().decode(errors="replace")
