"""How the analysis and the whole report grow with what they read: time and peak memory over generated recorded cells.

    .venv/bin/python scripts/bench_report.py                          # analysis of 50, 500 and 5,000 cells
    .venv/bin/python scripts/bench_report.py --report --cells 500     # the whole report, 1,000,000 requests

Every cell has a variant's manifest, two loads with their requests, and a task with items. Each measurement is a process
of its own; its memory is the largest resident set that the kernel saw.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

SIZES = (50, 500, 5000)
REQUESTS_PER_CELL = 2000
LOADS = (1, 8)
NS = 1_000_000_000
WORKLOAD = {"kind": "synthetic", "input_tokens": 128, "output_tokens": 64, "temperature": 0.0, "seed": 0}


def make_run(folder: Path, *, cells: int, requests: int) -> None:
    """A recorded run of so many cells with so many requests each; cell 0 is the baseline."""
    draw = np.random.default_rng(1)
    plan = []
    for number in range(cells):
        key = f"{number:016x}"
        speed = 100 + 50 * draw.random()
        _cell(folder / "cells" / key, number, speed=speed, requests=requests // len(LOADS), draw=draw)
        plan.append(
            {"label": f"v{number} · made_up", "key": key, "overrides": [f"scheme.v={number}"], "status": "planned"}
        )
    _write(folder / "plan.json", {"schema_version": 1, "cells": plan})
    run = {"name": "generated", "status": "complete", "command": ["quantbench", "run"], "overrides": []}
    _write(folder / "run.json", {"schema_version": 1, **run, "started": None, "finished": None, "quantbench": "0"})


def _cell(folder: Path, number: int, *, speed: float, requests: int, draw: np.random.Generator) -> None:
    scheme = {"kind": "gguf", "type": "F16" if number == 0 else f"V{number}"}
    scenarios = {
        f"c{users}": {"kind": "closed", "concurrency": users, "requests": requests, "workload": "default"}
        for users in LOADS
    }
    children = {}
    for users in LOADS:
        path = f"scenarios/c{users}-00000000"
        _load(folder / path, users, speed, requests, draw)
        children[f"c{users}"] = {"key": "0" * 16, "path": path, "status": "complete", "failure": None}
    _task(folder / "tasks/divergence-00000000", 0.0 if number == 0 else 0.02 * draw.random(), draw)
    task = {"key": "0" * 16, "path": "tasks/divergence-00000000", "status": "complete", "failure": None}
    recorded = {
        "schema_version": 1,
        "key": folder.name,
        "label": f"{scheme['type']} · made_up",
        "status": "complete",
        "overrides": [f"scheme.v={number}"],
        "config": {
            "scheme": scheme,
            "baseline": {"kind": "gguf", "type": "F16"},
            "engine": {"kind": "made_up"},
            "scenarios": scenarios,
            "workloads": {"default": WORKLOAD},
            "tasks": {"divergence": {"kind": "divergence", "windows": 8}},
        },
        "variant": {
            "label": scheme["type"],
            "scheme": scheme,
            "model": {"name": "made up", "digest": "sha256:00"},
            "size_bytes": int(1e8 + 1e8 * draw.random()),
            "effective_bits_per_weight": 4.5,
            "wall_s": 2.0,
        },
        "engine": {"kind": "made_up", "build": "0", "peak_rss_bytes": 400_000_000},
        "machine": {"cpu": "made up", "cores": 2, "gpus": []},
        "provenance": {},
        "scenarios": children,
        "tasks": {"divergence": task},
        "validity": [],
    }
    _write(folder / "cell.json", recorded)


def _load(folder: Path, users: int, speed: float, requests: int, draw: np.random.Generator) -> None:
    itl_ns = NS / speed * (1 + 0.3 * (users - 1))
    ttft = (draw.normal(0.03, 0.003, requests).clip(0.001) * NS).astype(np.int64)
    span = (draw.normal(63 * itl_ns, itl_ns, requests).clip(1)).astype(np.int64)
    life = ttft + span
    sent = np.concatenate([np.concatenate([[0], np.cumsum(part)[:-1]]) for part in np.array_split(life, users)])
    done = sent + life
    count = pa.int32()
    table = pa.table(
        {
            "request_id": pa.array(np.arange(requests)),
            "phase": pa.array(["main"] * requests).dictionary_encode(),
            "scheduled_ns": pa.array(sent),
            "sent_ns": pa.array(sent),
            "first_token_ns": pa.array(sent + ttft),
            "last_token_ns": pa.array(done),
            "done_ns": pa.array(done),
            "prompt_tokens": pa.array(np.full(requests, 128), type=count),
            "output_tokens": pa.array(np.full(requests, 64), type=count),
            "status": pa.array(["ok"] * requests).dictionary_encode(),
        }
    )
    folder.mkdir(parents=True)
    pq.write_table(table, folder / "requests.parquet", compression="zstd")
    seconds = float(done.max()) / NS
    metrics = {
        "ttft": _spread(ttft / 1e6),
        "itl": _spread(span / 63 / 1e6),
        "tpot": _spread(span / 63 / 1e6),
        "e2e_latency": _spread(life / 1e6),
        "request_throughput": _single("req/s", requests / seconds),
        "output_throughput": _single("tokens/s", 64 * requests / seconds),
        "input_throughput": _single("tokens/s", 128 * requests / seconds),
        "total_throughput": _single("tokens/s", 192 * requests / seconds),
        "error_rate": _single("ratio", 0.0),
    }
    counted = {"prompt_tokens": 128 * requests, "output_tokens": 64 * requests, "cached_tokens": 0}
    summary = {
        "schema_version": 1,
        "metrics": metrics,
        "errors": {},
        "validity": [],
        "requests": {"asked": requests, "ok": requests, "failed": 0, "cancelled": 0},
        "tokens": {"main": counted},
        "window": {
            "kind": "whole",
            "start_ns": -1,
            "end_ns": int(done.max()),
            "requests_in_flight": users,
            "dropped_waves": 0,
        },
        "own_error": {},
    }
    _write(folder / "summary.json", summary)
    _write(folder / "manifest.json", {"schema_version": 1, "status": "complete"})


def _spread(values: Any) -> dict[str, Any]:
    found = {f"p{share}": float(np.percentile(values, share)) for share in (50, 90, 95, 99)}
    middle = found["p50"]
    rest = {"mean": float(values.mean()), "n": len(values), "lo": middle * 0.99, "hi": middle * 1.01, "validity": []}
    return {"unit": "ms", **found, **rest}


def _single(unit: str, value: float) -> dict[str, Any]:
    return {"unit": unit, "value": value, "lo": value * 0.99, "hi": value * 1.01, "validity": []}


def _task(folder: Path, loss: float, draw: np.random.Generator) -> None:
    metrics = {
        "perplexity": _single("1", 30 * (1 + loss)),
        "perplexity_ratio": {
            "unit": "ratio",
            "value": 1 + loss,
            "lo": 1 + loss * 0.9,
            "hi": 1 + loss * 1.1,
            "validity": [],
        },
        "mean_divergence": _single("nat/token", loss),
    }
    folder.mkdir(parents=True)
    windows = np.repeat(np.arange(8), 64)
    nll = draw.normal(3, 1, len(windows))
    pq.write_table(
        pa.table({"item": pa.array(np.arange(len(windows))), "window": pa.array(windows), "nll": pa.array(nll)}),
        folder / "items.parquet",
    )
    _write(folder / "summary.json", {"schema_version": 1, "metrics": metrics, "errors": {}, "validity": []})


def _write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def analyse_once(run: Path) -> None:
    """What is measured of the analysis: from the folders to the answer, the tidy table and the JSON document."""
    from bench.analysis.candidates import analyse
    from bench.analysis.document import document
    from bench.analysis.load import load_results
    from bench.analysis.recommend import recommend
    from bench.analysis.settings import report_config
    from bench.analysis.table import tidy

    started = time.perf_counter()
    config = report_config([run], ["slo.ttft_ms=200", "slo.percentile=99", "traffic.users=100"])
    loaded = load_results([run])
    read = time.perf_counter()
    analysis = analyse(loaded, config)
    answer = recommend(analysis)
    decided = time.perf_counter()
    document(analysis, answer, tidy(analysis))
    ended = time.perf_counter()
    _tell(
        run,
        ended - started,
        f"reading {read - started:.2f}, deciding {decided - read:.2f}, tables {ended - decided:.2f}",
    )


def report_once(run: Path, out: Path) -> None:
    """What is measured of the whole: every file of the report."""
    from bench.analysis.settings import report_config
    from bench.report.build import build_report

    started = time.perf_counter()
    page = build_report([run], out, report_config([run], []))
    _tell(run, time.perf_counter() - started, f"report.html {page.stat().st_size / 1e6:.2f} MB")


def _tell(run: Path, seconds: float, detail: str) -> None:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{run.name:>12}: {seconds:8.2f} s, CPU {time.process_time():8.2f} s, peak {peak:6.0f} MiB ({detail})",
        flush=True,
    )


def main() -> None:
    """Generate, then measure each size in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--requests", type=int, default=REQUESTS_PER_CELL, help="requests of each cell")
    parser.add_argument("--report", action="store_true", help="the whole report instead of the analysis alone")
    parser.add_argument("--once", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.once is not None:
        run = arguments.once
        report_once(run, run.parent / "report") if arguments.report else analyse_once(run)
        return
    for cells in arguments.cells:
        with tempfile.TemporaryDirectory(prefix="quantbench-bench-report-") as folder:
            run = Path(folder) / f"{cells} cells"
            make_run(run, cells=cells, requests=arguments.requests)
            flags = ["--report"] if arguments.report else []
            subprocess.run([sys.executable, __file__, "--once", str(run), *flags], check=True)


if __name__ == "__main__":
    main()
