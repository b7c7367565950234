"""NVIDIA GPUs through NVML: power, energy, memory, clocks, and whose processes are on them.

What a GPU or its driver does not tell is in `unavailable` with the reason, and never 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any

_MIB = 1 << 20


class Unavailable(Exception):
    """There is no such meter here; the text says why."""


@dataclass(frozen=True, kw_only=True)
class GpuProcess:
    """A process on a GPU. Memory in bytes is None where the driver does not tell (in containers, under MIG)."""

    gpu: int
    pid: int
    memory_bytes: int | None


@dataclass(frozen=True, kw_only=True)
class GpuSample:
    """One GPU at `t_ns`: `values` by name with the unit in it, `unavailable` names → the driver's reason.

    `energy_j` counts from the driver's start; `throttle_reasons` is NVML's bit mask; utilisations are shares of the
    driver's own sampling period, 0 to 1.
    """

    t_ns: int
    gpu: int
    values: Mapping[str, float]
    unavailable: Mapping[str, str]


class Nvml:
    """NVML, held open. Raises Unavailable when there is no library or no driver. A context manager."""

    def __init__(self) -> None:
        try:
            import pynvml
        except ImportError:
            raise Unavailable("nvidia-ml-py is not installed") from None
        self._nvml: ModuleType = pynvml
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError as error:
            raise Unavailable(f"NVML: {error}") from None
        try:
            number = pynvml.nvmlDeviceGetCount()
            self._handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(number)]
        except pynvml.NVMLError as error:
            pynvml.nvmlShutdown()
            raise Unavailable(f"NVML: {error}") from None
        if not self._handles:
            pynvml.nvmlShutdown()
            raise Unavailable("NVML: the driver knows no GPU")

    def __enter__(self) -> Nvml:
        return self

    def __exit__(self, *_: object) -> None:
        self._nvml.nvmlShutdown()

    def sample(self, t_ns: int) -> list[GpuSample]:
        """Every GPU now."""
        return [self._sample(t_ns, index, handle) for index, handle in enumerate(self._handles)]

    def processes(self) -> list[GpuProcess]:
        """Processes with a compute context on any GPU; raises Unavailable where the driver does not tell."""
        nvml = self._nvml
        try:
            return [
                GpuProcess(gpu=index, pid=process.pid, memory_bytes=process.usedGpuMemory)
                for index, handle in enumerate(self._handles)
                for process in nvml.nvmlDeviceGetComputeRunningProcesses(handle)
            ]
        except nvml.NVMLError as error:
            raise Unavailable(f"NVML: {error}") from None

    def memory_used(self) -> list[int | None]:
        """Bytes in use on each GPU, by whomever; None where the driver does not tell."""
        return [self._memory(handle) for handle in self._handles]

    def _memory(self, handle: Any) -> int | None:
        try:
            return int(self._nvml.nvmlDeviceGetMemoryInfo(handle).used)
        except self._nvml.NVMLError:
            return None

    def _sample(self, t_ns: int, index: int, handle: Any) -> GpuSample:
        values: dict[str, float] = {}
        unavailable: dict[str, str] = {}
        for names, read in self._probes(handle).items():
            try:
                values.update(zip(names, read(), strict=True))
            except self._nvml.NVMLError as error:
                unavailable.update(dict.fromkeys(names, str(error)))
        return GpuSample(t_ns=t_ns, gpu=index, values=values, unavailable=unavailable)

    def _probes(self, handle: Any) -> Mapping[tuple[str, ...], Callable[[], tuple[float, ...]]]:
        nvml = self._nvml

        def memory() -> tuple[float, ...]:
            told = nvml.nvmlDeviceGetMemoryInfo(handle)
            return (told.used, told.total)

        def busy() -> tuple[float, ...]:
            told = nvml.nvmlDeviceGetUtilizationRates(handle)
            return (told.gpu / 100, told.memory / 100)

        def scaled(function: Callable[..., float], *arguments: int, by: float = 1.0) -> tuple[float, ...]:
            return (function(handle, *arguments) * by,)

        return {
            ("power_w",): partial(scaled, nvml.nvmlDeviceGetPowerUsage, by=1e-3),
            ("energy_j",): partial(scaled, nvml.nvmlDeviceGetTotalEnergyConsumption, by=1e-3),
            ("memory_used_bytes", "memory_total_bytes"): memory,
            ("utilization", "memory_utilization"): busy,
            ("sm_clock_mhz",): partial(scaled, nvml.nvmlDeviceGetClockInfo, nvml.NVML_CLOCK_SM),
            ("memory_clock_mhz",): partial(scaled, nvml.nvmlDeviceGetClockInfo, nvml.NVML_CLOCK_MEM),
            ("temperature_c",): partial(scaled, nvml.nvmlDeviceGetTemperature, nvml.NVML_TEMPERATURE_GPU),
            ("throttle_reasons",): partial(scaled, nvml.nvmlDeviceGetCurrentClocksThrottleReasons),
        }


def gpu_processes() -> list[GpuProcess]:
    """Processes with a compute context on any GPU. Raises Unavailable with the reason."""
    with Nvml() as nvml:
        return nvml.processes()


def gpu_memory_used() -> list[int | None]:
    """Bytes in use on each GPU. Raises Unavailable with the reason."""
    with Nvml() as nvml:
        return nvml.memory_used()
