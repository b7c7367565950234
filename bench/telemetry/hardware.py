"""Config group `hardware`: the memory and the GPUs that something is to fit into; this machine's, or any other's."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from bench.base.schema import schema

_GIB = 1 << 30
_MIB = 1 << 20
_QUERY = ("name", "memory.free", "compute_cap")
#: A container's limit, what it uses, and what of that the kernel can take back (cgroup versions 2 and 1).
_LIMITS = (
    (Path("/sys/fs/cgroup/memory.max"), "memory.current", "inactive_file"),
    (Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"), "memory.usage_in_bytes", "total_inactive_file"),
)


@schema("hardware", "hardware")
@dataclass(frozen=True, kw_only=True)
class HardwareConfig:
    """Hardware to fit into. With `detected` this machine's free memory and GPUs, except for what is given here.

    `memory_gib`: GiB of one GPU, or of main memory where `gpus` is 0; `main_memory_gib`: GiB of main memory beside
    GPUs. `gpus` null: one where `compute_capability` is given. What stays null is not known, and not judged.
    `source` and `as_of` tell where the figures of other hardware come from.
    """

    name: str = ""
    detected: bool = False
    gpus: int | None = None
    memory_gib: float | None = None
    main_memory_gib: float | None = None
    compute_capability: float | None = None
    source: str = ""
    as_of: str = ""

    def __post_init__(self) -> None:
        if self.gpus is not None and self.gpus < 0:
            raise ValueError(f"hardware.gpus={self.gpus} must be 0 (the CPU) or more")
        for name in ("memory_gib", "main_memory_gib", "compute_capability"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"hardware.{name}={value} must be positive, or null where it is not known")
        if self.gpus == 0 and self.compute_capability is not None:
            raise ValueError("hardware.compute_capability belongs to a GPU, and hardware.gpus=0 says there is none")
        if self.memory_gib is None and not self.detected:
            raise ValueError("hardware.memory_gib is missing: give the GiB of a GPU, or of main memory with gpus=0")


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """What there is, in bytes; None where it is not known. `gpu_bytes` is what one GPU has."""

    name: str
    gpus: int
    gpu_bytes: int | None
    main_bytes: int | None
    compute_capability: float | None


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """An NVIDIA GPU: what of its memory is free, and its compute capability (None: the driver does not say)."""

    name: str
    free_bytes: int
    compute_capability: float | None


def hardware_of(config: HardwareConfig) -> Hardware:
    """The hardware that a config means; where it is this machine's, as it is now."""
    found = detected_gpus() if config.detected else ()
    gpus = config.gpus
    if gpus is None:
        gpus = 1 if config.compute_capability is not None else len(found)
    main = free_main_bytes() if config.detected else None
    given = None if config.memory_gib is None else int(config.memory_gib * _GIB)
    if config.main_memory_gib is not None:
        main = int(config.main_memory_gib * _GIB)
    elif gpus == 0 and given is not None:
        main = given
    free = min((gpu.free_bytes for gpu in found), default=None)
    capability = min((gpu.compute_capability for gpu in found if gpu.compute_capability), default=None)
    return Hardware(
        name=config.name or "as given",
        gpus=gpus,
        gpu_bytes=None if gpus == 0 else (given or free),
        main_bytes=main,
        compute_capability=None if gpus == 0 else (config.compute_capability or capability),
    )


def free_main_bytes() -> int:
    """Main memory that is free now, no more than a container's limit leaves."""
    import psutil

    free = int(psutil.virtual_memory().available)
    for limit, usage, kept in _LIMITS:
        with contextlib.suppress(OSError, ValueError):  # no such file, or «max»
            allowed = int(limit.read_text(encoding="ascii"))
            used = int(limit.with_name(usage).read_text(encoding="ascii"))
            rows = dict(row.split() for row in limit.with_name("memory.stat").read_text(encoding="ascii").splitlines())
            return max(0, min(free, allowed - used + int(rows.get(kept, 0))))
    return free


def detected_gpus() -> tuple[Gpu, ...]:
    """NVIDIA GPUs as their driver tells them; none where there is no driver or it does not answer."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    query = [program, f"--query-gpu={','.join(_QUERY)}", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ()
    return parse_gpus(answer.stdout)


def parse_gpus(text: str) -> tuple[Gpu, ...]:
    """GPUs from nvidia-smi's lines; one whose memory it does not tell is left out."""
    found = []
    for line in text.splitlines():
        name, _, rest = line.partition(",")
        memory, _, capability = (part.strip() for part in rest.partition(","))
        with contextlib.suppress(ValueError):
            found.append(Gpu(name=name.strip(), free_bytes=int(memory) * _MIB, compute_capability=_number(capability)))
    return tuple(found)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
