"""Fetching a pinned source archive, keeping parts of it, and building programs from it with CMake and Ninja."""

from __future__ import annotations

import os
import shutil
import tarfile
from pathlib import Path

from bench.base.errors import ToolchainError, UsageError
from bench.toolchains.config import Step, lock_file
from bench.toolchains.steps import Build

# Compiling one of the larger C++ files takes about this much memory.
_BYTES_PER_JOB = 1_500_000_000


def fetch_source(build: Build, step: Step) -> None:
    """Download the hash-pinned source archive of the step's lock and unpack it into `work/source`.

    pip asks the archive for its metadata, so what its build backend needs must be installed before this step.
    """
    if build.source.is_dir():
        return
    lock = lock_file(str(step.lock))
    downloads = build.work / "download"
    shutil.rmtree(downloads, ignore_errors=True)
    downloads.mkdir(parents=True)
    build.pip(
        "download", "--no-deps", "--no-build-isolation", "--no-binary", ":all:", "--require-hashes",
        "--progress-bar", "off", "--dest", downloads, "--requirement", lock,
        what=f"fetching the source of {lock.stem}",
        environment=step.environment,
    )  # fmt: skip
    archives = list(downloads.glob("*.tar.gz"))
    if len(archives) != 1:
        raise ToolchainError(f"toolchain {build.config.name}: {lock.name} must name exactly one source archive")
    unpack(archives[0], build.source)
    shutil.rmtree(downloads)


def unpack(archive: Path, target: Path) -> None:
    """Unpack a .tar.gz with one top folder so that `target` is that folder, whole or absent."""
    draft = target.with_name(f"{target.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    with tarfile.open(archive) as source:
        if hasattr(tarfile, "data_filter"):  # 3.11.0 to 3.11.3 lack it; the archive's hash is pinned in any case
            source.extractall(draft, filter="data")
        else:
            source.extractall(draft)  # noqa: S202
    tops = list(draft.iterdir())
    if len(tops) != 1 or not tops[0].is_dir():
        raise ToolchainError(f"{archive.name} does not hold one top folder")
    tops[0].rename(target)
    draft.rmdir()


def keep_source(build: Build, step: Step) -> None:
    """Copy the step's paths out of the unpacked source into `source/`, whole or absent.

    Raises ToolchainError when the source has no such path.
    """
    kept, draft = build.prefix / "source", build.prefix / "source.draft"
    shutil.rmtree(draft, ignore_errors=True)
    for name in step.paths:
        origin = build.source / step.directory / name
        target = draft / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if origin.is_dir():
            shutil.copytree(origin, target, symlinks=True)
        elif origin.is_file():
            shutil.copy2(origin, target)
        else:
            raise ToolchainError(f"toolchain {build.config.name}: its source holds no {step.directory}/{name}")
    shutil.rmtree(kept, ignore_errors=True)
    draft.rename(kept)


def edit_source(build: Build, step: Step) -> None:
    """Put `after` in the place of `before` in one file of the unpacked source; done already, nothing happens.

    Raises ToolchainError when `before` does not stand there exactly once: the edit was written for another source.
    """
    (name,) = step.paths
    path = build.source / step.directory / name
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    if step.after in text:
        return
    if text.count(step.before) != 1:
        raise ToolchainError(
            f"toolchain {build.config.name}: {step.directory}/{name} of its source holds what shall be edited "
            f"{text.count(step.before)} times, not once; was the edit written for another version?"
        )
    edited = path.with_name(f"{path.name}.edited")
    edited.write_text(text.replace(step.before, step.after), encoding="utf-8")
    edited.replace(path)


def build_native(build: Build, step: Step) -> None:
    """Configure, compile the targets and keep programs and libraries together in `native/`, findable as they lie.

    They find their libraries beside themselves (RPATH $ORIGIN). Object files stay in `work/` until the toolchain
    is complete, so that an interrupted build goes on where it was.
    """
    if build.native.is_dir():
        return
    objects = build.work / "objects"
    options = {**step.options, **step.accelerator_options.get(build.config.accelerator.value, {})}
    build.run(
        [
            build.venv / "bin" / "cmake", "-S", build.source / step.directory, "-B", objects, "-G", "Ninja",
            "-DCMAKE_BUILD_TYPE=Release",
            "-DCMAKE_INSTALL_RPATH=$ORIGIN",
            "-DCMAKE_BUILD_WITH_INSTALL_RPATH=ON",
            f"-DCMAKE_MAKE_PROGRAM={build.venv / 'bin' / 'ninja'}",
            *(f"-D{name}={value}" for name, value in sorted(options.items())),
        ],
        "configuring the build",
        environment=step.environment,
    )  # fmt: skip
    build.run(
        [build.venv / "bin" / "cmake", "--build", objects, "--parallel", str(build_jobs()), "--target", *step.targets],
        f"building {', '.join(step.targets)}",
        environment=step.environment,
    )
    draft = build.prefix / "native.draft"
    shutil.rmtree(draft, ignore_errors=True)
    shutil.copytree(objects / "bin", draft, symlinks=True)
    draft.rename(build.native)


def build_jobs() -> int:
    """Compilers to run at once: QUANTBENCH_BUILD_JOBS, else one a usable core, fewer when memory is short."""
    asked = os.environ.get("QUANTBENCH_BUILD_JOBS")
    if asked:
        if not asked.isdigit() or int(asked) < 1:
            raise UsageError(f"QUANTBENCH_BUILD_JOBS={asked}: give a whole number of at least 1")
        return int(asked)
    import psutil

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    return max(1, min(cores, psutil.virtual_memory().available // _BYTES_PER_JOB))
