"""Hardware as given, and as found."""

from __future__ import annotations

from typing import Any

import pytest

from bench.telemetry import hardware
from bench.telemetry.hardware import Gpu, HardwareConfig, detected_gpus, hardware_of, parse_gpus

GIB = 1 << 30
TWO = (
    Gpu(name="A", free_bytes=20 * GIB, compute_capability=8.9),
    Gpu(name="B", free_bytes=10 * GIB, compute_capability=8.6),
)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "free_main_bytes", lambda: 32 * GIB)
    monkeypatch.setattr(hardware, "detected_gpus", lambda: TWO)


def test_a_gpu_elsewhere_is_what_it_is_said_to_be() -> None:
    found = hardware_of(HardwareConfig(name="H100", gpus=2, memory_gib=80, compute_capability=9.0))
    assert (found.gpus, found.gpu_bytes, found.main_bytes, found.compute_capability) == (2, 80 * GIB, None, 9.0)


def test_memory_without_a_gpu_is_main_memory() -> None:
    found = hardware_of(HardwareConfig(gpus=0, memory_gib=16))
    assert (found.gpus, found.gpu_bytes, found.main_bytes, found.compute_capability) == (0, None, 16 * GIB, None)


@pytest.mark.usefixtures("machine")
def test_this_machine_is_as_weak_as_its_weakest_gpu() -> None:
    found = hardware_of(HardwareConfig(detected=True))
    assert (found.gpus, found.gpu_bytes, found.main_bytes, found.compute_capability) == (2, 10 * GIB, 32 * GIB, 8.6)


@pytest.mark.usefixtures("machine")
def test_what_is_given_counts_before_what_is_found() -> None:
    found = hardware_of(
        HardwareConfig(detected=True, gpus=1, memory_gib=80, main_memory_gib=64, compute_capability=9.0)
    )
    assert (found.gpus, found.gpu_bytes, found.main_bytes, found.compute_capability) == (1, 80 * GIB, 64 * GIB, 9.0)
    cpu = hardware_of(HardwareConfig(detected=True, gpus=0))
    assert (cpu.gpus, cpu.gpu_bytes, cpu.main_bytes, cpu.compute_capability) == (0, None, 32 * GIB, None)


def test_a_compute_capability_means_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "detected_gpus", lambda: ())
    assert hardware_of(HardwareConfig(detected=True, memory_gib=80, compute_capability=9.0)).gpus == 1
    assert hardware_of(HardwareConfig(detected=True)).gpus == 0


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"detected": True, "gpus": -1}, "hardware.gpus=-1 must be 0"),
        ({"memory_gib": 0.0}, "hardware.memory_gib=0.0 must be positive"),
        ({"detected": True, "compute_capability": -8.0}, "hardware.compute_capability=-8.0 must be positive"),
        ({"memory_gib": 8.0, "gpus": 0, "compute_capability": 8.0}, "belongs to a GPU"),
        ({"gpus": 1}, "hardware.memory_gib is missing"),
    ],
)
def test_hardware_that_cannot_be_is_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        HardwareConfig(**values)


def test_gpus_are_read_from_the_drivers_lines() -> None:
    text = "NVIDIA L4, 22000, 8.9\nOld One, 4000, [N/A]\nBroken, [Not Supported], 7.0\n\n"
    assert parse_gpus(text) == (
        Gpu(name="NVIDIA L4", free_bytes=22000 << 20, compute_capability=8.9),
        Gpu(name="Old One", free_bytes=4000 << 20, compute_capability=None),
    )


def test_without_a_driver_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    assert detected_gpus() == ()


def test_free_memory_is_no_more_than_a_containers_limit(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    limit = tmp_path / "memory.max"
    kinds = ("memory.current", "inactive_file")
    monkeypatch.setattr(hardware, "_LIMITS", ((tmp_path / "absent" / "memory.max", *kinds), (limit, *kinds)))
    (tmp_path / "memory.current").write_text("600000\n")
    (tmp_path / "memory.stat").write_text("anon 500000\ninactive_file 100000\n")
    limit.write_text("1048576\n")
    assert hardware.free_main_bytes() == (1 << 20) - 600_000 + 100_000, "what the kernel can take back is free"
    limit.write_text("400000\n")
    assert hardware.free_main_bytes() == 0
    limit.write_text("max\n")
    assert hardware.free_main_bytes() > 1 << 20
