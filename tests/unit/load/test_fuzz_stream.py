"""A few cases of the fuzzer, the same ones every time; `make fuzz` draws its own."""

from __future__ import annotations

import subprocess
import sys

from tests.support import CHECKOUT

#: Cases that once went wrong: a transfer coding that only looked chunked, empty lines before a head.
FOUND = (244, 950, 11598)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "scripts/fuzz_stream.py", *arguments]
    return subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)


def test_cases_that_once_went_wrong() -> None:
    for seed in FOUND:
        done = run("--seed", str(seed), "--cases", "1", "--seconds", "60")
        assert done.returncode == 0, done.stderr


def test_many_cases_end_in_many_kinds() -> None:
    done = run("--seed", "1", "--cases", "300", "--seconds", "600")
    assert done.returncode == 0, done.stderr
    first, said = done.stdout.splitlines()
    assert first == "first seed 1"
    assert said.startswith("300 cases: ")
    for kind in ("ok", "bad_http", "bad_json", "truncated"):
        assert f" {kind}" in said
