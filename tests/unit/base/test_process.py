"""Every tool ends with the harness, also one that daemonised; exit codes, usage and stopping are told truly."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from bench.base.process import Supervised, clean_env, free_port, spawn, wait_until

ROOT = Path(__file__).resolve().parents[3]

# A tool with a child in its group, and a daemon that left group, session and parent by a double fork.
FAMILY = """
import os, pathlib, signal, sys, time
out = pathlib.Path(sys.argv[1])
if len(sys.argv) > 2:
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
def note(name):
    (out / (name + ".tmp")).write_text(str(os.getpid()))
    (out / (name + ".tmp")).rename(out / name)
note("tool")
if os.fork() == 0:
    note("child")
    time.sleep(600)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        note("daemon")
        time.sleep(600)
    os._exit(0)
time.sleep(600)
"""

HARNESS = """
import sys, time
from bench.base.process import spawn
tool = spawn([sys.executable, "-c", sys.argv[1], sys.argv[2], "stubborn"], output=None)
time.sleep(600)
"""


def family_pids(folder: Path) -> list[int]:
    names = ("tool", "child", "daemon")
    assert wait_until(lambda: all((folder / name).exists() for name in names), timeout_s=10)
    return [int((folder / name).read_text()) for name in names]


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def all_gone(pids: list[int], timeout_s: float = 5.0) -> bool:
    return wait_until(lambda: not any(alive(pid) for pid in pids), timeout_s=timeout_s)


def python(code: str, *arguments: str, output: int | None = None) -> Supervised:
    return spawn([sys.executable, "-c", code, *arguments], output=output)


@pytest.mark.skipif(sys.platform != "linux", reason="daemons are adopted through PR_SET_CHILD_SUBREAPER")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_outlives_a_killed_harness(tmp_path: Path, number: signal.Signals) -> None:
    harness = subprocess.Popen([sys.executable, "-c", HARNESS, FAMILY, str(tmp_path)], cwd=ROOT)
    try:
        pids = family_pids(tmp_path)
        supervisors = [child.pid for child in psutil.Process(harness.pid).children()]
        assert all(alive(pid) for pid in [*pids, *supervisors])
        harness.send_signal(number)
        harness.wait(5)
        assert all_gone([*pids, *supervisors])
    finally:
        harness.kill()
        harness.wait()


def test_nothing_outlives_the_tool(tmp_path: Path) -> None:
    code = FAMILY.rsplit("time.sleep(600)", 1)[0]
    code += "while not all((out / name).exists() for name in ('child', 'daemon')): time.sleep(0.01)\nsys.exit(3)\n"
    with python(code, str(tmp_path)) as tool:
        assert tool.wait(10) == 3
    assert all_gone(family_pids(tmp_path), timeout_s=0.5)


def test_leaving_the_context_ends_the_tree(tmp_path: Path) -> None:
    with python(FAMILY, str(tmp_path), "stubborn") as tool:
        pids = family_pids(tmp_path)
    assert tool.poll() == 128 + signal.SIGKILL
    assert all_gone(pids, timeout_s=0.5)


@pytest.mark.parametrize("code", [0, 1, 77])
def test_exit_code_is_the_tools(code: int) -> None:
    with python(f"raise SystemExit({code})") as tool:
        assert tool.wait(10) == code
        assert tool.poll() == code


def test_death_by_signal_is_told() -> None:
    with python("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)") as tool:
        assert tool.wait(10) == 128 + signal.SIGSEGV


def test_a_program_that_does_not_exist_gives_127_and_says_so(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("wb") as stream, spawn(["/nowhere/tool"], output=stream) as tool:
        assert tool.wait(10) == 127
    assert "cannot start /nowhere/tool: No such file or directory" in log.read_text()


def test_wait_times_out_and_the_tool_goes_on() -> None:
    with python("import time; time.sleep(600)") as tool:
        with pytest.raises(TimeoutError):
            tool.wait(0.2)
        assert tool.poll() is None
        assert tool.usage is None


def test_usage_covers_grandchildren() -> None:
    burn = "import time\nwhile time.process_time() < 0.3: pass\nblob = bytearray(80_000_000)"
    with python(f"import subprocess, sys; subprocess.run([sys.executable, '-c', {burn!r}])") as tool:
        assert tool.wait(30) == 0
    usage = tool.usage
    assert usage is not None
    assert 0.3 <= usage.cpu_s < 10
    assert 80_000_000 <= usage.peak_rss_bytes < 1_000_000_000


def test_stop_lets_the_tool_clean_up(tmp_path: Path) -> None:
    code = """
