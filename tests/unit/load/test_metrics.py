"""Metrics on timelines made by hand: every formula, every bound, missing data missing."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from bench.base.validity import Reason
from bench.load.config import ClosedConfig, ConstantConfig, SyntheticConfig
from bench.load.metrics import METRICS
from bench.load.prompts import Prompts
from bench.load.rates import met
from bench.load.sample import Sample
from bench.load.slo import SloConfig
from bench.load.summary import advice, summarise
from bench.load.window import WindowKind, find_window
from tests.support import CHECKOUT
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


def summary_of(
    requests: Requests,
    scenario: Any = None,
    *,
    slo: SloConfig = SloConfig(),  # noqa: B008 - immutable
    output_tokens: int = 3,
    delay_ms: float = 0.01,
    time_source: str = "kernel",
    **own: Any,
) -> dict[str, Any]:
    table, events = tables(requests)
    return summarise(
        table,
        events,
        scenario=scenario or ClosedConfig(requests=len(requests), drop_waves=0),
        workload=SyntheticConfig(input_tokens=10, output_tokens=output_tokens),
        own=[OWN | own],
        delays_ns=np.full(100, int(delay_ms * MS)),
        time_source=time_source,
        prompts=Prompts(exact=True, how="by hand"),
        run={"scenario": "x", "repeat": 0, "status": "complete", "failure": None},
        slo=slo,
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
        ({"coalesced_reads": 5}, Reason.COALESCED_READS, "ttst", "tpot"),
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


def test_second_tokens_speed_and_the_view_from_the_schedule() -> None:
    sample = sample_of([request(0, 100, [50, 10, 30]), request(1, 300, [70]), request(2, 500, [50, 20, 20])])
    ttst = value("ttst", sample)
    assert (ttst["n"], ttst["mean"]) == (2, pytest.approx(15))
    assert value("tokens_per_s_user", sample)["mean"] == pytest.approx(50)
    late = sample_of([request(0, 100, [50, 10], scheduled_ns=40 * MS)])
    assert value("e2e_latency", late)["p50"] == pytest.approx(60)
    assert value("e2e_from_schedule", late)["p50"] == pytest.approx(120)


def test_the_first_token_of_an_answer_is_told_apart_only_where_there_is_reasoning() -> None:
    plain = summary_of([request(slot, 100 * slot, [50, 10, 10]) for slot in range(20)])
    assert "ttfo" not in plain["metrics"]
    thinking = [request(slot, 100 * slot, [50, 10, 10], first_answer_ns=(100 * slot + 60) * MS) for slot in range(19)]
    only_thought = request(19, 1900, [50, 10, 10], first_answer_ns=None)
    entry = summary_of([*thinking, only_thought])["metrics"]["ttfo"]
    assert (entry["n"], entry["p50"]) == (19, pytest.approx(60))


def test_a_p99_needs_a_thousand_requests_however_many_tokens_they_had() -> None:
    few = sample_of([request(slot, 100 * slot, [50, *[1.0] * 20]) for slot in range(100)])
    entry = value("inter_chunk_gap", few)
    assert (entry["n"], entry["requests"], entry["p99"]) == (2000, 100, None)
    assert entry["p95"] == pytest.approx(1)
    enough = sample_of([request(slot, 100 * slot, [50, 1.0]) for slot in range(1000)])
    assert value("inter_chunk_gap", enough)["p99"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("slo", "good"),
    [
        (SloConfig(ttft_ms=60), 3),
        (SloConfig(ttft_ms=60, tpot_ms=10), 2),
        (SloConfig(ttft_ms=60, itl_ms=10, tpot_ms=50), 2),
        (SloConfig(e2e_ms=75), 2),
        (SloConfig(tpot_ms=10), 3),
    ],
)
def test_goodput_counts_requests_within_every_bound(slo: SloConfig, good: int) -> None:
    requests = [
        request(0, 0, [50, 10, 10]),
        request(1, 1000, [50, 10, 20]),
        request(2, 2000, [90, 5, 5]),
        request(3, 3000, [60]),
        request(4, 4000, [50, 10, 10], status="error", error_kind="truncated"),
    ]
    table, _ = tables(requests)
    assert met(table, slo).sum() == good
    sample = dataclasses.replace(sample_of(requests), slo=slo)
    assert value("slo_attainment", sample)["value"] == pytest.approx(good / 5)
    assert value("goodput", sample)["value"] == pytest.approx(good / sample.window.seconds)


def test_an_objective_is_held_broken_or_unknown() -> None:
    requests = [request(slot, 100 * slot, [50 + slot % 3, 10, 10]) for slot in range(300)]
    held = summary_of(requests, slo=SloConfig(ttft_ms=55, itl_ms=11))
    assert held["slo"]["held"] is True
    assert [(bound["tag"], bound["held"]) for bound in held["slo"]["bounds"]] == [("ttft", True), ("itl", True)]
    assert held["metrics"]["goodput"]["value"] == pytest.approx(10, rel=0.05)
    assert summary_of(requests, slo=SloConfig(ttft_ms=51))["slo"]["held"] is False
    assert summary_of(requests, slo=SloConfig(ttft_ms=55, percentile=99))["slo"]["held"] is None
    failing = [
        *requests[:-6],
        *(request(slot, 100 * slot, [], status="error", error_kind="reset") for slot in range(294, 300)),
    ]
    broken = summary_of(failing, slo=SloConfig(ttft_ms=55))
    assert (broken["slo"]["held"], broken["slo"]["success"]) == (False, pytest.approx(0.98))
    assert broken["error_rates"]["reset"]["value"] == pytest.approx(0.02)
    none = summary_of(requests)
    assert none["slo"] is None
    assert "goodput" not in none["metrics"]


@pytest.mark.parametrize(("asked", "found"), [(3, "as_asked"), (4, "fewer"), (2, "more")])
def test_the_length_of_answers_is_checked(asked: int, found: str) -> None:
    requests = [request(slot, 100 * slot, [50, 10, 10]) for slot in range(20)]
    check = summary_of(requests, output_tokens=asked)["output_check"]
    assert check == {"as_asked": 0, "fewer": 0, "more": 0, "unknown": 0, found: 20}


def test_the_start_up_is_shown_apart() -> None:
    requests = [
        request(4 * wave + user, 200 * wave, [150 if wave == 0 else 50, 49]) for wave in range(5) for user in range(4)
    ]
    summary = summary_of(requests, ClosedConfig(concurrency=4, requests=20, drop_waves=1))
    assert summary["start_up"] == {"requests": 4, "ttft_p50_ms": pytest.approx(150), "ttft_max_ms": pytest.approx(150)}
    assert summary["metrics"]["ttft"]["mean"] == pytest.approx(50)


@pytest.mark.parametrize(
    ("delay_ms", "slip_ms", "source", "expected"),
    [
        (9, 1, "kernel", None),
        (11, 1, "kernel", (Reason.CLIENT_DELAY, "request_throughput", "ttft")),
        (11, 1, "user", (Reason.CLIENT_DELAY, "ttft", "error_rate")),
        (1, 4, "kernel", None),
        (1, 6, "kernel", (Reason.CLIENT_SLIP, "ttft", "error_rate")),
    ],
)
def test_what_the_client_does_late(
    delay_ms: float, slip_ms: float, source: str, expected: tuple[Reason, str, str] | None
) -> None:
    requests = [
        request(slot, 100 * slot, [50, 10, 10], taken_ns=int((100 * slot - 2 + slip_ms) * MS)) for slot in range(40)
    ]
    summary = summary_of(requests, ConstantConfig(rate_per_s=10, requests=40), delay_ms=delay_ms, time_source=source)
    late = {Reason.CLIENT_DELAY.value, Reason.CLIENT_SLIP.value} & set(summary["validity"])
    assert late == ({expected[0].value} if expected else set())
    if expected:
        reason, spoilt, spared = expected
        assert reason.value in summary["metrics"][spoilt]["validity"]
        assert reason.value not in summary["metrics"][spared]["validity"]


def test_a_load_that_was_not_delivered() -> None:
    def sent_at(slot: int, stretch: float) -> int:
        return int(100 * slot * stretch)

    for stretch, short in ((1.01, False), (1.05, True)):
        requests = [
            request(slot, sent_at(slot, stretch), [50, 10, 10], scheduled_ns=100 * slot * MS) for slot in range(40)
        ]
        summary = summary_of(requests, ConstantConfig(rate_per_s=10, requests=40))
        assert (Reason.UNDER_DELIVERED.value in summary["validity"]) is short


def test_many_errors_spoil_everything_and_few_do_not() -> None:
    for failures, spoiled in ((1, False), (3, True)):
        requests = [
            request(slot, 100 * slot, [50, 10, 10], status="error", error_kind="reset")
            if slot < failures
            else request(slot, 100 * slot, [50, 10, 10])
            for slot in range(200)
        ]
        summary = summary_of(requests)
        assert (Reason.ERRORS.value in summary["metrics"]["ttft"]["validity"]) is spoiled


def test_every_metric_is_declared_in_full() -> None:
    documented = (CHECKOUT / "docs" / "load.md").read_text(encoding="utf-8")
    for metric in METRICS.values():
        assert metric.formula
        assert sum(form is not None for form in (metric.spread, metric.stream, metric.count)) == 1
        assert f"`{metric.tag}`" in documented, metric.tag
