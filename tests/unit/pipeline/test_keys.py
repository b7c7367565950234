"""Keys are pinned: a change here makes every recorded result unreachable, so it must be meant."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import pytest

from bench.base.errors import UsageError
from bench.engines.llama_cpp import CacheType, FlashAttention, LlamaCppConfig
from bench.load.arrivals.config import TraceConfig
from bench.load.config import ClosedConfig, SyntheticConfig
from bench.load.workloads.config import JsonlConfig
from bench.pipeline.keys import cell_key, scenario_key, task_key
from bench.quality.config import PerplexityConfig

MACHINE = {"cpu": "Example 3000", "cores": 2, "memory_bytes": 1 << 34, "gpus": [], "kernel": "6.1"}


def cell(engine: LlamaCppConfig, *, repeat: int = 0, inherited: Mapping[str, str] | None = None) -> str:
    return cell_key(artefact="a1", engine=engine, engine_lock="l1", machine=MACHINE, repeat=repeat, inherited=inherited)


def test_cell_keys_are_golden() -> None:
    assert cell(LlamaCppConfig()) == cell(LlamaCppConfig(), inherited={}) == "ff3d5ba73272c111"


def test_scenario_keys_are_golden() -> None:
    assert scenario_key(ClosedConfig(), SyntheticConfig()) == "ca78d81bb4278989"


def test_task_keys_are_golden() -> None:
    made = task_key(PerplexityConfig(), text_digest="sha256:00", baseline=None, scorer_lock="l1")
    assert made == "4ba08ad5ffa236e8"


def test_what_changes_a_measurement_changes_its_key() -> None:
    base = cell(LlamaCppConfig())
    assert cell(LlamaCppConfig(threads=2)) != base
    assert cell(LlamaCppConfig(), repeat=1) != base
    assert cell(LlamaCppConfig(extra_args=["--mlock"])) != base
    assert cell(LlamaCppConfig(cache_type_k=CacheType.q8_0)) != base
    devices = [cell(LlamaCppConfig(), inherited={"CUDA_VISIBLE_DEVICES": number}) for number in ("", "0", "1")]
    assert len({base, *devices}) == 4
    assert cell(LlamaCppConfig(flash_attention=FlashAttention.on)) != base


def test_deadlines_and_paths_do_not() -> None:
    assert cell(LlamaCppConfig(start_timeout_s=1.0, stop_grace_s=9.0)) == cell(LlamaCppConfig())
    patient = dataclasses.replace(ClosedConfig(), connect_s=99.0, total_s=9999.0)
    assert scenario_key(patient, SyntheticConfig()) == scenario_key(ClosedConfig(), SyntheticConfig())
    one = task_key(PerplexityConfig(text="a.txt"), text_digest="sha256:00", baseline=None, scorer_lock="l")
    assert one == task_key(PerplexityConfig(text="b.txt"), text_digest="sha256:00", baseline=None, scorer_lock="l")


def test_what_is_in_a_workloads_file_is_part_of_the_key_and_where_it_lies_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUANTBENCH_CACHE", str(tmp_path / "cache"))

    def key(name: str, content: str) -> str:
        (tmp_path / name).write_text(content)
        return scenario_key(ClosedConfig(), JsonlConfig(path=str(tmp_path / name)))

    assert key("a", '{"prompt": "x"}') == key("b", '{"prompt": "x"}') != key("a", '{"prompt": "why"}')
    with pytest.raises(UsageError, match=r"scenario.path: .*gone cannot be read"):
        scenario_key(TraceConfig(path=str(tmp_path / "gone")), SyntheticConfig())
