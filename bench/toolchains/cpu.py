"""Which instructions this CPU has: code built for it must not be run by one that has fewer."""

from __future__ import annotations

import functools
import platform
import re
from pathlib import Path

from bench.base.hashing import key_of


@functools.cache
def cpu_features_key() -> str:
    """Eight hexadecimal digits that stand for machine type and instruction-set features."""
    return features_key(_cpuinfo(), platform.machine(), platform.processor())


def features_key(cpuinfo: str, machine: str, processor: str) -> str:
    """From the text of /proc/cpuinfo (`flags` on x86, `Features` on Arm), else the processor's name."""
    match = re.search(r"^(?:flags|Features)\s*:\s*(.*)$", cpuinfo, re.MULTILINE)
    features = sorted(set(match[1].split())) if match else [processor]
    return key_of({"machine": machine, "features": features})[:8]


def _cpuinfo() -> str:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
