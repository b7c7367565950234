"""What a killed run asked is read back as it was."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.load.arrivals.config import StagesConfig, TraceConfig, TraceFormat
from bench.load.config import (
    Api,
    ClosedConfig,
    LengthConfig,
    LengthKind,
    PoissonConfig,
    ScenarioConfig,
    SyntheticConfig,
    TimeSource,
)
from bench.load.prompts import Prompts
from bench.load.record import Asked, read_asked, salvage, write_asked

#: Strings that mean something to a configuration's grammar, and nothing here.
EXTRA = {"stop": ["${oc.env:HOME}", "???", "a\nb"], "nested": {"cache_prompt": False, "n": None}}


@pytest.mark.parametrize(
    "scenario",
    [
        ClosedConfig(concurrency=3, duration_s=1.5, time_source=TimeSource.kernel),
        PoissonConfig(rate_per_s=0.5, keep_raw=True),
        StagesConfig(stages=[{"rate_per_s": 1, "to_rate_per_s": 2.5, "duration_s": 3}]),
        TraceConfig(path="t.jsonl", format=TraceFormat.mooncake),
    ],
)
def test_a_round_trip_changes_nothing(tmp_path: Path, scenario: ScenarioConfig) -> None:
    asked = Asked(
        name="c3",
        repeat=1,
        scenario=scenario,
        workload=SyntheticConfig(
            api=Api.chat, extra=EXTRA, input_lengths=LengthConfig(distribution=LengthKind.uniform, maximum=9)
        ),
        url="http://127.0.0.1:1",
        model="m",
        kernel_stamps=True,
        prompts=Prompts(exact=True, how="the endpoint's tokenize route"),
        started="2026-11-25T00:00:00Z",
        context={"cell": "x"},
    )
    write_asked(asked, tmp_path)
    assert read_asked(tmp_path) == asked


def test_a_folder_without_recordings_is_no_killed_run(tmp_path: Path) -> None:
    assert salvage(tmp_path) is None
    (tmp_path / "raw").mkdir()
    assert salvage(tmp_path) is None
