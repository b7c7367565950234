"""Loads in words, from what is recorded of them."""

from __future__ import annotations

import dataclasses

import pytest

from bench.analysis.loads import describe
from bench.load.arrivals.config import ClosedStagesConfig, GammaConfig, StagesConfig, SweepConfig, TraceConfig
from bench.load.config import ClosedConfig, LengthConfig, LengthKind, ScenarioConfig, SyntheticConfig, WorkloadConfig
from bench.load.workloads.config import JsonlConfig

STAGES = [{"rate_per_s": 1, "duration_s": 3}]
USERS = [{"concurrency": 2, "duration_s": 3}]
TEN = SyntheticConfig(input_tokens=10, output_tokens=5)
SPREAD = SyntheticConfig(
    input_tokens=10, output_tokens=5, turns=3, input_lengths=LengthConfig(distribution=LengthKind.normal)
)


@pytest.mark.parametrize(
    ("scenario", "workload", "words"),
    [
        (
            ClosedConfig(concurrency=4, requests=9),
            TEN,
            "closed loop, 4 concurrent streams, 9 requests, 10 tokens in, 5 out",
        ),
        (
            GammaConfig(rate_per_s=2, requests=9),
            SPREAD,
            "gamma arrivals, 2 requests/s asked, 9 requests, about 10 tokens in, 5 out, sessions of 3 turns",
        ),
        (StagesConfig(stages=STAGES), TEN, "arrivals in stages, 10 tokens in, 5 out"),
        (
            ClosedStagesConfig(stages=USERS),
            TEN,
            "closed loop in stages, 1000 requests, 10 tokens in, 5 out",
        ),
        (TraceConfig(path="t"), TEN, "a trace's arrivals, the trace's tokens in and out"),
        (TraceConfig(path="t", requests=7), JsonlConfig(path="p"), "a trace's arrivals, 7 requests"),
        (
            SweepConfig(),
            TEN,
            "the fastest rate of a sweep that was kept up with, 64 requests, 10 tokens in, 5 out",
        ),
    ],
)
def test_loads_in_words(scenario: ScenarioConfig, workload: WorkloadConfig, words: str) -> None:
    assert describe(dataclasses.asdict(scenario), dataclasses.asdict(workload)) == words
