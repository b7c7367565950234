"""Energy of processor packages: counters wrap, subdomains do not count twice, and what may not be read says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.telemetry.energy import Rapl
from bench.telemetry.gpu import Unavailable


def zone(root: Path, name: str, label: str, energy_uj: int, most_uj: int = 1000) -> Path:
    folder = root / name
    folder.mkdir()
    (folder / "name").write_text(label + "\n")
    (folder / "energy_uj").write_text(f"{energy_uj}\n")
    (folder / "max_energy_range_uj").write_text(f"{most_uj}\n")
    return folder


def test_packages_are_added_up_over_a_wrap(tmp_path: Path) -> None:
    first = zone(tmp_path, "intel-rapl:0", "package-0", 900)
    second = zone(tmp_path, "intel-rapl:1", "package-1", 100)
    zone(tmp_path, "intel-rapl:0:0", "core", 7)
    zone(tmp_path, "intel-rapl:2", "psys", 7)
    meter = Rapl(tmp_path)
    assert meter.joules() == 0
    (first / "energy_uj").write_text("100")
    (second / "energy_uj").write_text("150")
    assert meter.joules() == pytest.approx(250e-6)
    (second / "energy_uj").write_text("160")
    assert meter.joules() == pytest.approx(260e-6)


def test_a_machine_without_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="no processor package"):
        Rapl(tmp_path)


def test_a_counter_that_may_not_be_read_says_so(tmp_path: Path) -> None:
    (zone(tmp_path, "intel-rapl:0", "package-0", 1) / "energy_uj").unlink()
    with pytest.raises(Unavailable, match="energy_uj: no such file"):
        Rapl(tmp_path)
