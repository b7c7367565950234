"""4-bit weights in vLLM on a processor without AVX-512, where its own kernel does not exist."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path

#: On the path of vLLM's processes, its entry point is found and registers the kernel.
PLUGIN = Path(__file__).with_name("vllm_plugin")
#: How the plugin says in vLLM's log that it is at work.
SAYS = "quantbench: 4-bit weights are unpacked"
#: Its class in vLLM, which claims to implement what was not compiled for this processor.
_OWN_KERNEL = "CPUWNA16LinearKernel"


def lacks_kernel(processor: str | None = None) -> bool:
    """Whether vLLM's wheel for CPUs has no kernel for 4-bit weights here. `processor` is /proc/cpuinfo's text.

    False on other architectures, and where the system does not say.
    """
    if platform.machine() != "x86_64":
        return False
    try:
        said = Path("/proc/cpuinfo").read_text(encoding="utf-8") if processor is None else processor
    except OSError:
        return False
    return "avx512f" not in said.split()


def reference_environment() -> Mapping[str, str]:
    """Variables that have vLLM load the plugin and leave its own kernel."""
    return {"PYTHONPATH": str(PLUGIN), "VLLM_DISABLED_KERNELS": _OWN_KERNEL}
