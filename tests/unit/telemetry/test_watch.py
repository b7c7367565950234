"""Telemetry of this very machine, and its file."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from bench.base.clock import NS_PER_S
from bench.telemetry.energy import Rapl
from bench.telemetry.gpu import Unavailable
from bench.telemetry.host import Host, Tree, own_trees
from bench.telemetry.watch import Energy, Telemetry


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
    spent = telemetry.energy(0, 1)["cpu_package"]
    assert spent.joules is None
    assert "no processor package" in (spent.missing or "")


class Meter:
    """100 J more a reading, `left` of them; then it may not be read any more."""

    left = 2

    def joules(self) -> float:
        self.left -= 1
        if self.left < 0:
            raise Unavailable("RAPL: energy_uj: permission denied")
        return 100.0 * (5 - self.left)


def metered(monkeypatch: pytest.MonkeyPatch, readings: int, times_s: tuple[int, ...] = (1, 2, 3, 4)) -> Telemetry:
    monkeypatch.setattr(Meter, "left", readings)
    monkeypatch.setattr("bench.telemetry.watch.Rapl", Meter)
    with Telemetry() as telemetry:
        for t_s in times_s:
            telemetry.take(t_s * NS_PER_S)
    return telemetry


def test_energy_of_a_meter_that_stopped_part_way_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    spent = metered(monkeypatch, 2).energy(NS_PER_S, 4 * NS_PER_S)["cpu_package"]
    assert spent == Energy(missing="RAPL: energy_uj: permission denied")


def test_energy_is_read_on_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    telemetry = metered(monkeypatch, 4)
    assert telemetry.energy(NS_PER_S, 4 * NS_PER_S)["cpu_package"] == Energy(joules=300.0, scope="packages")
    for start_ns, end_ns in ((NS_PER_S - 1, 4 * NS_PER_S), (NS_PER_S, 4 * NS_PER_S + 1)):
        spent = telemetry.energy(start_ns, end_ns)["cpu_package"]
        assert spent.joules is None
        assert "before the first request and after the last" in (spent.missing or "")


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


def test_a_load_worker_is_seen_with_the_next_sample() -> None:
    client = own_trees(None)["client"]
    client.sample(0)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as worker:
        client.sample(NS_PER_S)
        assert worker.pid in client.pids
        worker.communicate(b"\n")


FORKING = """
import subprocess
input()
child = subprocess.Popen(['sleep', '60'])
print(child.pid, flush=True)
input()
child.kill()
"""


def test_what_the_server_starts_later_is_never_the_clients() -> None:
    command = [sys.executable, "-c", FORKING]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        trees = own_trees(server.pid)
        trees["client"].sample(0)
        server.stdin.write("\n")
        server.stdin.flush()
        child = int(server.stdout.readline())
        trees["client"].sample(NS_PER_S)
        server.communicate("\n")
    assert child not in trees["client"].pids
    assert os.getpid() in trees["client"].pids
