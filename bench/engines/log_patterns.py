"""Causes of a failed start that every engine's libraries tell in the same words, after an engine's own patterns."""

from __future__ import annotations

import re

from bench.base.errors import FailureKind
from bench.engines.base import LogPattern


def _known(pattern: str, kind: FailureKind, advice: str) -> LogPattern:
    return LogPattern(pattern=re.compile(pattern, re.IGNORECASE), kind=kind, advice=advice)


#: CUDA's runtime and PyTorch first (`torch/cuda/__init__.py`, c10), then Python's and libc's own words.
COMMON_PATTERNS: tuple[LogPattern, ...] = (
    _known(
        r"couldn't bind|address already in use|port is already allocated|errno 98\b",
        FailureKind.PORT_TAKEN,
        "another program took the port: run it again, or name another port",
    ),
    _known(
        r"no kernel image is available|not compiled with CUDA enabled|sm_\d+ is not compatible with the current PyTorch"
        r"|requires compute capability|is not supported on this GPU|Minimum capability",
        FailureKind.MISSING_KERNEL,
        "this build has no kernel for this GPU or format: use another build, scheme or GPU",
    ),
    _known(
        r"CUDA driver version is insufficient|NVIDIA driver on your system is too old|Found no NVIDIA driver"
        r"|CUDA driver initialization failed|NVML_ERROR_LIBRARY|Driver/library version mismatch"
        r"|no CUDA-capable device is detected|could not select device driver",
        FailureKind.DRIVER,
        "the GPU's driver is missing or too old for this build: see quantbench doctor",
    ),
    _known(
        r"out of memory|OutOfMemoryError|can't allocate memory|cannot allocate memory|\bMemoryError\b|std::bad_alloc",
        FailureKind.OUT_OF_MEMORY,
        "lower engine.max_model_len or engine.max_sequences, or choose a smaller scheme",
    ),
)
