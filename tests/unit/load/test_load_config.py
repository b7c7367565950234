"""The command line of `quantbench load` composes; mistakes are named."""

from __future__ import annotations

import re

import pytest

import bench.load.workloads.config  # noqa: F401 - registers its kinds
from bench.base.compose import compose
from bench.base.errors import UsageError
from bench.base.schema import identity
from bench.load.arrivals.config import StagesConfig
from bench.load.config import (
    Api,
    ClosedConfig,
    LengthKind,
    LoadRunConfig,
    PoissonConfig,
    SyntheticConfig,
    TimeSource,
)

ENDPOINT = ["endpoint.url=http://127.0.0.1:8000", "endpoint.model=NAME", "out=DIR"]


def test_documented_command_composes() -> None:
    config = compose(
        "load",
        [
            *ENDPOINT,
            "scenario=closed",
            "scenario.concurrency=64",
            "scenario.requests=192",
            "workload.input_tokens=32",
            "workload.output_tokens=128",
        ],
        LoadRunConfig,
    )
    assert isinstance(config.scenario, ClosedConfig)
    assert (config.scenario.concurrency, config.scenario.requests) == (64, 192)
    assert isinstance(config.workload, SyntheticConfig)
    assert (config.workload.input_tokens, config.workload.output_tokens) == (32, 128)
    assert (config.endpoint.url, config.out) == ("http://127.0.0.1:8000", "DIR")


def test_open_loop_and_enums_compose() -> None:
    overrides = ["scenario=poisson", "scenario.rate_per_s=12.5", "scenario.time_source=user", "workload.api=chat"]
    config = compose("load", [*ENDPOINT, *overrides, "+workload.extra.cache_prompt=false"], LoadRunConfig)
    assert isinstance(config.scenario, PoissonConfig)
    assert config.scenario.rate_per_s == 12.5
    assert config.scenario.time_source is TimeSource.user
    assert config.workload.api is Api.chat
    assert config.workload.extra == {"cache_prompt": False}


def test_stages_and_lengths_compose() -> None:
    overrides = ["scenario=stages", "scenario.stages=[{rate_per_s: 2, to_rate_per_s: 8, duration_s: 30}]"]
    overrides += ["workload.input_lengths.distribution=normal", "workload.input_lengths.deviation=5"]
    config = compose("load", [*ENDPOINT, *overrides], LoadRunConfig)
    assert isinstance(config.scenario, StagesConfig)
    assert [(stage.level, stage.to_level, stage.duration_s) for stage in config.scenario.read()] == [(2.0, 8.0, 30.0)]
    assert isinstance(config.workload, SyntheticConfig)
    assert config.workload.input_lengths.distribution is LengthKind.normal


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("scenario=gamma scenario.burstiness=0", "burstiness is 0.0; it must be greater than 0"),
        (
            "scenario=stages scenario.stages=[{rate: 1, duration_s: 2}]",
            r"stages\[0\] is .*; give rate_per_s, duration_s",
        ),
        ("scenario=trace", "missing: scenario.path"),
        ("scenario=trace scenario.path=x scenario.format=asure", "did you mean 'azure'"),
        ("scenario.cooldown=-1", "cooldown is -1"),
        ("scenario.cooldown=64", "cooldown is 64; it must be less than requests, 64"),
        ("workload.system=x", "system needs api=chat"),
        ("workload.input_lengths.distribution=uniform", "uniform lengths need a maximum"),
        ("workload.prefix_groups=2", "prefix_groups and prefix_tokens go together"),
        ("workload=jsonl", "missing: workload.path"),
        ("scenario.concurency=3", "did you mean 'concurrency'"),
        ("scenario=poison", "did you mean 'poisson'"),
        ("workload.api=chats", "did you mean 'chat'"),
        ("scenario.concurrency=0", "concurrency is 0; it must be at least 1"),
        ("scenario.stall_s=0", "stall_s is 0"),
        ("workload.output_tokens=0", "output_tokens is 0"),
    ],
)
def test_mistakes_are_named(override: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        compose("load", [*ENDPOINT, *re.split(r" (?=scenario)", override)], LoadRunConfig)


def test_deadlines_and_key_names_never_enter_a_key() -> None:
    assert identity(ClosedConfig(total_s=1.0, keep_raw=True)) == identity(ClosedConfig(total_s=2.0))
    assert identity(ClosedConfig(concurrency=2)) != identity(ClosedConfig(concurrency=3))
