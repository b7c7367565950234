"""Whether an engine computes on an NVIDIA GPU, which its toolchain decides, and whether there is one here."""

from __future__ import annotations

import functools
import os
import shutil
from pathlib import Path

from bench.base.errors import UsageError
from bench.engines.base import EngineConfig
from bench.toolchains.config import Accelerator


def on_gpu(toolchain: str) -> bool:
    """Whether toolchain `toolchain` is for NVIDIA GPUs; raises UsageError when there is none of that name."""
    return _on_gpu(toolchain, os.environ.get("QUANTBENCH_CONFIG_DIR", ""))


@functools.cache
def _on_gpu(toolchain: str, _: str) -> bool:
    """Composing takes a tenth of a second, and a plan asks for every cell."""
    from bench.toolchains.config import load_toolchain_config

    return load_toolchain_config(toolchain).accelerator is Accelerator.cuda


def has_gpu() -> bool:
    """Whether there is an NVIDIA driver."""
    return Path("/dev/nvidiactl").exists() or shutil.which("nvidia-smi") is not None


def computes_on_gpu(config: EngineConfig) -> bool:
    """Whether an engine with `config` computes on GPUs: those a container is given, else as its toolchain is."""
    return bool(config.container.gpus) if config.container.image else on_gpu(config.toolchain)


def accelerator_of(config: EngineConfig) -> Accelerator:
    """`computes_on_gpu` as a word."""
    return Accelerator.cuda if computes_on_gpu(config) else Accelerator.cpu


def require_gpu(config: EngineConfig, instead: str) -> None:
    """Raise UsageError where the engine is for GPUs and there is none, before anything is made for it."""
    if computes_on_gpu(config) and not config.base_url and not has_gpu():
        place = "container.gpus" if config.container.image else f"toolchain {config.toolchain}"
        raise UsageError(f"{place} is for NVIDIA GPUs, and there is no NVIDIA driver here: {instead}")


def require_own_gpu(config: EngineConfig) -> None:
    """Raise UsageError for an engine that runs on NVIDIA GPUs alone, where its container or this machine has none."""
    if config.container.image and not config.container.gpus:
        raise UsageError(
            f"engine={config.kind} needs an NVIDIA GPU, and its container is given none: engine.container.gpus=all"
        )
    if not has_gpu():
        raise UsageError(
            f"engine={config.kind} needs an NVIDIA GPU, and there is no NVIDIA driver here: choose another engine"
        )
