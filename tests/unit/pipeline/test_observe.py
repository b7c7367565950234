"""What we counted is held against the server's own counters."""

from __future__ import annotations

import pytest

from bench.engines.base import ServerCounters
from bench.pipeline.load import cached_share, observe


def counters(prompt: int | None, generated: int | None) -> ServerCounters:
    return ServerCounters(prompt_tokens=prompt, generation_tokens=generated)


def test_equal_counts_are_valid() -> None:
    seen = observe(counters(10, 1), counters(110, 201), counted={"output_tokens": 200}, others_cores=0.01)
    assert seen["server"] == {"prompt_tokens": 100, "generation_tokens": 200}
    assert seen["validity"] == []


def test_one_token_of_difference_is_named() -> None:
    seen = observe(counters(0, 0), counters(0, 201), counted={"output_tokens": 200}, others_cores=None)
    assert seen["validity"] == ["token_mismatch"]


def test_a_busy_machine_is_named() -> None:
    seen = observe(None, None, counted={"output_tokens": 200}, others_cores=1.5)
    assert seen["validity"] == ["busy_machine"]
    assert seen["server"] == {"prompt_tokens": None, "generation_tokens": None}


def test_a_counter_the_server_lacks_is_missing_not_zero() -> None:
    seen = observe(counters(None, 0), counters(None, 5), counted={}, others_cores=0.0)
    assert seen["server"] == {"prompt_tokens": None, "generation_tokens": 5}
    assert seen["counted"]["output_tokens"] is None
    assert seen["validity"] == []


def test_prompts_answered_from_the_servers_cache_spoil_what_they_flatter() -> None:
    counted = {"prompt_tokens": 1000, "cached_tokens": None, "output_tokens": 5}
    seen = observe(counters(0, 0), counters(900, 5), counted=counted, others_cores=0.0)
    assert seen["cached_share"] == 0.1
    assert seen["spoiled"] == {
        "prefix_cached": ["input_throughput", "total_throughput", "ttfo", "ttft", "ttft_from_schedule"]
    }
    assert seen["validity"] == []
    much = observe(counters(0, 0), counters(300, 5), counted=counted, others_cores=0.0)["spoiled"]["prefix_cached"]
    assert {"output_throughput", "e2e_latency"} <= set(much)
    assert "itl" not in much


@pytest.mark.parametrize(
    ("counted", "processed", "share"),
    [
        ({"prompt_tokens": 1000, "cached_tokens": 200}, 1000, 0.2),  # a counter of all prompt tokens, as vLLM's
        ({"prompt_tokens": 1000, "cached_tokens": 0}, 1002, 0.0),
        ({"prompt_tokens": 1000}, None, None),
        ({"prompt_tokens": None, "cached_tokens": None}, 700, None),
    ],
)
def test_the_cached_share_is_what_answers_or_counters_show(
    counted: dict[str, int | None], processed: int | None, share: float | None
) -> None:
    assert cached_share(counted, processed) == share
