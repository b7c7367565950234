"""Where a result comes from: versions, commit, load, an allow-list of environment variables. No secrets, by design."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from bench._version import __version__
from bench.telemetry.machine import load_average

#: Variables that change what is measured. Nothing else of the environment is ever recorded.
ENVIRONMENT_ALLOW_LIST = (
    "CUDA_VISIBLE_DEVICES",
    "CUDA_DEVICE_MAX_CONNECTIONS",
    "GGML_CUDA_ENABLE_UNIFIED_MEMORY",
    "HF_HUB_OFFLINE",
    "LD_PRELOAD",
    "MALLOC_ARENA_MAX",
    "MKL_NUM_THREADS",
    "NCCL_DEBUG",
    "NCCL_IB_DISABLE",
    "OMP_NUM_THREADS",
    "PYTORCH_CUDA_ALLOC_CONF",
    "VLLM_ATTENTION_BACKEND",
)
_PACKAGES = ("hydra-core", "omegaconf", "numpy", "pandas", "pyarrow", "httptools", "httpx")


def provenance() -> dict[str, Any]:
    """The facts of the harness's side, taken now."""
    return {
        "quantbench": __version__,
        "commit": source_commit(),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "environment": {name: os.environ[name] for name in ENVIRONMENT_ALLOW_LIST if name in os.environ},
        "load_average": load_average(),
    }


def source_commit() -> str | None:
    """The checkout's commit, `+changes` when files differ from it; None for an installed wheel."""
    checkout = Path(__file__).resolve().parents[2]
    if not (checkout / ".git").exists():
        return None
    try:
        commit = _git(checkout, "rev-parse", "HEAD")
        changed = _git(checkout, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{commit}+changes" if changed else commit


def _git(checkout: Path, *arguments: str) -> str:
    command = ["git", "-C", str(checkout), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
