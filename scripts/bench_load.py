"""How wrong is the load generator on this machine? Its figures against the truth server's own log.

    python scripts/bench_load.py                            # 64, 256, 512 and 1,024 streams, and 1,024 in user space
    python scripts/bench_load.py --streams 512 --seconds 60
    python scripts/bench_load.py --streams 64 --seconds 10 --extra    # memory, start-up and long prompts as well

Server and client get one core each. Per number of streams: the error of TTFT (client's minus true) and of each event's
arrival (client's stamp minus the server's stamp before write), delivered load (of what the server's log permits), CPU
per token in the loop and for parsing, memory. The first two waves are left out. Close everything else: on a busy
machine this measures the machine. Some hosts throttle their processors for moments: "slow machine" is how much of the
time the same arithmetic took over twice as long as usually on the server's core, "without" the same figures of what was
sent outside of such times and what each needs to recover. A mark behind a figure says that it misses its goal.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.load.calibrate import measure
from bench.load.calibration import CalibrateConfig
from bench.load.config import ClosedConfig, SyntheticConfig, TimeSource
from bench.load.run import run_scenario
from bench.load.truth.launch import TruthServer

BUILD = f"Python {platform.python_version()} ({platform.python_build()[1]})"
#: column → (title, digits)
COLUMNS = {
    "streams": ("streams", 0),
    "time_source": ("time", 0),
    "requests": ("requests", 0),
    "ttft_p50_us": ("TTFT err p50 µs", 1),
    "ttft_p99_us": ("p99", 1),
    "event_p50_us": ("event err p50 µs", 1),
    "event_p99_us": ("p99", 1),
    "slow_pct": ("slow machine %", 1),
    "steady_ttft_p99_us": ("TTFT p99 without", 1),
    "steady_event_p99_us": ("event p99 without", 1),
    "true_ttft_p99_ms": ("true TTFT p99 ms", 1),
    "coalesced_pct": ("coalesced %", 2),
    "delivered_pct": ("delivered %", 1),
    "steady_delivered_pct": ("without", 1),
    "tokens_per_s": ("tokens/s", 0),
    "loop_us": ("loop µs/token", 1),
    "parse_us": ("parse", 1),
    "cpu_us": ("both", 1),
    "rss_mb": ("worker MB", 0),
}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, nargs="*", default=[64, 256, 512, 1024])
    parser.add_argument("--user", type=int, nargs="*", default=[1024], help="streams to measure in user space as well")
    parser.add_argument("--seconds", type=float, default=15.0, help="of each, the first two waves included")
    parser.add_argument("--ttft-ms", type=float, default=100.0)
    parser.add_argument("--itl-ms", type=float, default=10.0)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--extra", action="store_true", help="also memory, start-up and what a long prompt costs")
    return parser.parse_args()


def goals(row: dict[str, Any]) -> dict[str, float]:
    """Upper bounds of this row's figures; of delivered load the lower one."""
    streams, kernel = row["streams"], row["time_source"] == "kernel"
    bounds: dict[str, float] = {"delivered_pct": 98.0, "steady_delivered_pct": 98.0}
    if kernel and streams <= 1024:
        bounds["ttft_p99_us"] = 100.0 if streams <= 512 else 200.0
    elif streams <= 1024:
        bounds["ttft_p99_us"] = 1000.0
    if kernel and streams <= 512:
        bounds["event_p99_us"] = 100.0
    bounds |= {f"steady_{name}": bound for name, bound in bounds.items() if name.endswith("_us") and name != "cpu_us"}
    if streams >= 512:
        bounds["cpu_us"] = 16.0
    return bounds


def measure_row(streams: int, source: TimeSource, options: argparse.Namespace) -> dict[str, Any]:
    """One closed loop with server and client on a core of their own."""
    config = CalibrateConfig(
        streams=[streams],
        seconds=options.seconds,
        ttft_ms=options.ttft_ms,
        itl_ms=options.itl_ms,
        tokens=options.tokens,
        time_source=source,
    )
    with pinned(options) as truth, tempfile.TemporaryDirectory() as folder:
        row = measure(truth, streams, config, Path(folder))
    row["slow_pct"] = None if row["slow_share"] is None else 100 * row["slow_share"]
    row["coalesced_pct"] = 100 * (row["coalesced_share"] or 0.0)
    row["delivered_pct"] = 100 * row["delivered_share"]
    steady = row["steady_delivered_share"]
    row["steady_delivered_pct"] = None if steady is None else 100 * steady
    row["loop_us"], row["parse_us"] = row["cpu_us_per_token"], row["parse_cpu_us_per_token"]
    row["cpu_us"] = row["loop_us"] + row["parse_us"]
    row["rss_mb"] = row["peak_rss_bytes"] / 1e6
    return row


