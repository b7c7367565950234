"""`quantbench doctor`: what of this machine would stop or spoil a benchmark, each with one line of what to do."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from dataclasses import dataclass
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path

from bench.base.errors import QuantbenchError
from bench.base.paths import cache_dir

_GIB = 1 << 30
_OLDEST_PYTHON = (3, 11)


class Verdict(StrEnum):
    """How bad it is: only FAIL stops the harness."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, kw_only=True)
class Check:
    """One finding; `remedy` is None exactly when `verdict` is ok."""

    name: str
    verdict: Verdict
    found: str
    remedy: str | None = None

    def __post_init__(self) -> None:
        if (self.remedy is None) != (self.verdict is Verdict.OK):
            raise ValueError(f"check '{self.name}': a remedy belongs to what is not ok")


def diagnose() -> list[Check]:
    """All checks, in the order a new user meets them. Changes nothing but a file it removes from the cache folder."""
    import psutil

    from bench.toolchains.venv import free_bytes

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    return [
        check_python(
            sys.version_info[:3], has_venv=find_spec("venv") is not None and find_spec("ensurepip") is not None
        ),
        check_pip(has_pip=find_spec("pip") is not None),
        check_compiler(os.environ.get("CXX") or "c++"),
        check_cache(cache_dir()),
        check_disk(free_bytes(cache_dir()), cache_dir()),
        check_memory(psutil.virtual_memory().available),
        check_load(os.getloadavg()[0] if hasattr(os, "getloadavg") else None, cores),
        check_gpu(),
        *check_toolchains(),
    ]


def check_python(version: tuple[int, ...], *, has_venv: bool) -> Check:
    """The interpreter's version, and whether it can make environments for toolchains."""
    said = ".".join(str(part) for part in version)
    if version[:2] < _OLDEST_PYTHON:
        return Check(name="python", verdict=Verdict.FAIL, found=f"Python {said}", remedy="install Python 3.11 or newer")
    if not has_venv:
        return Check(
            name="python",
            verdict=Verdict.FAIL,
            found=f"Python {said} cannot make virtual environments",
            remedy="install that part, for example: apt-get install python3-venv",
        )
    return Check(name="python", verdict=Verdict.OK, found=f"Python {said}")


def check_pip(*, has_pip: bool) -> Check:
    """pip beside the harness fetches packaged models."""
    if has_pip:
        return Check(name="pip", verdict=Verdict.OK, found="pip is there")
    return Check(
        name="pip",
        verdict=Verdict.WARN,
        found="the harness's environment has no pip, so packaged models may not be fetched",
        remedy=f"install it with: {sys.executable} -m ensurepip",
    )


def check_compiler(compiler: str) -> Check:
    """The llama_cpp toolchain is compiled on this machine."""
    found = shutil.which(compiler)
    if found is None:
        return Check(
            name="compiler",
            verdict=Verdict.WARN,
            found=f"no C++ compiler ({compiler}), so the llama_cpp toolchain cannot be built",
            remedy="install one, for example: apt-get install g++; or serve with the xllamacpp toolchain",
        )
    return Check(name="compiler", verdict=Verdict.OK, found=found)


def check_cache(folder: Path) -> Check:
    """The cache folder must be writable, and programs in it must be runnable."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".doctor-") as probe:
            probe.write(b"x")
        executable = not os.statvfs(folder).f_flag & os.ST_NOEXEC
    except OSError as error:
        return Check(
            name="cache",
            verdict=Verdict.FAIL,
            found=f"{folder} cannot be written ({error.strerror})",
            remedy="set QUANTBENCH_CACHE to a folder of yours",
        )
    if not executable:
        return Check(
            name="cache",
            verdict=Verdict.FAIL,
            found=f"{folder} is on a file system mounted noexec",
            remedy="set QUANTBENCH_CACHE to a folder from which programs may run",
        )
    return Check(name="cache", verdict=Verdict.OK, found=str(folder))


def check_disk(free: int, folder: Path, *, wanted_gib: float = 4.0, needed_gib: float = 1.5) -> Check:
    """Free bytes where toolchains and artefacts go."""
    detail = f"{free / _GIB:.1f} GiB free at {folder}"
    if free >= wanted_gib * _GIB:
        return Check(name="disk", verdict=Verdict.OK, found=detail)
    return Check(
        name="disk",
        verdict=Verdict.WARN if free >= needed_gib * _GIB else Verdict.FAIL,
        found=detail,
        remedy=f"free some space ({wanted_gib:g} GiB is comfortable), or set QUANTBENCH_CACHE to another disk",
    )


def check_memory(available: int, *, wanted_gib: float = 2.0) -> Check:
    """Memory that is free for engines now, bytes."""
    detail = f"{available / _GIB:.1f} GiB available"
    if available >= wanted_gib * _GIB:
        return Check(name="memory", verdict=Verdict.OK, found=detail)
    return Check(
        name="memory",
        verdict=Verdict.WARN,
        found=detail,
        remedy="close other programs: engines may be killed for lack of memory",
    )


def check_load(load: float | None, cores: int) -> Check:
    """Whether others use the machine: the one-minute load average against the usable cores."""
    if load is None:
        return Check(name="load", verdict=Verdict.OK, found="this system reports no load average")
    detail = f"load average {load:.2f} on {cores} cores"
    if load <= max(0.5, 0.25 * cores):
        return Check(name="load", verdict=Verdict.OK, found=detail)
    return Check(
        name="load",
        verdict=Verdict.WARN,
        found=detail,
        remedy="measure when the machine is quiet: timings taken now are marked busy_machine",
    )


def check_gpu() -> Check:
    """NVIDIA GPUs, as their driver names them. None is no fault: everything also runs on the CPU."""
    from bench.telemetry.machine import gpus

    found = gpus()
    if found:
        return Check(name="gpu", verdict=Verdict.OK, found="; ".join(f"{gpu['name']}" for gpu in found))
    if Path("/dev/nvidiactl").exists() or shutil.which("nvidia-smi"):
        return Check(
            name="gpu",
            verdict=Verdict.WARN,
            found="there is an NVIDIA device, but nvidia-smi does not answer",
            remedy="run nvidia-smi and repair the driver, or measure on the CPU",
        )
    return Check(name="gpu", verdict=Verdict.OK, found="none: engines run on the CPU")


def check_toolchains() -> list[Check]:
    """Each toolchain's state; one that is not installed is no fault, it is made on first use."""
    from bench.toolchains.command import list_toolchains
    from bench.toolchains.ensure import State

    try:
        rows = list_toolchains(with_sizes=False)
    except QuantbenchError as error:
        return [Check(name="toolchains", verdict=Verdict.FAIL, found=str(error), remedy="correct the configuration")]
    checks = []
    for row in rows:
        name = f"toolchain {row.name}"
        if row.state is State.incomplete:
            checks.append(
                Check(
                    name=name,
                    verdict=Verdict.WARN,
                    found="begun and not finished",
                    remedy=f"go on with: quantbench toolchain install {row.name}",
                )
            )
        else:
            said = {
                State.ready: "ready",
                State.absent: f"not installed; made on first use, or now: quantbench toolchain install {row.name}",
                State.not_configured: f"not set up; {row.description}",
            }[row.state]
            checks.append(Check(name=name, verdict=Verdict.OK, found=said))
    return checks
