"""Telemetry of this very machine, and its file."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from bench.telemetry.energy import Rapl
from bench.telemetry.host import Host, Tree
from bench.telemetry.watch import Telemetry


def test_what_is_sampled_is_written_with_what_is_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Rapl.__init__, "__defaults__", (tmp_path,))
    telemetry = Telemetry(os.getpid(), lambda: 123)
    with telemetry:
        for t_ns in (time.monotonic_ns(), time.monotonic_ns() + 1):
            telemetry.take(t_ns)
    telemetry.write(tmp_path / "telemetry.parquet")
    table = pq.read_table(tmp_path / "telemetry.parquet")
    rows = table.to_pylist()
    assert len({row["t_ns"] for row in rows}) == 2
    mine = {(row["device"], row["metric"]): row["value"] for row in rows}
    assert mine["server", "rss_bytes"] > 10 << 20
    assert mine["server", "pss_bytes"] == 123
    assert mine["server", "cpu_s"] > 0
    assert mine["host", "memory_available_bytes"] > 0
    assert mine["host", "cpu_busy_s"] > 0
    assert ("client", "rss_bytes") not in mine, "the test is its own server: nothing is left for the client"
    said = table.schema.metadata
    assert b"no processor package" in said[b"unavailable cpu_package"]
    assert ("cpu_package", "energy_j") not in mine


def test_nothing_sampled_is_an_empty_table(tmp_path: Path) -> None:
    Telemetry().write(tmp_path / "telemetry.parquet")
    assert pq.read_table(tmp_path / "telemetry.parquet").num_rows == 0


def test_energy_is_missing_without_a_meter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Rapl.__init__, "__defaults__", (tmp_path,))
    with Telemetry() as telemetry:
        telemetry.take(0)
        telemetry.take(1)
    assert telemetry.energy_j(0, 1)["cpu_package"] is None


SPIN = "import time\nend = time.process_time() + 0.4\nwhile time.process_time() < end: pass\nprint(flush=True)\ninput()"


def test_processor_time_of_a_tree_grows_and_stays_when_it_ends() -> None:
    child = subprocess.Popen([sys.executable, "-c", SPIN], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    tree = Tree(child.pid)
    mine = Tree(os.getpid(), without=tree)
    seen = Host({"server": tree, "client": mine}).sample(0)
    assert seen["server"]["cpu_s"] >= 0.4
    assert child.pid not in mine.pids
    child.communicate(b"\n")
    assert tree.sample(1) == {}, "what is gone is missing, not 0"