class pinned:  # noqa: N801 - reads as a verb
    """A truth server on the first core, this process and what it starts on the last one."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._cores = sorted(os.sched_getaffinity(0))

    def __enter__(self) -> TruthServer:
        self._truth = TruthServer(ttft_ms=self._options.ttft_ms, itl_ms=self._options.itl_ms, cpu=self._cores[0])
        os.sched_setaffinity(0, {self._cores[-1]})
        return self._truth.__enter__()

    def __exit__(self, *why: object) -> None:
        os.sched_setaffinity(0, set(self._cores))
        self._truth.__exit__(*why)


def show(row: dict[str, Any]) -> None:
    bounds = goals(row)
    cells = []
    for name, (title, digits) in COLUMNS.items():
        value = row[name]
        text = value if isinstance(value, str) else "-" if value is None else f"{value:.{digits}f}"
        bound = bounds.get(name)
        if None not in (bound, value) and (value < bound if "delivered" in name else value > bound):
            text += "!"
        cells.append(text.rjust(len(title)))
    print(" | ".join(cells), flush=True)


# ---- what is not about time stamps


def memory_mb(options: argparse.Namespace) -> float:
    """Peak of the worker over 2,048 requests of 128 tokens, goal 200."""
    with pinned(options) as truth, tempfile.TemporaryDirectory() as folder:
        scenario = ClosedConfig(concurrency=1024, requests=2048, warmup=0)
        workload = SyntheticConfig(output_tokens=128, tokenize=False)
        summary = run_scenario(truth.target(), scenario, workload, Path(folder))
    return float(summary["own_error"]["peak_rss_bytes"] / 1e6)


def startup_s() -> tuple[float, float]:
    """(wall, CPU) seconds of the whole command around one request of 1 token, goal 1.5 of wall before the first."""
    with TruthServer(ttft_ms=1, itl_ms=1) as truth, tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "bench", "load", f"endpoint.url={truth.url}", "endpoint.model=truth"]
        command += [
            "scenario.requests=1",
            "scenario.warmup=0",
            "workload.output_tokens=1",
            f"out={folder}/out",
            "--quiet",
        ]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        started = time.monotonic_ns()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        received = truth.take_log()["ns"].min()
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return float(received - started) / 1e9, cpu_s


def prompt_cpu_ms(words: int, requests: int, options: argparse.Namespace) -> float:
    """CPU of the loop per request with prompts of so many words, ms: a long one costs its bytes and no more."""
    with pinned(options) as truth, tempfile.TemporaryDirectory() as folder:
        scenario = ClosedConfig(concurrency=1, requests=requests, warmup=0, drop_waves=0)
        workload = SyntheticConfig(input_tokens=words, output_tokens=2, tokenize=False)
        summary = run_scenario(truth.target(), scenario, workload, Path(folder))
    return float(summary["own_error"]["cpu_us_per_token"] * 2 / 1000)


def main() -> None:
    options = arguments()
    wave_s = (options.ttft_ms + options.tokens * options.itl_ms) / 1000
    options.seconds = max(options.seconds, math.ceil(5 * wave_s))
    print(f"truth: TTFT {options.ttft_ms:g} ms, ITL {options.itl_ms:g} ms, {options.tokens} tokens; one core each;")
    print(f"{options.seconds:g} s each, the first two waves left out; load average {os.getloadavg()[0]:.1f}; {BUILD}")
    print(" | ".join(title for title, _ in COLUMNS.values()))
    for streams in options.streams:
        show(measure_row(streams, TimeSource.auto, options))
    for streams in options.user:
        show(measure_row(streams, TimeSource.user, options))
    if options.extra:
        print(f"worker's peak memory, 2,048 requests of 128 tokens: {memory_mb(options):.0f} MB (goal 200)")
        wall_s, cpu_s = startup_s()
        print(f"quantbench load, start to first request: {wall_s:.2f} s (goal 1.5); {cpu_s:.2f} s of CPU in all")
        short, long = prompt_cpu_ms(32, 20, options), prompt_cpu_ms(100_000, 20, options)
        print(f"CPU of the loop a request: {short:.2f} ms with 32 words, {long:.2f} ms with 100,000 (about 600 kB)")


if __name__ == "__main__":
    main()
