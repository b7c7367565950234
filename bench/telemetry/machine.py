"""What machine this is: the part that names it (its fingerprint) and the part that tells how busy it was."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from functools import cache
from typing import Any

from bench.base.machine import cpu_model

_GPU_FIELDS = ("name", "driver_version", "memory.total", "power.limit")


@cache
def gpus() -> tuple[dict[str, str], ...]:
    """NVIDIA GPUs as nvidia-smi names them; empty where there is no driver."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    query = [program, f"--query-gpu={','.join(_GPU_FIELDS)}", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ()
    rows = (line.split(",") for line in answer.stdout.splitlines() if line.strip())
    return tuple(dict(zip(_GPU_FIELDS, (cell.strip() for cell in row), strict=False)) for row in rows)


@cache
def fingerprint() -> dict[str, Any]:
    """What a measurement depends on and a rerun must share: processor, memory, GPUs, driver, power cap, kernel."""
    import psutil

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "cpu": cpu_model(),
        "cores": cores,
        # Whole GiB: the kernel's reservations make the byte count differ from boot to boot.
        "memory_bytes": round(psutil.virtual_memory().total / 2**30) * 2**30,
        "gpus": [dict(gpu) for gpu in gpus()],
        "kernel": platform.release(),
        "os": platform.system(),
        "architecture": platform.machine(),
    }


def load_average() -> list[float] | None:
    """The machine's 1, 5 and 15 minute load, or None where the system has none."""
    try:
        return [round(value, 2) for value in os.getloadavg()]
    except OSError:
        return None
