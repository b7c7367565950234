"""How wrong is the load generator on this machine? Its figures against the truth server's own log.

    python scripts/bench_load.py                      # 64 and 256 streams
    python scripts/bench_load.py --streams 512 1024 --waves 6 --user

Server and client get one core each. Per number of streams: the error of TTFT (client's minus true) and of each event's
arrival (client's stamp minus the server's stamp before write), delivered load, and CPU per token in the loop and for
parsing. The first two waves are left out. Close everything else: on a busy machine this measures the machine.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from bench.load.config import ClosedConfig, SyntheticConfig, TimeSource
from bench.load.run import run_scenario
from bench.load.truth.launch import TruthServer

DROPPED_WAVES = 2


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--waves", type=int, default=5, help="requests are streams x waves")
    parser.add_argument("--ttft-ms", type=float, default=100.0)
    parser.add_argument("--itl-ms", type=float, default=10.0)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--user", action="store_true", help="user-space stamps instead of the kernel's")
    return parser.parse_args()


def measure(streams: int, options: argparse.Namespace, out: Path) -> dict[str, float]:
    """One scenario of `streams` streams; the row of the table."""
    cores = sorted(os.sched_getaffinity(0))
    with TruthServer(ttft_ms=options.ttft_ms, itl_ms=options.itl_ms, cpu=cores[0]) as truth:
        os.sched_setaffinity(0, {cores[-1]})
        try:
            scenario = ClosedConfig(
                concurrency=streams,
                requests=streams * options.waves,
                drop_waves=DROPPED_WAVES,
                time_source=TimeSource.user if options.user else TimeSource.auto,
            )
            workload = SyntheticConfig(output_tokens=options.tokens, tokenize=False)
            started = time.monotonic()
            summary = run_scenario(truth.target(), scenario, workload, out)
            wall_s = time.monotonic() - started
            log = truth.take_log()
        finally:
            os.sched_setaffinity(0, set(cores))
    return compare(out, log, scenario, options) | {
        "wall_s": wall_s,
        "requests_per_s": summary["metrics"]["request_throughput"]["value"] or float("nan"),
        "loop_us": summary["own_error"]["cpu_us_per_token"],
        "parse_us": summary["own_error"]["parse_cpu_us_per_token"],
        "coalesced_pct": 100 * (summary["own_error"]["coalesced_reads_share"] or 0.0),
        "rss_mb": summary["own_error"]["peak_rss_bytes"] / 1e6,
    }


def compare(out: Path, log: Any, scenario: ClosedConfig, options: argparse.Namespace) -> dict[str, float]:
    """Errors of the recorded times against the server's log, in µs, without warm-up and first waves."""
    requests = pq.read_table(out / "requests.parquet").to_pandas()
    first_slot = scenario.warmup + DROPPED_WAVES * scenario.concurrency
    log = log[np.lexsort((log["index"], log["request"]))]
    sent = log["ns"].reshape(-1, options.tokens + 1)  # every request completes here: one receipt, then its tokens
    true_ttft = sent[:, 1] - sent[:, 0]
    ttft = (requests["first_token_ns"] - requests["sent_ns"]).to_numpy()
    arrived = pq.read_table(out / "events.parquet").column("ns").to_numpy().reshape(-1, options.tokens)
    kept = requests["request_id"].to_numpy() >= first_slot
    ttft_error = (ttft - true_ttft)[kept] / 1000
    chunk_error = (arrived - sent[:, 1:])[kept].ravel() / 1000
    return {
        "ttft_p50_us": float(np.quantile(ttft_error, 0.5)),
        "ttft_p99_us": float(np.quantile(ttft_error, 0.99)),
        "chunk_p50_us": float(np.quantile(chunk_error, 0.5)),
        "chunk_p99_us": float(np.quantile(chunk_error, 0.99)),
        "true_ttft_p99_ms": float(np.quantile(true_ttft[kept], 0.99)) / 1e6,
        "ideal_per_s": scenario.concurrency / ((options.ttft_ms + (options.tokens - 1) * options.itl_ms) / 1000),
    }


def main() -> None:
    options = arguments()
    print(f"truth: TTFT {options.ttft_ms:g} ms, ITL {options.itl_ms:g} ms, {options.tokens} tokens; one core each")
    columns = (
        ("ttft_p50_us", "TTFT err p50 µs"),
        ("ttft_p99_us", "p99"),
        ("chunk_p50_us", "event err p50 µs"),
        ("chunk_p99_us", "p99"),
        ("true_ttft_p99_ms", "true TTFT p99 ms"),
        ("requests_per_s", "req/s"),
        ("ideal_per_s", "ideal"),
        ("loop_us", "loop µs/token"),
        ("parse_us", "parse"),
        ("coalesced_pct", "coalesced %"),
        ("rss_mb", "worker MB"),
        ("wall_s", "wall s"),
    )
    print("streams | " + " | ".join(title for _, title in columns))
    for streams in options.streams:
        with tempfile.TemporaryDirectory() as folder:
            row = measure(streams, options, Path(folder))
        print(f"{streams:7d} | " + " | ".join(f"{row[key]:{len(title)}.1f}" for key, title in columns), flush=True)


if __name__ == "__main__":
    main()
