"""Which build of an engine runs, wherever it comes from: what enters keys, and what is recorded."""

from __future__ import annotations

import functools
import re
import secrets
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.base.errors import UsageError
from bench.base.hashing import DigestCache, key_of
from bench.base.process import clean_env
from bench.base.progress import Progress
from bench.engines.base import EngineConfig, engine_of
from bench.engines.container import image_id
from bench.pipeline.context import Workshop

_VERSION_S = 120.0
#: What a Python says when it is asked for its version.
_PYTHON = re.compile(r"Python \d")


def engine_lock(config: EngineConfig, workshop: Workshop, progress: Progress) -> str:
    """What stands for the engine's build in a cell's key.

    Of a server that runs already nothing is known, so that no two measurements of it are the same one; nor are those of
    a program that tells no version, which may be a small file in front of what changes.
    """
    if config.base_url:
        return f"attached {secrets.token_hex(8)}"
    if config.uses_toolchain:
        return workshop.toolchains.lock(config.toolchain)
    build = engine_build(config, workshop, progress)
    if config.executable and not is_told(build["program"]):
        return f"untold {secrets.token_hex(8)}"
    return key_of(build)


def engine_build(config: EngineConfig, workshop: Workshop, progress: Progress) -> dict[str, Any]:
    """`build` in words, and what is known of the toolchain, program, image or server behind it."""
    if config.base_url:
        return {"build": "not known: the server ran already", "mode": "attached", "toolchain": None}
    if config.container.image:
        image = {"name": config.container.image, "id": image_id(config.container, progress)}
        return {"build": f"image {image['name']}", "mode": "container", "image": image, "toolchain": None}
    if config.executable:
        program = find_program(config.executable)
        digests = DigestCache(workshop.cache / "toolchains" / "digests.json")
        found = {"name": program.name, "version": version_of(program), "sha256": digests.digest(program)}
        distribution = distribution_of(program, engine_of(config).distribution or config.kind)
        if distribution is not None:
            found["distribution"] = distribution
        build = ", ".join(filter(None, (program.name, found["version"], distribution)))
        return {"build": build, "mode": "executable", "program": found, "toolchain": None}
    toolchain = workshop.toolchains.ensure(config.toolchain, progress)
    return {"build": f"{toolchain.name} {toolchain.lock_hash}", "toolchain": toolchain.describe()}


def find_program(executable: str) -> Path:
    """The program that `engine.executable` names, by path or on PATH; raises UsageError when there is none."""
    found = shutil.which(str(Path(executable).expanduser()))
    if found is None:
        raise UsageError(f"engine.executable={executable}: there is no such program; give its path")
    return Path(found).absolute()


def is_told(program: Mapping[str, Any]) -> bool:
    """Whether it is known which version of the engine a program starts; a Python tells its own."""
    version = program["version"]
    return program.get("distribution") is not None or (version is not None and not _PYTHON.match(version))


def python_of(program: Path) -> Path | None:
    """The Python that runs a program: itself, or the one that its first line names; None where there is none."""
    if _PYTHON.match(version_of(program) or ""):
        return program
    with program.open("rb") as file:
        start = file.read(4096).decode("utf-8", errors="replace")
    if not start.startswith("#!"):
        return None
    first, _, rest = start[2:].partition("\n")
    try:
        words = shlex.split(first)
        if rest.startswith("'''exec' "):  # how pip names a Python whose path is too long for a first line
            words = shlex.split(rest.partition("\n")[0])[1:]
    except ValueError:
        return None
    if words and Path(words[0]).name == "env":
        words = [word for word in words[1:] if not word.startswith("-") and "=" not in word]
    found = shutil.which(words[0]) if words else None
    return Path(found) if found and _PYTHON.match(version_of(Path(found)) or "") else None


def distribution_of(program: Path, name: str) -> str | None:
    """`NAME VERSION` of the Python distribution that a program starts; None where it is no Python's, or not there."""
    python = python_of(program)
    if python is None:
        return None
    code = "import importlib.metadata, sys; print(importlib.metadata.version(sys.argv[1]))"
    lines = (_answer([str(python), "-c", code, name]) or "").split()
    return f"{name} {lines[-1]}" if lines else None


@functools.cache
def version_of(program: Path) -> str | None:
    """The line in which a program tells its version, or None when it does not."""
    lines = [line.strip() for line in (_answer([str(program), "--version"]) or "").splitlines()]
    told = [line for line in lines if any(letter.isdigit() for letter in line)]
    return told[0][:200] if told else None


def _answer(command: Sequence[str]) -> str | None:
    """What a command prints; None when it fails."""
    try:
        answer = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=_VERSION_S,
            env=clean_env(),
            cwd="/",
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout if answer.returncode == 0 else None
