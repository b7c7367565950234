"""What we counted is held against the server's own counters."""

from __future__ import annotations

from bench.engines.base import ServerCounters
from bench.pipeline.load import observe


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
