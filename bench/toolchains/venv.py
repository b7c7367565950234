"""Toolchains of kind `venv`: made in place under a file lock, step by step, verified, marked complete last.

PREFIX = CACHE/toolchains/NAME-LOCKHASH[-CPU]
├── venv/            the environment; its Python runs the workers
├── native/          programs and libraries that were built, when there are any
├── source/          parts of a source archive that are used as they are, when there are any
├── work/            downloads, sources, object files; gone when complete
├── make.log         everything that installers and compilers said
├── steps.json       which steps are done, for resuming
└── toolchain.json   the manifest; the toolchain exists when this does
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.base.clock import utc_now
from bench.base.errors import ToolchainError
from bench.base.files import read_json, write_json
from bench.base.hashing import key_of, sha256_file
from bench.base.paths import cache_dir
from bench.base.progress import Progress
from bench.toolchains.config import Step, StepKind, VenvConfig, lock_file, plain
from bench.toolchains.cpu import cpu_features_key
from bench.toolchains.ensure import State
from bench.toolchains.pip import install_env
from bench.toolchains.runner import run_tool
from bench.toolchains.steps import Build, run_step, touches_venv
from bench.toolchains.toolchain import Toolchain
from bench.toolchains.verify import installed_versions, run_verifications

MANIFEST = "toolchain.json"
_GIB = 1 << 30


def identity(config: VenvConfig) -> dict[str, Any]:
    """Steps of this accelerator, the content of their locks, the Python and the machine they are for."""
    from bench.toolchains.reuse import reused_locks

    steps = config.active_steps()
    reused = reused_locks(config)
    return {
        **({"reused": reused} if reused else {}),
        "accelerator": config.accelerator,
        "steps": [set_fields(step) for step in steps],
        "locks": {step.lock: sha256_file(lock_file(step.lock)) for step in steps if step.lock},
        "python": f"{sys.implementation.name}-{sys.version_info[0]}.{sys.version_info[1]}",
        "machine": f"{sys.platform}-{platform.machine()}",
    }


def set_fields(step: Step) -> dict[str, Any]:
    """The fields of a step that differ from their defaults: a field added later changes no key."""
    blank = Step(kind=StepKind.install_source)
    return {
        field.name: value
        for field in dataclasses.fields(step)
        if (value := getattr(step, field.name)) != getattr(blank, field.name) or field.name == "kind"
    }


def folder(config: VenvConfig, lock_hash: str) -> Path:
    """The prefix. Native code is tuned to the CPU, so its features are in the name: a shared home stays safe."""
    compiled = (StepKind.build_native, StepKind.reuse_native)
    native = any(step.kind in compiled for step in config.active_steps())
    suffix = f"-{cpu_features_key()}" if native else ""
    return cache_dir() / "toolchains" / f"{config.name}-{lock_hash}{suffix}"


def state(config: VenvConfig, lock_hash: str) -> State:
    """Ready when the manifest and the interpreter are there."""
    if find(config, lock_hash) is not None:
        return State.ready
    return State.incomplete if folder(config, lock_hash).exists() else State.absent


def find(config: VenvConfig, lock_hash: str) -> Toolchain | None:
    """The complete toolchain, or None."""
    prefix = folder(config, lock_hash)
    try:
        manifest = read_json(prefix / MANIFEST)
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    python = prefix / "venv" / "bin" / "python"
    if not python.exists():  # the interpreter below the venv was removed from the machine
        return None
    return _toolchain(config, lock_hash, prefix, env=manifest["env"], versions=manifest["versions"])


def make(config: VenvConfig, lock_hash: str, progress: Progress) -> Toolchain:
    """Make the environment, or wait for the process that makes it already."""
    prefix = folder(config, lock_hash)
    with _exclusive(prefix, progress):
        ready = find(config, lock_hash)
        if ready is not None:
            return ready
        _check_disk(config, prefix)
        prefix.mkdir(parents=True, exist_ok=True)
        build = Build(config=config, prefix=prefix, log=prefix / "make.log", progress=progress)
        _run_steps(build)
        shutil.rmtree(build.work, ignore_errors=True)
        draft = _toolchain(config, lock_hash, prefix, env=build.environment(), versions={})
        progress.say("verifying")
        versions = {
            **installed_versions(draft, log=build.log),
            **run_verifications(draft, config.verify, log=build.log, progress=progress),
        }
        manifest = {
            "schema_version": 1,
            "name": config.name,
            "kind": config.kind,
            "accelerator": config.accelerator.value,
            "lock_hash": lock_hash,
            "env": build.environment(),
            "versions": versions,
            "steps": [plain(set_fields(step)) for step in config.active_steps()],
            "python": platform.python_version(),
            "created": utc_now(),
        }
        write_json(prefix / MANIFEST, manifest)
        progress.say("ready")
        return _toolchain(config, lock_hash, prefix, env=build.environment(), versions=versions)


def remove(config: VenvConfig, lock_hash: str) -> int:
    """Delete the folder, its manifest first, so that a half-deleted toolchain is never taken for a whole one."""
    prefix = folder(config, lock_hash)
    if not prefix.exists():
        return 0
    with _exclusive(prefix, Progress()):
        size = size_bytes(prefix)
        (prefix / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(prefix)
    return size


def size_bytes(directory: Path) -> int:
    """Bytes of all regular files below a folder; links count nothing. A hundred thousand files are usual."""
    total = 0
    folders = [os.fspath(directory)]
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                elif entry.is_file(follow_symlinks=False):
                    total += entry.stat(follow_symlinks=False).st_size
    return total


def free_bytes(directory: Path) -> int:
    """Free bytes of the file system that will hold `directory`."""
    while not directory.exists():
        directory = directory.parent
    return shutil.disk_usage(directory).free


def _toolchain(
    config: VenvConfig, lock_hash: str, prefix: Path, *, env: dict[str, str], versions: dict[str, str]
) -> Toolchain:
    """`{prefix}` in the recorded environment is where the toolchain lives now."""
    native = prefix / "native"
    return Toolchain(
        name=config.name,
        lock_hash=lock_hash,
        prefix=prefix,
        python=prefix / "venv" / "bin" / "python",
        env={name: value.replace("{prefix}", str(prefix)) for name, value in env.items()},
        versions=versions,
        kind=config.kind,
        accelerator=config.accelerator.value,
        bin_dirs=(native,) if native.is_dir() else (),
    )


@contextlib.contextmanager
def _exclusive(prefix: Path, progress: Progress) -> Iterator[None]:
    from filelock import FileLock, Timeout

    prefix.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(prefix.parent / f".{prefix.name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        progress.say("waiting: another process is making this toolchain")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _check_disk(config: VenvConfig, prefix: Path) -> None:
    free, needed = free_bytes(prefix), int(config.disk_gib * _GIB)
    if free < needed:
        raise ToolchainError(
            f"toolchain {config.name} needs {needed / _GIB:.1f} GiB of free disk and {prefix.parent} has "
            f"{free / _GIB:.1f} GiB; free some space or set QUANTBENCH_CACHE to a folder with more"
        )


def _run_steps(build: Build) -> None:
    """Run the steps that are not done. A step that was interrupted inside the venv makes the venv suspect."""
    record = build.prefix / "steps.json"
    begun, done = _read_record(record)
    steps = {_step_id(number, step): step for number, step in enumerate(build.config.active_steps())}
    if not build.python.exists() or (begun is not None and touches_venv(steps.get(begun))):
        shutil.rmtree(build.venv, ignore_errors=True)
        done = {name for name in done if name in steps and not touches_venv(steps[name])}
        write_json(record, {"begun": "venv", "done": sorted(done)})
        _make_venv(build)
    for number, (name, step) in enumerate(steps.items(), start=1):
        if name in done:
            continue
        write_json(record, {"begun": name, "done": sorted(done)})
        build.progress.say(f"step {number} of {len(steps)}: {describe_step(step)}")
        run_step(build, step)
        done.add(name)
        write_json(record, {"begun": None, "done": sorted(done)})


def _read_record(path: Path) -> tuple[str | None, set[str]]:
    try:
        record = read_json(path)
    except (FileNotFoundError, json.JSONDecodeError):
        return None, set()
    return record["begun"], set(record["done"])


def _step_id(number: int, step: Step) -> str:
    return f"{number:02d}-{step.kind.value}-{key_of(set_fields(step))}"


def _make_venv(build: Build) -> None:
    build.progress.say("making the Python environment")
    run_tool(
        [sys.executable, "-I", "-m", "venv", "--clear", str(build.venv)],
        what=f"toolchain {build.config.name}: making the Python environment",
        log=build.log,
        env=install_env(),
        progress=build.progress,
    )


def describe_step(step: Step) -> str:
    """A step in a few words, for progress."""
    requirements = ", ".join(step.requirements)
    lock = (step.lock or "").removesuffix(".txt")
    words = {
        StepKind.install: f"installing {lock}",
        StepKind.install_no_deps: f"installing {requirements}",
        StepKind.install_with_deps: f"installing {requirements}",
        StepKind.uninstall: f"uninstalling {requirements}",
        StepKind.alias: f"naming {step.distribution} also {step.alias}",
        StepKind.fetch_source: f"fetching {lock}",
        StepKind.build_native: f"building {', '.join(step.targets)} (this takes minutes)",
        StepKind.install_source: "installing the Python binding",
        StepKind.edit_source: f"editing {', '.join(step.paths)}",
        StepKind.keep_source: f"keeping {', '.join(step.paths)}",
        StepKind.reuse_native: f"taking the programs of {step.toolchain}",
        StepKind.set_env: f"setting {', '.join(step.environment)}",
    }
    return words[step.kind]
