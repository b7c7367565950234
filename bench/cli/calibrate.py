"""`quantbench calibrate`: how wrong the load generator is on this machine."""

from __future__ import annotations

import argparse
from typing import Any

from bench.base.compose import compose
from bench.cli.commands import prepare

_COLUMNS = (
    *("streams", "time from", "TTFT error p50 µs", "p99", "event error p50 µs", "p99"),
    *("coalesced reads", "delivered", "µs/token", "of it parsing"),
    *("slow machine", "p99s without"),
)

_STEADY = ("steady_ttft_p99_us", "steady_event_p99_us")


def calibrate(arguments: argparse.Namespace) -> int:
    """Measure the load generator's own error against the truth server, show it, keep it."""
    from bench.load.calibration import CalibrateConfig

    display = prepare(arguments, load_only=True)
    config = compose("calibrate", arguments.overrides, CalibrateConfig)
    from bench.load.calibrate import calibrate as measure

    value, path = measure(config, display.progress())
    display.table("calibration", _COLUMNS, [_row(row) for row in value["rows"]], records=value["rows"])
    display.note("Error: client's time minus the server's own log. Delivered: of what that log permits.")
    display.note(
        "Slow machine: how long arithmetic took twice as long as usually; the error p99s (TTFT, event) without."
    )
    display.result(f"kept in {path}; later summaries on this machine carry it", calibration=str(path))
    return 0


def _row(row: dict[str, Any]) -> tuple[str, ...]:
    loop, parse = row["cpu_us_per_token"], row["parse_cpu_us_per_token"]
    return (
        str(row["streams"]),
        row["time_source"],
        *(f"{row[name]:.0f}" for name in ("ttft_p50_us", "ttft_p99_us", "event_p50_us", "event_p99_us")),
        *("-" if row[name] is None else f"{100 * row[name]:.1f} %" for name in ("coalesced_share", "delivered_share")),
        "-" if loop is None else f"{loop + (parse or 0):.1f}",
        "-" if parse is None else f"{parse:.1f}",
        "-" if row["slow_share"] is None else f"{100 * row['slow_share']:.1f} %",
        ", ".join("-" if row[name] is None else f"{row[name]:.0f}" for name in _STEADY),
    )
