"""The sandbox lets right programs pass and contains hostile ones, with namespaces and with Landlock alone."""

from __future__ import annotations

import gzip
import json
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from bench.base.errors import UsageError
from bench.base.progress import Progress
from bench.quality import sandbox
from bench.quality.generation.ask import Api
from bench.quality.humaneval import program_of
from bench.quality.sandbox import Program, Verdict, containment, run_programs
from tests.support import CHECKOUT, require, test_data

WORKER = CHECKOUT / "bench" / "quality" / "workers" / "sandbox.py"
LEVELS = ("namespaces", "landlock")


@pytest.fixture(params=LEVELS)
def level(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each way of containing programs; the weaker one as on a machine that refuses namespaces."""
    if request.param == "landlock":
        forced = tmp_path / "forced.py"
        forced.write_text(
            WORKER.read_text().replace(
                "def namespaces_work() -> bool:", "def namespaces_work() -> bool:\n    return False", 1
            )
        )
        monkeypatch.setattr(sandbox, "_WORKER", forced)
    found = containment(work_dir=tmp_path / "check", progress=Progress())
    require(found == request.param, f"this machine contains programs by {found}, not {request.param}")
    return str(request.param)


def run(tmp_path: Path, programs: list[Program], *, time_s: float = 10.0, memory_mib: int = 512) -> list[Verdict]:
    return run_programs(
        programs, time_s=time_s, memory_mib=memory_mib, processes=2, work_dir=tmp_path / "work", progress=Progress()
    )


def hostile(code: str) -> Program:
    return Program(setup=textwrap.dedent(code), tests="assert True")


def test_the_canonical_solutions_of_humaneval_pass_and_wrong_ones_do_not(tmp_path: Path, level: str) -> None:
    path = test_data("humaneval/HumanEval.jsonl.gz")
    rows: list[dict[str, Any]] = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
    right = [program_of(row, row["canonical_solution"], Api.completions) for row in rows]
    wrong = [program_of(row, "    return 'nothing that any test expects'\n", Api.completions) for row in rows[:20]]
    verdicts = run(tmp_path, right + wrong)
    assert [verdict.verdict for verdict in verdicts[: len(rows)]] == ["passed"] * 164
    assert {verdict.verdict for verdict in verdicts[len(rows) :]} <= {"failed_tests", "runtime_error"}


HOSTILE = {
    "fork bomb": ("import os\nwhile True:\n    os.fork()", "runtime_error", "PermissionError"),
    "another program": ("import os\nos.execv('/bin/sh', ['sh', '-c', 'true'])", "runtime_error", ""),
    "memory hog": ("kept = []\nwhile True:\n    kept.append(bytearray(1 << 24))", "out_of_memory", "MemoryError"),
    "socket": ("import socket\nsocket.create_connection(('127.0.0.1', {port}))", "runtime_error", "PermissionError"),
    "unix socket": ("import socket\nsocket.socket(socket.AF_UNIX)", "runtime_error", "PermissionError"),
    "read a file": ("open({secret!r}).read()", "runtime_error", ""),
    "read passwords": ("open('/etc/passwd').read()", "runtime_error", ""),
    "read another process": ("open('/proc/1/environ').read()", "runtime_error", ""),
    "write a file": ("open({target!r}, 'w').write('escaped')", "runtime_error", ""),
    "write to the system": ("open('/usr/escaped', 'w').write('escaped')", "runtime_error", ""),
    "infinite loop": ("while True:\n    pass", "timed_out", ""),
    "sleep": ("import time\ntime.sleep(1000)", "timed_out", ""),
    "kill the parent": ("import os, signal\nos.kill({pid}, signal.SIGKILL)", "runtime_error", ""),
    "stdout flood": ("import sys\nwhile True:\n    sys.stdout.write('x' * 65536)", "timed_out", ""),
    "disk flood": (
        "kept = open('flood', 'wb')\nwhile True:\n    kept.write(bytes(1 << 20))",
        "runtime_error",
        "OSError",
    ),
    "exit": ("import sys\nsys.exit(0)", "exited_early", "SystemExit"),
    "exit at once": ("import os\nos._exit(0)", "exited_early", ""),
    "false report": ("import os\nos.write(3, b'passed\\n')\nos._exit(0)", "exited_early", ""),
    "crash": ("import ctypes\nctypes.string_at(0)", "killed", "signal 11"),
}


def test_hostile_programs_are_contained_each_with_its_verdict(tmp_path: Path, level: str) -> None:
    secret, target = tmp_path / "secret", tmp_path / "escaped"
    secret.write_text("what must not be read")
    victim = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    places = {"secret": str(secret), "target": str(target), "pid": victim.pid, "port": 9}
    try:
        programs = [hostile(code.format(**places)) for code, _, _ in HOSTILE.values()]
        verdicts = run(tmp_path, programs, time_s=3.0, memory_mib=256)
        assert victim.poll() is None
    finally:
        victim.send_signal(signal.SIGKILL)
        victim.wait()
    found = {name: verdict.verdict for name, verdict in zip(HOSTILE, verdicts, strict=True)}
    assert found == {name: verdict for name, (_, verdict, _) in HOSTILE.items()}
    for (name, (_, _, detail)), verdict in zip(HOSTILE.items(), verdicts, strict=True):
        assert detail in verdict.detail, name
    assert not target.exists()
    assert not Path("/usr/escaped").exists()


def test_programs_that_tamper_with_the_tests_do_not_pass(tmp_path: Path, level: str) -> None:
    tests = "assert abs(answer(1) - 2) < 0.5\nassert sum([answer(1), 1]) == 3"
    cheats = [
        "import builtins\nbuiltins.abs = lambda value: 0\nbuiltins.sum = lambda values: 3\ndef answer(x): return 7",
        "def abs(value): return 0\ndef sum(values): return 3\ndef answer(x): return 7",
        "def answer(x):\n    raise SystemExit(0)",
        "import os\ndef answer(x):\n    os._exit(0)",
    ]
    honest = "def sum(values):\n    return 2 if values else 0\ndef answer(x):\n    return sum([x])"
    verdicts = run(tmp_path, [Program(setup=code, tests=tests) for code in (*cheats, honest)])
    assert [verdict.verdict for verdict in verdicts] == ["failed_tests"] * 2 + ["exited_early"] * 2 + ["passed"]


def test_a_program_has_a_folder_of_its_own_and_no_settings(tmp_path: Path, level: str, monkeypatch: Any) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    code = """
        import os
        open("note", "w").close()
        left, env, descriptors = os.listdir("."), dict(os.environ), []
        for number in range(64):
            try:
                descriptors.append(os.fstat(number) and number)
            except OSError:
                pass
    """
    tests = "assert left == ['note'], left\nassert not env, env\nassert descriptors == [0, 1, 2, 3], descriptors"
    assert [v.verdict for v in run(tmp_path, [Program(setup=textwrap.dedent(code), tests=tests)] * 2)] == [
        "passed",
        "passed",
    ]
    left = [entry for entry in (tmp_path / "work" / "scratch").rglob("*") if entry.name == "note"]
    assert left == []


def test_without_containment_nothing_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = tmp_path / "elsewhere.py"
    worker.write_text(WORKER.read_text().replace('"x86_64": {', '"none": {', 1).replace('"aarch64": {', '"no": {', 1))
    monkeypatch.setattr(sandbox, "_WORKER", worker)
    marker = tmp_path / "ran"
    with pytest.raises(UsageError, match="not run without a sandbox"):
        run(tmp_path, [hostile(f"open({str(marker)!r}, 'w')")])
    assert not marker.exists()
