"""The server's latencies over a scenario, and ours of the same requests."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.engines.histogram import Histogram
from bench.engines.metrics import MetricSample, Scalar, Timing
from bench.load.columns import EVENT_DTYPE, MISSING, STATUSES
from bench.load.parquet import write_parquet
from bench.load.table import Table, make_events
from bench.pipeline.latency import client_latency, hit_rate, server_latency

MS = 1_000_000


def sample(ttft: Histogram | None, prefix_cache: tuple[float | None, float] | None = None) -> MetricSample:
    timings: dict[Timing, Histogram | None] = dict.fromkeys(Timing)
    scalars: dict[Scalar, float | None] = dict.fromkeys(Scalar)
    return MetricSample(scalars=scalars, timings=timings | {Timing.TTFT: ttft}, prefix_cache=prefix_cache)


def histogram(counts: tuple[float, float, float], total: float) -> Histogram:
    return Histogram(buckets=tuple(zip((0.1, 0.2, math.inf), counts, strict=True)), total=total, count=counts[-1])


def test_only_what_a_scenario_added_counts() -> None:
    found = server_latency(sample(histogram((5, 5, 5), 0.25)), sample(histogram((5, 15, 15), 1.75)))
    assert found["ttft"] == {
        "count": 10,
        "mean_ms": 150.0,
        "p50": {"value_ms": 150.0, "from_ms": 100.0, "to_ms": 200.0},
        "p90": {"value_ms": 190.0, "from_ms": 100.0, "to_ms": 200.0},
        "p99": {"value_ms": 199.0, "from_ms": 100.0, "to_ms": 200.0},
    }
    assert found["itl"] is None


def test_a_histogram_that_comes_with_its_first_observation_began_at_nothing() -> None:
    found = server_latency(sample(None), sample(histogram((2, 2, 2), 0.1)))["ttft"]
    assert found is not None
    assert found["mean_ms"] == 50.0


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (None, None),
        (histogram((1, 1, 1), 0.1), None),
        (histogram((1, 1, 1), 0.1), histogram((1, 1, 1), 0.1)),
        (histogram((9, 9, 9), 0.9), histogram((1, 1, 1), 0.1)),
    ],
    ids=["not measured", "gone", "nothing added", "restarted"],
)
def test_without_observations_there_is_nothing(before: Histogram | None, after: Histogram | None) -> None:
    assert server_latency(sample(before), sample(after))["ttft"] is None


def test_the_hit_rate_is_that_of_the_scenario() -> None:
    assert hit_rate(sample(None, (50, 100)), sample(None, (80, 200)), 0.4) == pytest.approx(0.3)
    assert hit_rate(sample(None, (50, 100)), sample(None, (50, 100)), None) is None
    assert hit_rate(sample(None), sample(None), 0.4) == 0.4


def test_queries_before_the_first_hit_are_not_of_the_scenario() -> None:
    assert hit_rate(sample(None, (None, 100)), sample(None, (50, 200)), None) == pytest.approx(0.5)
    assert hit_rate(sample(None), sample(None, (50, 200)), None) == pytest.approx(0.25), "nothing was told before"
    assert hit_rate(sample(None, (None, 100)), sample(None, (None, 200)), None) is None


def row(slot: int, sent: int, first: int, last: int, tokens: int, *, status: str = "ok") -> dict[str, object]:
    times = {"sent_ns": sent, "first_token_ns": first, "last_token_ns": last, "done_ns": last}
    return {"slot": slot, "status": status, "output_tokens": tokens, **times}


def table_of(rows: list[dict[str, object]], tmp_path: Path) -> Path:
    content: dict[str, Any] = {name: np.full(len(rows), MISSING, dtype=np.int64) for name in Table.__dataclass_fields__}
    for name in ("slot", "sent_ns", "first_token_ns", "last_token_ns", "done_ns", "output_tokens"):
        content[name] = np.array([value[name] for value in rows], dtype=np.int64)
    statuses = np.array([STATUSES.index(str(value["status"])) for value in rows])
    content |= {"status": statuses, "main": np.ones(len(rows), dtype=bool), "finish_reasons": (), "messages": {}}
    events = make_events([np.empty(0, dtype=EVENT_DTYPE)])
    write_parquet(Table(**content), events, tmp_path, scenario="c1", repeat=0)
    return tmp_path / "requests.parquet"


def test_our_means_are_of_what_the_server_counts_too(tmp_path: Path) -> None:
    rows = [
        row(0, 100 * MS, 110 * MS, 150 * MS, 5),
        row(1, 200 * MS, 230 * MS, 290 * MS, 3),
        row(2, 300 * MS, 350 * MS, 350 * MS, 1),
        row(3, 400 * MS, 470 * MS, 600 * MS, 9, status="error"),
        row(4, 500 * MS, MISSING, MISSING, MISSING, status="error"),
    ]
    found = client_latency(table_of(rows, tmp_path))
    assert found["ttft"] == {"count": 4, "mean_ms": 40.0}
    assert found["e2e"] == {"count": 3, "mean_ms": pytest.approx((50 + 90 + 50) / 3)}
    assert found["itl"] == {"count": 6, "mean_ms": pytest.approx(100 / 6)}, "gaps weigh alike"
    assert found["tpot"] == {"count": 2, "mean_ms": 20.0}, "requests weigh alike"
    assert (found["start_ns"], found["end_ns"]) == (100 * MS, 600 * MS)


def test_the_steps_of_a_sweep_count_together(tmp_path: Path) -> None:
    files = []
    for number, first in enumerate((10, 30)):
        (tmp_path / str(number)).mkdir()
        files.append(table_of([row(0, 0, first * MS, 50 * MS, 3)], tmp_path / str(number)))
    assert client_latency(*files)["ttft"] == {"count": 2, "mean_ms": 20.0}


def test_without_a_first_token_there_are_no_means(tmp_path: Path) -> None:
    found = client_latency(table_of([row(0, 100, MISSING, MISSING, MISSING, status="error")], tmp_path))
    assert {found[name] for name in ("ttft", "itl", "tpot", "e2e")} == {None}
