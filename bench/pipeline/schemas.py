"""Importing every module that registers a config, so that Hydra knows all of them."""

from __future__ import annotations

import importlib

_MODULES = (
    "bench.analysis.config",
    "bench.load.arrivals.config",
    "bench.load.calibration",
    "bench.load.capacity.config",
    "bench.load.config",
    "bench.load.workloads.config",
    "bench.plan.config",
    "bench.plan.fit",
    "bench.quality.config",
    "bench.quality.generation.config",
    "bench.quality.served.config",
    "bench.toolchains.config",
    "quantize.models",
)


def register_load() -> None:
    """Register the shipped schemas of the load generator alone: half a second less before its first request."""
    for module in _MODULES:
        if module.startswith("bench.load."):
            importlib.import_module(module)


def register_all() -> None:
    """Register the shipped schemas of all rooms."""
    for module in _MODULES:
        importlib.import_module(module)
    from bench.engines.base import discover as discover_engines
    from quantize.schemes.base import discover as discover_schemes

    discover_engines()
    discover_schemes()
