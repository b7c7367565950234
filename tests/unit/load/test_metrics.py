"""Metrics on timelines made by hand: every formula, every bound, missing data missing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bench.base.validity import Reason
from bench.load.config import ClosedConfig, ConstantConfig, SyntheticConfig
from bench.load.metrics import METRICS
from bench.load.prompts import Prompts
from bench.load.sample import Sample
from bench.load.statistics import batch_count, median_interval, percentile, rate_interval, share_interval
from bench.load.summary import advice, summarise
from bench.load.window import WindowKind, find_window
from tests.unit.load.timelines import MS, Requests, request, tables

OWN = {
    "loop_cpu_s": 0.1,
    "loop_wall_s": 10.0,
    "digest_cpu_s": 0.05,
    "reads": 100,
    "token_reads": 100,
    "coalesced_reads": 0,
    "unstamped_reads": 0,
    "stale_connections": 0,
    "clock_stepped": False,
    "clock_uncertainty_ns": 100,
    "peak_rss_bytes": 1,
}


def sample_of(requests: Requests, *, warmup: int = 0, **scenario: Any) -> Sample:
    table, events = tables(requests, warmup)
    config = ClosedConfig(**{"drop_waves": 0, "requests": len(requests), **scenario})
    return Sample(table=table, events=events, window=find_window(table, config))


def value(tag: str, sample: Sample) -> dict[str, Any]:
    return METRICS[tag].compute(sample)


def summary_of(requests: Requests, scenario: Any = None, **own: Any) -> dict[str, Any]:
    table, events = tables(requests)
    return summarise(
        table,
        events,
        scenario=scenario or ClosedConfig(requests=len(requests), drop_waves=0),
        workload=SyntheticConfig(input_tokens=10, output_tokens=3),
        own=[OWN | own],
        delays_ns=np.array([10_000, 20_000]),
        time_source="kernel",
        prompts=Prompts(exact=True, how="by hand"),
        run={"scenario": "x", "repeat": 0, "status": "complete", "failure": None},
    )


def test_latencies_of_one_request() -> None:
    sample = sample_of([request(0, 100, [50, 10, 20])])
    expected = {"ttft": 50, "ttft_from_schedule": 52, "e2e_latency": 80, "tpot": 15, "inter_chunk_gap": 15, "itl": 15}
    for tag, p50 in expected.items():
        assert value(tag, sample)["p50"] == pytest.approx(p50), tag
    assert value("inter_chunk_gap", sample)["n"] == 2
    assert value("ttft", sample)["p90"] is None


def test_itl_shares_a_gap_among_its_tokens_where_they_are_known() -> None:
    sample = sample_of([request(0, 100, [50, 10, 20], tokens=5, token_counts=[1, 2, 2])])
    itl = value("itl", sample)
    assert (itl["n"], itl["mean"]) == (4, pytest.approx(7.5))
    assert value("inter_chunk_gap", sample)["mean"] == pytest.approx(15)


def test_itl_is_missing_where_tokens_of_events_are_not_known() -> None:
    sample = sample_of([request(0, 100, [50, 10, 20], tokens=5)])
    assert value("itl", sample)["n"] == 0
    assert value("itl", sample)["p50"] is None
    assert value("tpot", sample)["p50"] == pytest.approx(30 / 4)


def test_tpot_needs_two_tokens_and_usage() -> None:
    assert value("tpot", sample_of([request(0, 100, [50])]))["n"] == 0
    sample = sample_of([request(0, 100, [50, 10], tokens=None, output_tokens=None)])
    assert value("tpot", sample)["n"] == 0
    assert value("output_tokens_total", sample)["value"] is None


def test_throughput_counts_what_happened_in_the_window() -> None:
    # One user, ten requests of 100 ms each back to back, ten tokens each: 10 requests/s, 100 tokens/s.
    requests = [request(slot, 100 * slot, [9, *[10] * 9]) for slot in range(20)]
    sample = sample_of(requests, concurrency=1)
    assert sample.window.kind is WindowKind.steady
    assert value("request_throughput", sample)["value"] == pytest.approx(10, rel=0.01)
    assert value("output_throughput", sample)["value"] == pytest.approx(100, rel=0.01)
    assert value("input_throughput", sample)["value"] == pytest.approx(100, rel=0.06)
    total = value("total_throughput", sample)
    assert total["value"] == pytest.approx(200, rel=0.04)
    assert total["lo"] <= total["value"] <= total["hi"]


def test_first_waves_are_left_out_of_lock_step() -> None:
    # Four users in lock step: the first wave is three times slower. Waves of 100 ms, tokens at 50 and 99 ms.
    requests = [
        request(4 * wave + user, 100 * wave, [150 if wave == 0 else 50, 49]) for wave in range(5) for user in range(4)
    ]
    window = sample_of(requests, concurrency=4, drop_waves=2).window
    assert (window.dropped_waves, int(window.measured.sum())) == (2, 12)
    ttft = value("ttft", sample_of(requests, concurrency=4, drop_waves=1))
    assert ttft["mean"] == pytest.approx(50)
    everything = value("ttft", sample_of(requests, concurrency=4, drop_waves=0))
    assert everything["mean"] == pytest.approx(70)


def test_fewer_waves_are_dropped_when_there_are_few() -> None:
    requests = [request(4 * wave + user, 100 * wave, [50, 49]) for wave in range(3) for user in range(4)]
    assert sample_of(requests, concurrency=4, drop_waves=2).window.dropped_waves == 1
    single = sample_of(requests[:4], concurrency=4, drop_waves=2).window
    assert (single.kind, single.dropped_waves) == (WindowKind.whole, 0)


def test_warmup_is_in_no_metric() -> None:
    sample = sample_of([request(0, 0, [500]), request(1, 1000, [50]), request(2, 1100, [50])], warmup=1)
    assert value("ttft", sample)["mean"] == pytest.approx(50)
    assert value("output_tokens_total", sample)["value"] == 2


def test_failed_requests_are_only_in_the_error_rate() -> None:
    failed = request(1, 200, [5], status="error", error_kind="truncated", output_tokens=None)
    sample = sample_of([request(0, 100, [50]), failed, request(2, 300, [50])])
    assert value("ttft", sample)["mean"] == pytest.approx(50)
    assert value("error_rate", sample)["value"] == pytest.approx(1 / 3)


def test_token_sums_are_unknown_when_one_answer_does_not_say() -> None:
    requests = [request(0, 100, [50, 10, 10]), request(1, 200, [50, 10, 10])]
    nothing = {"prompt_tokens": 0, "cached_tokens": 0, "output_tokens": 0}
    assert summary_of(requests)["tokens"]["main"] == {"prompt_tokens": 20, "cached_tokens": 0, "output_tokens": 6}
    assert summary_of(requests)["tokens"]["warmup"] == nothing
    silent = [*requests, request(2, 300, [50, 10, 10], output_tokens=None)]
    assert summary_of(silent)["tokens"]["main"]["output_tokens"] is None


def test_nothing_succeeded() -> None:
    summary = summary_of([request(0, 100, [], status="error", error_kind="refused", sent_ns=None, output_tokens=None)])
    assert summary["errors"] == {"refused": 1}
    assert summary["window"]["kind"] == "empty"
    assert summary["metrics"]["ttft"]["p50"] is None
    assert summary["metrics"]["request_throughput"]["value"] is None
    assert summary["metrics"]["error_rate"]["value"] == 1.0


@pytest.mark.parametrize(
    ("own", "reason", "tag", "spared"),
    [
        ({"coalesced_reads": 5}, Reason.COALESCED_READS, "itl", "ttft"),
        ({"clock_stepped": True}, Reason.CLOCK_STEP, "ttft", "request_throughput"),
    ],
)
def test_own_error_becomes_a_reason(own: dict[str, Any], reason: Reason, tag: str, spared: str) -> None:
    summary = summary_of([request(slot, 100 * slot, [50, 10, 10]) for slot in range(20)], **own)
    assert reason.value in summary["validity"]
    assert reason.value in summary["metrics"][tag]["validity"]
    assert reason.value not in summary["metrics"][spared]["validity"]
    assert any(line.startswith(reason.value) for line in advice(summary))


@pytest.mark.parametrize(
    ("change", "reason", "tag"),
    [
        ({"cached_tokens": 5}, Reason.PREFIX_CACHED, "ttft"),
        ({"output_tokens": None}, Reason.NO_USAGE, "output_throughput"),
        ({"output_tokens": 2}, Reason.SHORT_OUTPUT, "e2e_latency"),
        ({"output_tokens": 7}, Reason.MULTI_TOKEN_EVENTS, "itl"),
    ],
)
def test_answers_become_reasons(change: dict[str, Any], reason: Reason, tag: str) -> None:
    plain = [request(slot, 100 * slot, [50, 10, 10]) for slot in range(20)]
    assert reason.value not in summary_of(plain)["metrics"][tag]["validity"]
    changed = [request(slot, 100 * slot, [50, 10, 10], **change) for slot in range(20)]
    assert reason.value in summary_of(changed)["metrics"][tag]["validity"]


def test_a_clean_run_is_valid() -> None:
    summary = summary_of(
        [request(slot, 100 * slot, [50 + slot % 3, 24, 24], scheduled_ns=100 * slot * MS - MS) for slot in range(40)]
    )
    assert summary["validity"] == []
    assert all(entry["validity"] == [] for entry in summary["metrics"].values())
    assert summary["own_error"]["schedule_slip_us"]["p50"] == pytest.approx(0)


def test_backlog_is_noticed_in_an_open_loop() -> None:
    scenario = ConstantConfig(rate_per_s=100, requests=200)
    growing = [request(slot, 10 * slot, [20 * (slot + 1) - 10 * slot, 1, 1]) for slot in range(200)]
    summary = summary_of(growing, scenario)
    assert Reason.BACKLOG_GROWING.value in summary["metrics"]["ttft"]["validity"]
    steady = [request(slot, 10 * slot, [50, 1, 1]) for slot in range(200)]
    assert Reason.BACKLOG_GROWING.value not in summary_of(steady, scenario)["validity"]


def test_percentiles_are_not_claimed_from_too_few() -> None:
    values = np.arange(1, 1001, dtype=np.float64)
    assert percentile(values[:0], 0.5) is None
    assert percentile(values[:1], 0.5) == 1
    for p, enough in ((0.9, 100), (0.95, 200), (0.99, 1000)):
        assert percentile(values[: enough - 1], p) is None
        assert percentile(values[:enough], p) == pytest.approx(np.quantile(values[:enough], p))


def test_batches_are_never_shorter_than_a_wave() -> None:
    assert [batch_count(100, wave) for wave in (1, 2, 10, 20, 21, 64)] == [20, 20, 10, 5, 0, 0]


def test_median_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(5)
    owner = np.arange(400)
    hits = 0
    for _ in range(300):
        interval = median_interval(generator.normal(10, 2, 400), owner, 4)
        assert interval is not None
        hits += interval[0] <= 10 <= interval[1]
    assert 0.90 <= hits / 300 <= 0.99


def test_rate_interval_of_a_steady_stream_is_narrow() -> None:
    times = np.arange(1, 10_001) * MS
    interval = rate_interval(times, np.ones(len(times)), 0, 10_000 * MS, 100 * MS)
    assert interval is not None
    assert list(interval) == pytest.approx([1000, 1000], rel=0.01)
    assert rate_interval(times, np.ones(len(times)), 0, 10_000 * MS, 5_000 * MS) is None


def test_share_interval_is_wilson() -> None:
    assert list(share_interval(0.0, 20) or ()) == pytest.approx([0.0, 0.1611], abs=1e-3)
    assert share_interval(0.5, 4) is None
