"""GPUs through NVML: a stand-in for its library where there is none, and the truth about a machine without a driver."""

# ruff: noqa: N802 - the names are NVML's

from __future__ import annotations

import os
import shutil
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from bench.telemetry.gpu import GpuProcess, Nvml, Unavailable, gpu_memory_used, gpu_processes
from bench.telemetry.watch import Energy, Telemetry


class NVMLError(Exception):
    """As pynvml's."""


class FakeNvml:
    """As much of pynvml as is used: two GPUs; the second is old and tells neither energy nor processes."""

    NVMLError = NVMLError
    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0

    def __init__(self) -> None:
        self.opened = 0
        self.energy_mj = 5_000_000
        self.pids = (4242, 4243)

    def nvmlInit(self) -> None:
        self.opened += 1

    def nvmlShutdown(self) -> None:
        self.opened -= 1

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetPowerUsage(self, handle: int) -> int:
        return 251_500

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: int) -> int:
        if handle:
            raise NVMLError("Not Supported")
        self.energy_mj += 300_000
        return self.energy_mj

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:
        return SimpleNamespace(used=7 << 30, total=24 << 30)

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> Any:
        return SimpleNamespace(gpu=87, memory=45)

    def nvmlDeviceGetClockInfo(self, handle: int, kind: int) -> int:
        return {1: 1980, 2: 9501}[kind]

    def nvmlDeviceGetTemperature(self, handle: int, kind: int) -> int:
        return 63

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle: int) -> int:
        return 4

    def nvmlDeviceGetComputeRunningProcesses(self, handle: int) -> list[Any]:
        return [SimpleNamespace(pid=self.pids[handle], usedGpuMemory=None if handle else 6 << 30)]


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
    fake = FakeNvml()
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    return fake


def test_figures_have_their_units(nvml: FakeNvml) -> None:
    with Nvml() as meter:
        first, second = meter.sample(17)
    assert (first.t_ns, first.gpu) == (17, 0)
    assert first.values == pytest.approx(
        {
            "power_w": 251.5,
            "energy_j": 5300.0,
            "memory_used_bytes": 7 << 30,
            "memory_total_bytes": 24 << 30,
            "utilization": 0.87,
            "memory_utilization": 0.45,
            "sm_clock_mhz": 1980,
            "memory_clock_mhz": 9501,
            "temperature_c": 63,
            "throttle_reasons": 4,
        }
    )
    assert first.unavailable == {}
    assert second.unavailable == {"energy_j": "Not Supported"}
    assert "energy_j" not in second.values
    assert nvml.opened == 0, "NVML is closed again"


def test_whose_processes_are_on_which_gpu(nvml: FakeNvml) -> None:
    assert gpu_processes() == [
        GpuProcess(gpu=0, pid=4242, memory_bytes=6 << 30),
        GpuProcess(gpu=1, pid=4243, memory_bytes=None),
    ]
    assert gpu_memory_used() == [7 << 30, 7 << 30]


def sampled(server_pid: int | None = None) -> Telemetry:
    """Three samples, at 0, 1 and 2 s."""
    with Telemetry(server_pid) as telemetry:
        for second in range(3):
            telemetry.take(second * 1_000_000_000)
    return telemetry


def test_energy_is_that_of_the_gpus_with_the_servers_processes(nvml: FakeNvml) -> None:
    nvml.pids = (os.getpid(), 4243)
    spent = sampled(os.getpid()).energy(500_000_000, 1_500_000_000)["gpu"]
    # 300 J between two samples, taken to be spent evenly; the GPU of others, which has no meter, does not matter.
    assert spent.joules == pytest.approx(300)
    assert spent.scope == "gpus 0"


def test_energy_needs_a_meter_on_each_of_the_servers_gpus(nvml: FakeNvml) -> None:
    nvml.pids = (os.getpid(), os.getpid())
    telemetry = sampled(os.getpid())
    assert telemetry.energy(0, 1_000_000_000)["gpu"] == Energy(missing="GPU 1: Not Supported")
    assert telemetry.unavailable["gpu1 energy_j"] == "Not Supported"


def test_gpus_without_the_servers_processes_are_not_charged_to_it(
    nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch
) -> None:
    unseen = sampled(os.getpid()).energy(0, 1_000_000_000)["gpu"]
    assert unseen == Energy(missing="NVML sees none of the server's processes on a GPU")
    assert "its GPUs are not known" in (sampled().energy(0, 1_000_000_000)["gpu"].missing or "")

    def refuse(_: int) -> None:
        raise NVMLError("Insufficient Permissions")

    monkeypatch.setattr(nvml, "nvmlDeviceGetComputeRunningProcesses", refuse)
    assert sampled(os.getpid()).energy(0, 1)["gpu"] == Energy(missing="NVML: Insufficient Permissions")


@pytest.mark.parametrize("refuses", ["nvmlInit", "nvmlDeviceGetCount", "nvmlDeviceGetHandleByIndex"])
def test_a_driver_that_does_not_answer_is_a_reason(
    nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch, refuses: str
) -> None:
    def fail(*_: object) -> None:
        raise NVMLError("Driver/library version mismatch")

    monkeypatch.setattr(nvml, refuses, fail)
    with pytest.raises(Unavailable, match="NVML: Driver/library version mismatch"):
        Nvml()
    assert nvml.opened == 0


def test_a_driver_without_gpus_is_a_reason(nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvml, "nvmlDeviceGetCount", lambda: 0)
    with pytest.raises(Unavailable, match="knows no GPU"):
        Nvml()


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="this machine has a driver")
def test_the_real_library_says_why_there_is_nothing() -> None:
    with pytest.raises(Unavailable, match=r"^NVML: .+"):
        gpu_processes()
    with Telemetry() as telemetry:
        telemetry.take(0)
    assert telemetry.unavailable["gpu"].startswith("NVML: ")
    assert telemetry.energy(0, 1)["gpu"] == Energy(missing=telemetry.unavailable["gpu"])


def test_the_real_library_has_every_name_that_is_used() -> None:
    import pynvml

    used = [name for name in dir(FakeNvml) if name.startswith(("nvml", "NVML"))]
    assert len(used) > 12
    assert [name for name in used if not hasattr(pynvml, name)] == []
