"""Which build of an engine runs, wherever it comes from: what enters keys, and what is recorded."""

from __future__ import annotations

import functools
import secrets
import shutil
import subprocess
from pathlib import Path
from typing import Any

from bench.base.errors import UsageError
from bench.base.hashing import DigestCache, key_of
from bench.base.process import clean_env
from bench.base.progress import Progress
from bench.engines.base import EngineConfig
from bench.engines.container import image_id
from bench.pipeline.context import Workshop

_VERSION_S = 120.0


def engine_lock(config: EngineConfig, workshop: Workshop, progress: Progress) -> str:
    """What stands for the engine's build in a cell's key.

    Of a server that runs already nothing is known, so that no two measurements of it are the same one.
    """
    if config.base_url:
        return f"attached {secrets.token_hex(8)}"
    if config.uses_toolchain:
        return workshop.toolchains.lock(config.toolchain)
    return key_of(engine_build(config, workshop, progress))


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
        build = f"{program.name}, {found['version']}" if found["version"] else program.name
        return {"build": build, "mode": "executable", "program": found, "toolchain": None}
    toolchain = workshop.toolchains.ensure(config.toolchain, progress)
    return {"build": f"{toolchain.name} {toolchain.lock_hash}", "toolchain": toolchain.describe()}


def find_program(executable: str) -> Path:
    """The program that `engine.executable` names, by path or on PATH; raises UsageError when there is none."""
    found = shutil.which(str(Path(executable).expanduser()))
    if found is None:
        raise UsageError(f"engine.executable={executable}: there is no such program; give its path")
    return Path(found)


@functools.cache
def version_of(program: Path) -> str | None:
    """The line in which a program tells its version, or None when it does not."""
    try:
        answer = subprocess.run(
            [str(program), "--version"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=_VERSION_S,
            env=clean_env(),
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = [line.strip() for line in answer.stdout.splitlines()] if answer.returncode == 0 else []
    told = [line for line in lines if any(letter.isdigit() for letter in line)]
    return told[0][:200] if told else None
