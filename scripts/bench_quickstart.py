"""Wall time of the quickstart on warm toolchains, of its unchanged repeat, and the harness process's peak memory.

    .venv/bin/python scripts/bench_quickstart.py               # the quickstart
    .venv/bin/python scripts/bench_quickstart.py --cells 100   # a sweep of that many small cells, about 5 s each

Artefacts are made anew in a temporary folder; toolchains and the model's source come from the user's cache.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from bench.base.paths import cache_dir

QUICKSTART = ("experiment=quickstart",)


def sweep(cells: int) -> list[str]:
    """Two variants over and over, each with two small loads and one quality task."""
    return [
        *("-m", "scheme=gguf_q8_0,gguf_q4_0", f"repeat=range({cells // 2})"),
        *("engine.threads=1", "engine.max_model_len=512", "workloads.default.output_tokens=4"),
        *("scenarios.c1.requests=2", "scenarios.c4.requests=4", "scenarios.c1.warmup=0", "scenarios.c4.warmup=0"),
        *("tasks.perplexity.windows=1", "~tasks.divergence"),
    ]


def measure(folder: Path, overrides: Sequence[str]) -> tuple[float, int]:
    """Seconds of one run, and the largest resident memory of the harness process alone, bytes."""
    env = {**os.environ, "QUANTBENCH_CACHE": str(folder / "cache")}
    command = [sys.executable, "-m", "bench", "run", *overrides, "--quiet"]
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, help="measure a sweep of so many cells instead of the quickstart")
    cells = parser.parse_args().cells
    overrides = QUICKSTART if cells is None else sweep(cells)
    with tempfile.TemporaryDirectory(prefix="quantbench-bench-") as name:
        folder = Path(name)
        (folder / "cache").mkdir()
        for part in ("toolchains", "sources"):
            (cache_dir() / part).mkdir(parents=True, exist_ok=True)
            (folder / "cache" / part).symlink_to(cache_dir() / part)
        first_s, first_peak = measure(folder, overrides)
        repeat_s, repeat_peak = measure(folder, overrides)
        reports = sum(path.stat().st_size for path in folder.glob("reports/*/report.html"))
        recorded = len(list(folder.glob("results/*/cells/*/cell.json")))
    print(f"{recorded} cells, warm toolchains    {first_s:7.1f} s   harness peak {first_peak / 1e6:6.0f} MB")
    print(f"the same again, unchanged   {repeat_s:7.1f} s   harness peak {repeat_peak / 1e6:6.0f} MB")
    print(f"report.html                 {reports / 1e6:7.1f} MB")


if __name__ == "__main__":
    main()
