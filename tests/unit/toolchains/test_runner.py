"""Running installers: progress from their lines, one clear sentence from their failures, nothing left on Ctrl-C."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import psutil
import pytest

from bench.base.errors import ToolchainError
from bench.base.progress import Progress, ProgressEvent
from bench.toolchains.remedies import remedy
from bench.toolchains.runner import parse_count, run_tool


def run(script: str, log: Path, progress: Progress) -> None:
    run_tool([sys.executable, "-c", script], what="building it", log=log, env=dict(os.environ), progress=progress)


@pytest.mark.parametrize(
    ("line", "counted"),
    [
        ("[ 42%] Building CXX object a.cpp.o", (42, 100)),
        ("[100%] Built target x", (100, 100)),
        ("[12/345] Building CXX object a.cpp.o", (12, 345)),
        ("-- Found Threads", None),
        ("array[3/4] = 1", None),
        ("", None),
    ],
)
def test_build_lines_are_counted(line: str, counted: tuple[int, int] | None) -> None:
    assert parse_count(line) == counted


def test_progress_is_followed_and_the_log_kept(tmp_path: Path) -> None:
    events: list[ProgressEvent] = []
    script = "print('[1/3] a\\n[1/3] again\\nCollecting numpy\\nnoise')\nprint('[3/3] c')"
    log = tmp_path / "logs" / "make.log"
    for _ in range(2):
        run(script, log, Progress(events.append))
    seen = [(event.done, event.total, event.unit) if event.done else event.message for event in events]
    assert seen == [(1, 3, "files"), "Collecting numpy", (3, 3, "files")] * 2
    assert log.read_text().count("noise\n") == 2  # both runs: the log is appended to


def test_a_failure_gives_the_tail_and_one_line(tmp_path: Path) -> None:
    script = "import sys; print('x' * 10); print('fatal error: Killed signal terminated program cc1plus'); sys.exit(1)"
    with pytest.raises(ToolchainError) as caught:
        run(script, tmp_path / "log", Progress())
    assert str(caught.value).startswith("building it failed (exit code 1): the compiler ran out of memory; set QUANT")
    assert "\n" not in str(caught.value)
    assert "cc1plus" in caught.value.log_tail


def test_ctrl_c_leaves_no_process(tmp_path: Path) -> None:
    script = "import subprocess; p = subprocess.Popen(['sleep', '600'], start_new_session=True)\n"
    script += f"open({str(tmp_path / 'pid')!r}, 'w').write(str(p.pid)); print('[1/2] up', flush=True); p.wait()"

    def interrupt(_: ProgressEvent) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(script, tmp_path / "log", Progress(interrupt))
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))


@pytest.mark.parametrize(
    ("said", "code", "advice"),
    [
        ("CMake Error: No CMAKE_CXX_COMPILER could be found.", 1, "apt-get install g++"),
        ("CMake Error: No CMAKE_C_COMPILER could be found.", 1, "apt-get install g++"),
        ("CMake Error: No CMAKE_CUDA_COMPILER could be found.", 1, "CUDACXX"),
        ("The virtual environment was not created because ensurepip is not available", 1, "python3-venv"),
        ("ERROR: No matching distribution found for x==9", 1, "no such version"),
        ("NewConnectionError: Temporary failure in name resolution\nERROR: No matching distribution", 1, "index"),
        ("OSError: [Errno 28] No space left on device", 1, "QUANTBENCH_CACHE"),
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE", 1, "do not trust them"),
        ("compiling", 137, "lack of memory"),
        ("$ make\nall well\nerror: 'x' was not declared\nmake: stopping", 2, "error: 'x' was not declared."),
        ("$ make\nlib.c:1:25: error: 'x' undeclared\nninja: build stopped", 1, "lib.c:1:25: error: 'x' undeclared."),
        ("$ make\nlast line", 2, "last line."),
        ("", 2, "it said nothing."),
    ],
)
def test_remedies(said: str, code: int, advice: str) -> None:
    assert advice in remedy(said, code)