import pathlib, signal, sys, time
out = pathlib.Path(sys.argv[1])
def end(*_):
    (out / "cleaned").touch()
    sys.exit(5)
signal.signal(signal.SIGTERM, end)
(out / "up").touch()
time.sleep(600)
"""
    with python(code, str(tmp_path)) as tool:
        assert wait_until((tmp_path / "up").exists, timeout_s=10)
        assert tool.stop(grace_s=5) == 5
    assert (tmp_path / "cleaned").exists()


def test_stop_kills_what_does_not_listen(tmp_path: Path) -> None:
    with python(FAMILY, str(tmp_path), "stubborn") as tool:
        pids = family_pids(tmp_path)
        started = time.monotonic()
        assert tool.stop(grace_s=0.3) == 128 + signal.SIGKILL
        assert 0.3 <= time.monotonic() - started < 5
        assert all_gone(pids, timeout_s=0.5)
        assert tool.stop() == 128 + signal.SIGKILL


def test_stop_after_the_end_returns_the_same_code() -> None:
    with python("raise SystemExit(4)") as tool:
        tool.wait(10)
        assert tool.stop() == 4
        assert tool.kill() == 4


def test_signal_dispositions_are_the_defaults() -> None:
    names = ["SIGPIPE", "SIGXFSZ", "SIGINT", "SIGTERM", "SIGCHLD"]
    read, write = os.pipe()
    with os.fdopen(read) as reader:
        with spawn(["/bin/sh", "-c", "grep -E 'Sig(Ign|Blk)' /proc/self/status"], output=write) as tool:
            os.close(write)
            assert tool.wait(10) == 0
        masks = {line.split(":")[0]: int(line.split()[1], 16) for line in reader.read().splitlines()}
    for name in names:
        bit = 1 << (getattr(signal, name) - 1)
        assert not masks["SigIgn"] & bit, name
        assert not masks["SigBlk"] & bit, name


def test_only_the_named_descriptors_are_inherited() -> None:
    kept_read, kept_write = os.pipe()
    other_read, other_write = os.pipe()
    os.set_inheritable(other_write, True)
    code = f"""
import os
os.write({kept_write}, b"here")
for fd in range(3, 256):
    if fd != {kept_write}:
        try:
            os.fstat(fd)
        except OSError:
            continue
        os.write({kept_write}, b" leaked %d" % fd)
"""
    try:
        with spawn([sys.executable, "-c", code], output=None, pass_fds=[kept_write]) as tool:
            assert tool.wait(10) == 0
        assert os.read(kept_read, 1000) == b"here"
    finally:
        for descriptor in (kept_read, kept_write, other_read, other_write):
            os.close(descriptor)


def test_clean_env_leaks_nothing_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/ours")
    monkeypatch.setenv("SECRET_TOKEN", "x")
    monkeypatch.setenv("WANTED", "y")
    env = clean_env(keep=["WANTED", "ABSENT"], extra={"MORE": "z"})
    assert {"PYTHONPATH", "SECRET_TOKEN", "ABSENT"}.isdisjoint(env)
    assert (env["WANTED"], env["MORE"], env["PATH"]) == ("y", "z", os.environ["PATH"])


def test_free_ports_can_be_bound() -> None:
    import socket

    with socket.socket() as server:
        server.bind(("127.0.0.1", free_port()))
