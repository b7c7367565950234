"""How long it takes to be asked: whole-process seconds of commands that measure nothing, beside a bare interpreter.

.venv/bin/python scripts/bench_startup.py
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

RUNS = 7
COMMANDS = {
    "bare interpreter": ["-c", ""],
    "quantbench --help": ["-m", "bench", "--help"],
    "quantbench run --help": ["-m", "bench", "run", "--help"],
    "quantbench version": ["-m", "bench", "version"],
    "quantbench run --dry-run": ["-m", "bench", "run", "experiment=quickstart", "--dry-run"],
}


def seconds(arguments: list[str]) -> float:
    """Wall time of one process."""
    started = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> None:
    """Interleave the commands, so that a drift of the machine hits all of them."""
    taken: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(RUNS):
        for name, arguments in COMMANDS.items():
            taken[name].append(seconds(arguments))
    bare = statistics.median(taken["bare interpreter"])
    for name, values in taken.items():
        median = statistics.median(values)
        print(f"{name:<28} median {median:6.3f} s  {median / bare:5.1f} x a bare interpreter")


if __name__ == "__main__":
    main()
