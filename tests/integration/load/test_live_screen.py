"""On a terminal a load run shows how it goes while it runs, and leaves the terminal as it was."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
from pathlib import Path

from bench.load.truth.launch import TruthServer
from tests.support import command_line

_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def on_a_terminal(arguments: list[str], folder: Path) -> tuple[int, str]:
    """The exit code and what was written to the terminal, when only stderr is one."""
    controller, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    env = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS", "LINES")}
    process = subprocess.Popen(
        command_line(arguments), cwd=folder, stdout=subprocess.DEVNULL, stderr=terminal, env={**env, "TERM": "xterm"}
    )
    os.close(terminal)
    written = b""
    with contextlib.suppress(OSError):  # Linux's way to say that the other side is closed
        while data := os.read(controller, 65536):
            written += data
    os.close(controller)
    return process.wait(), written.decode()


def test_the_screen_shows_figures_of_now_and_goes(tmp_path: Path) -> None:
    with TruthServer(ttft_ms=30, itl_ms=5) as truth:
        load = ["load", f"endpoint.url={truth.url}", "endpoint.model=truth:error_event:9", "endpoint.check=false"]
        load += ["workload.output_tokens=8", "scenario.concurrency=8", "scenario.requests=320", "out=out"]
        code, written = on_a_terminal(load, tmp_path)
    assert code == 1, written  # every ninth request got an error event
    shown = _CONTROL.sub("", written)
    assert re.search(r"done +\d+/322 requests 8 in flight", shown)
    assert re.search(r"rate +[\d.,]+ answers/s +[\d.,]+ tokens/s", shown)
    assert re.search(r"failed +seen: stream_error", shown)
    (ttft, *_) = [float(value) for value in re.findall(r"TTFT now +([\d.]+) ms p50", shown)]
    assert 29 < ttft < 500
    assert re.search(r"own error +reads [\d.,]+ µs late", shown)
    assert written.rindex("\x1b[?25h") > written.rindex("\x1b[?25l"), "the cursor is shown again"
    assert "╭" not in written[written.rindex("load: recording") :]


def test_quiet_means_quiet_on_a_terminal_too(tmp_path: Path) -> None:
    with TruthServer(ttft_ms=5, itl_ms=1) as truth:
        load = ["load", f"endpoint.url={truth.url}", "endpoint.model=truth", "workload.output_tokens=4", "out=out"]
        code, written = on_a_terminal([*load, "scenario.requests=20", "--quiet"], tmp_path)
    assert (code, written) == (0, "")
