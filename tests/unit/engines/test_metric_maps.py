"""The maps hold every common name once, name only metrics that engines have, and are what the documentation says."""

from __future__ import annotations

import csv
import re

import pytest

from bench.engines.base import discover, engine_of
from bench.engines.llama_cpp import LlamaCppConfig
from bench.engines.metric_maps import LLAMA_CPP, SGLANG, TENSORRT_LLM, TGI, VLLM
from bench.engines.metrics import MetricMap, Over, Ratio, Scalar, Timing, Value
from bench.engines.xllamacpp import XllamacppConfig
from tests.support import CHECKOUT, test_data

MAPS = {"vLLM": VLLM, "llama.cpp": LLAMA_CPP, "SGLang": SGLANG, "TGI": TGI, "TensorRT-LLM": TENSORRT_LLM}


@pytest.mark.parametrize("kind", MAPS)
def test_every_common_name_is_measured_or_missing_with_a_reason(kind: str) -> None:
    metrics = MAPS[kind]
    for name in (*Scalar, *Timing):
        places = (name in metrics.scalars, name in metrics.timings, name in metrics.missing)
        assert sum(places) == 1, name
    assert all(metrics.missing.values())
    assert all(metrics.timings.values())
    assert all(metrics.scalars.values())


def names(metrics: MetricMap) -> set[str]:
    """Every metric a map may read."""
    found = {name for alternatives in metrics.timings.values() for name in alternatives}
    for alternatives in metrics.scalars.values():
        for entry in alternatives:
            parts = (entry.part, *entry.whole) if isinstance(entry, Ratio) else (entry,)
            found.update(name for part in parts for name in part.names)
    return found


def test_names_of_vllm_are_in_its_own_list() -> None:
    lines = test_data("flags/vllm_metric_families_v0.26.0.txt").read_text(encoding="utf-8").splitlines()
    known = {line.split()[0].removesuffix("_total") for line in lines if not line.startswith("#")}
    older = {
        *("vllm:gpu_cache_usage_perc", "vllm:gpu_prefix_cache_hits", "vllm:gpu_prefix_cache_queries"),
        "vllm:time_per_output_token_seconds",
    }
    assert names(VLLM) - known == older
    dashboards = test_data("flags/metric_names.tsv").read_text(encoding="utf-8")
    assert all(name in dashboards for name in older)


def test_names_of_sglang_are_in_its_own_list() -> None:
    with test_data("flags/sglang_metric_names_0.5.23.tsv").open(encoding="utf-8") as stream:
        known = {row["name"].removesuffix("_total") for row in csv.DictReader(stream, delimiter="\t")}
    assert names(SGLANG) <= known


def test_names_of_tgi_are_in_its_own_list() -> None:
    text = test_data("flags/tgi_metrics_reference.md").read_text(encoding="utf-8")
    assert {name.removesuffix("_sum") for name in names(TGI)} <= set(re.findall(r"`(tgi_\w+)`", text))


def test_histograms_of_tensorrt_llm_are_in_its_own_list() -> None:
    text = test_data("flags/trtllm_metric_names_1.3.0rc3.tsv").read_text(encoding="utf-8")
    assert {name for name in names(TENSORRT_LLM) if name.startswith("trtllm_")} <= set(
        re.findall(r"\btrtllm_\w+", text)
    )


def test_what_vllm_counts_otherwise_than_we_is_noted() -> None:
    assert "one value an output step" in VLLM.notes[Timing.ITL]
    assert "one token" in VLLM.notes[Timing.TPOT]


@pytest.mark.parametrize("config", [LlamaCppConfig(), XllamacppConfig()])
def test_engines_name_their_map(config: LlamaCppConfig | XllamacppConfig) -> None:
    discover()
    assert engine_of(config).metrics is LLAMA_CPP


def described(entry: Value | Ratio) -> str:
    if isinstance(entry, Ratio):
        return f"{described(entry.part)} ÷ {' + '.join(described(part) for part in entry.whole)}"
    words = " or ".join(f"`{name}`" for name in entry.names)
    return f"{words} (largest)" if entry.over is Over.MAX else words


def cell(metrics: MetricMap, name: Scalar | Timing) -> str:
    if name in metrics.missing:
        return f"— {metrics.missing[name]}"
    if isinstance(name, Timing):
        said = " or ".join(f"`{each}`" for each in metrics.timings[name])
    else:
        said = "; or ".join(described(entry) for entry in metrics.scalars[name])
    return f"{said}. {metrics.notes[name]}" if name in metrics.notes else said


def tables() -> str:
    """The tables of docs/metrics.md, one an engine."""
    parts = []
    for kind, metrics in MAPS.items():
        routes = " and ".join(f"`{source.path}` ({source.format.value})" for source in metrics.sources)
        rows = [f"| `{name.value}` | {cell(metrics, name)} |" for name in (*Scalar, *Timing)]
        parts.append("\n".join([f"### {kind}: {routes}", "", "| name | read from |", "| --- | --- |", *rows]))
    return "\n\n".join(parts)


def test_the_documentation_holds_these_tables() -> None:
    text = (CHECKOUT / "docs" / "metrics.md").read_text(encoding="utf-8")
    assert tables() in text, f"docs/metrics.md must hold:\n\n{tables()}"
