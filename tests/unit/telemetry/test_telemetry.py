"""What the machine says of itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import pytest

from bench.telemetry.machine import fingerprint
from bench.telemetry.memory import MemoryWatch, tree_rss_bytes
from bench.telemetry.others import OthersWatch
from bench.telemetry.provenance import provenance


def test_the_fingerprint_is_plain_values_and_names_the_processor() -> None:
    found = fingerprint()
    assert json.loads(json.dumps(found)) == found
    assert found["cpu"]
    assert found["cores"] >= 1
    assert found["memory_bytes"] % 2**30 == 0


def test_provenance_records_listed_variables_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    recorded = provenance()
    assert recorded["environment"]["OMP_NUM_THREADS"] == "3"
    assert "hf_secret" not in json.dumps(recorded)


def test_memory_is_that_of_the_whole_tree() -> None:
    hog = "x = bytearray(64 << 20); import time; time.sleep(60)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {hog!r}])"
    process = subprocess.Popen([sys.executable, "-c", parent], start_new_session=True)
    try:
        with MemoryWatch(process.pid, interval_s=0.05) as watch:
            deadline = time.monotonic() + 20
            while (watch.peak_bytes or 0) < 64 << 20 and time.monotonic() < deadline:
                time.sleep(0.05)
        assert watch.peak_bytes is not None
        assert watch.peak_bytes >= 64 << 20
    finally:
        os.killpg(process.pid, 9)
        process.wait()


def test_memory_of_what_is_gone_is_missing() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert tree_rss_bytes(process.pid) is None


def test_our_own_work_is_not_counted_as_others() -> None:
    spin = "import time\nend = time.monotonic() + 2.0\nwhile time.monotonic() < end: pass"
    with OthersWatch() as quiet:
        subprocess.run([sys.executable, "-c", spin], check=True)
    stranger = subprocess.Popen(["setsid", "--fork", sys.executable, "-c", spin])
    stranger.wait()
    with OthersWatch() as busy:
        time.sleep(1.9)
    assert quiet.cores is not None
    assert busy.cores is not None
    # Whatever else runs here, the stranger's core is seen and our own is not.
    assert busy.cores > quiet.cores - 0.5
    assert busy.cores > 0.2
