"""Wall time of the quickstart on warm toolchains, of its unchanged repeat, and the harness process's peak memory.

    .venv/bin/python scripts/bench_quickstart.py

Artefacts are made anew in a temporary folder; toolchains and the model's source come from the user's cache.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from bench.base.paths import cache_dir


def measure(folder: Path) -> tuple[float, int]:
    """Seconds of one run, and the largest resident memory of the harness process alone, bytes."""
    env = {**os.environ, "QUANTBENCH_CACHE": str(folder / "cache")}
    command = [sys.executable, "-m", "bench", "run", "experiment=quickstart", "--quiet"]
    started = time.perf_counter()
    process = subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.DEVNULL)
    watched = psutil.Process(process.pid)
    peak = 0
    while process.poll() is None:
        try:
            peak = max(peak, watched.memory_info().rss)
        except psutil.NoSuchProcess:
            break
        time.sleep(0.02)
    if process.wait() != 0:
        raise SystemExit(f"the run failed with exit code {process.returncode}; see {folder}")
    return time.perf_counter() - started, peak


def main() -> None:
    """Run twice, print both."""
    with tempfile.TemporaryDirectory(prefix="quantbench-bench-") as name:
        folder = Path(name)
        (folder / "cache").mkdir()
        for part in ("toolchains", "sources"):
            (cache_dir() / part).mkdir(parents=True, exist_ok=True)
            (folder / "cache" / part).symlink_to(cache_dir() / part)
        first_s, first_peak = measure(folder)
        repeat_s, repeat_peak = measure(folder)
    print(f"quickstart, warm toolchains   {first_s:7.1f} s   harness peak {first_peak / 1e6:6.0f} MB")
    print(f"the same again, unchanged     {repeat_s:7.1f} s   harness peak {repeat_peak / 1e6:6.0f} MB")


if __name__ == "__main__":
    main()
