"""The load generator against the truth server on loopback: the table of its own error by number of streams."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench._version import __version__
from bench.base.clock import utc_now
from bench.base.progress import Progress
from bench.load.calibration import SCHEMA_VERSION, CalibrateConfig, machine, write_calibration
from bench.load.config import ClosedConfig, SyntheticConfig
from bench.load.run import run_scenario
from bench.load.truth.compare import TrueTimes, errors_us
from bench.load.truth.launch import TruthServer
from bench.load.truth.pace import SlowTimes

DROPPED_WAVES = 2
_WARMUP = 2


def calibrate(config: CalibrateConfig, progress: Progress) -> tuple[dict[str, Any], Path]:
    """Measure, keep and return the calibration of this machine, and where it is kept.

    Raises ToolchainError where the truth server cannot be compiled.
    """
    progress = progress.within(stage="calibrate")
    rows = []
    with TruthServer(ttft_ms=config.ttft_ms, itl_ms=config.itl_ms, tokens=config.tokens) as truth:
        for streams in sorted(set(config.streams)):
            progress.say(f"{streams} streams for {config.seconds:g} s")
            with tempfile.TemporaryDirectory(prefix="quantbench-calibrate-") as folder:
                rows.append(measure(truth, streams, config, Path(folder)))
    value = {
        "schema_version": SCHEMA_VERSION,
        "made": utc_now(),
        "quantbench": __version__,
        "machine": machine(),
        "rows": rows,
    }
    return value, write_calibration(value)


def measure(truth: TruthServer, streams: int, config: CalibrateConfig, out: Path) -> dict[str, Any]:
    """One closed loop of `streams` streams; a row of the table. `out` is left with the run's files."""
    truth.take_log()
    truth.take_pace()
    waves = math.ceil(config.seconds * 1000 / (config.ttft_ms + (config.tokens - 1) * config.itl_ms)) + 1
    scenario = ClosedConfig(
        concurrency=streams,
        requests=streams * waves,
        duration_s=config.seconds,
        warmup=_WARMUP,
        drop_waves=DROPPED_WAVES,
        time_source=config.time_source,
    )
    workload = SyntheticConfig(output_tokens=config.tokens, tokenize=False)
    summary = run_scenario(truth.target(), scenario, workload, out)
    slow = SlowTimes.of(truth.take_pace())
    return row_of(summary, TrueTimes.of(truth.take_log(), config.tokens), slow, streams, out)


def row_of(summary: Mapping[str, Any], true: TrueTimes, slow: SlowTimes, streams: int, out: Path) -> dict[str, Any]:
    """What a run was wrong by, and what it cost; warm-up and the first two waves are left out."""
    own = summary["own_error"]
    first = _WARMUP + DROPPED_WAVES * streams
    kept = true.among(true.request[true.request >= first])
    return {
        "streams": streams,
        "time_source": own["time_source"],
        "requests": len(kept.request),
        **errors_us(out, kept, slow),
        "slow_share": slow.share,
        "true_ttft_p99_ms": _quantile_ms(kept, 0.99),
        "coalesced_share": own["coalesced_reads_share"],
        "delivered_share": true.busy_share(streams, first=first),
        "steady_delivered_share": true.busy_share(streams, first=first, slow=slow),
        "cpu_us_per_token": own["cpu_us_per_token"],
        "parse_cpu_us_per_token": own["parse_cpu_us_per_token"],
        "peak_rss_bytes": own["peak_rss_bytes"],
        "tokens_per_s": summary["metrics"]["output_throughput"]["value"],
    }


def _quantile_ms(true: TrueTimes, share: float) -> float:
    import numpy as np

    return float(np.quantile(true.ttft_ns, share)) / 1e6
