"""The table of support: complete over schemes and engines, the one that engines answer by, and the one in the docs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.base.compose import compose, options
from bench.base.schema import registered
from bench.cli.engines import launch_modes, settings
from bench.engines.base import EngineConfig, SupportAnswer, engine_of
from bench.engines.container import ContainerConfig
from bench.engines.formats import FORMATS, Format, format_named, format_of_checkpoint, format_of_scheme
from bench.engines.llama_cpp import LlamaCppConfig
from bench.engines.llama_cpp_python import LlamaCppPythonConfig
from bench.engines.sglang import SglangConfig
from bench.engines.support_matrix import CPU, CUDA, ROWS, Entry, Evidence, entry, kinds, of_checkpoint
from bench.engines.tensorrt_llm import TensorRtLlmConfig
from bench.engines.tgi import TgiConfig
from bench.engines.transformers import TransformersConfig
from bench.engines.vllm import VllmConfig
from bench.engines.xllamacpp import XllamacppConfig
from bench.pipeline.schemas import register_all
from bench.plan.config import RunConfig
from bench.toolchains.config import Accelerator
from tests.support import CHECKOUT
from tests.unit.engines.flag_tables import RECORDED, read_table

CONFIGS: dict[tuple[str, Accelerator], EngineConfig] = {
    ("llama_cpp", CPU): LlamaCppConfig(),
    ("llama_cpp", CUDA): LlamaCppConfig(gpu_layers=-1),
    ("llama_cpp_python", CPU): LlamaCppPythonConfig(),
    ("llama_cpp_python", CUDA): LlamaCppPythonConfig(gpu_layers=4),
    ("xllamacpp", CPU): XllamacppConfig(),
    ("xllamacpp", CUDA): XllamacppConfig(gpu_layers=99),
    ("vllm", CPU): VllmConfig(),
    ("vllm", CUDA): VllmConfig(toolchain="vllm_cuda"),
    ("transformers", CPU): TransformersConfig(device="cpu"),
    ("transformers", CUDA): TransformersConfig(device="cuda:0"),
    ("sglang", CPU): SglangConfig(toolchain="vllm"),
    ("sglang", CUDA): SglangConfig(container=ContainerConfig(image="sglang:x", gpus="all")),
    ("tgi", CUDA): TgiConfig(),
    ("tensorrt_llm", CUDA): TensorRtLlmConfig(),
}
#: What they write depends on the model, or they write nothing.
OPEN_SCHEMES = {"own_baseline", "as_served", "prequantized"}
ORDER = [SupportAnswer.YES, SupportAnswer.UNVERIFIED, SupportAnswer.NO]


@pytest.fixture(autouse=True)
def _schemas() -> None:
    register_all()


def all_entries() -> list[tuple[str, Entry]]:
    return [
        (f"{kind} {accelerator} {name}", found)
        for (kind, accelerator), row in ROWS.items()
        for name, found in row.entries.items()
    ]


def test_every_scheme_writes_one_format_of_the_table() -> None:
    named = [scheme for known in FORMATS for scheme in known.schemes]
    assert sorted(named) == sorted(set(options("scheme")) - OPEN_SCHEMES)
    assert format_of_scheme("prequantized") is None


@pytest.mark.parametrize("scheme", sorted(scheme for known in FORMATS for scheme in known.schemes))
def test_a_format_is_what_its_schemes_say_they_write(scheme: str) -> None:
    config = compose("run", [f"scheme={scheme}"], RunConfig).scheme
    known = format_of_scheme(scheme)
    assert known is not None
    assert (config.format, config.packing, config.load_method) == (known.written_as, known.packing, known.load_method)


def test_every_format_can_be_tried() -> None:
    for known in FORMATS:
        assert known.tried
        assert {words.split()[0] for words in known.tried} <= set(known.schemes)


def test_rows_name_formats_and_engines_that_exist() -> None:
    names = {known.name for known in FORMATS}
    assert {name for row in ROWS.values() for name in row.entries} <= names
    assert set(kinds()) | {"openai"} == {kind for kind in registered("engine") if kind != "imaginary"}
    assert {(kind, accelerator) for kind in kinds() for accelerator in Accelerator} == set(ROWS)


@pytest.mark.parametrize(("name", "found"), all_entries(), ids=[name for name, _ in all_entries()])
def test_an_answer_has_a_reason_and_says_what_it_rests_on(name: str, found: Entry) -> None:
    assert found.reason or found.answer is SupportAnswer.YES
    assert bool(found.where) == (found.evidence is not Evidence.NONE)
    assert found.evidence is Evidence.RAN or found.answer is not SupportAnswer.YES
    assert bool(found.method) == (found.evidence is Evidence.LIST)
    if found.evidence is Evidence.RAN and found.where.startswith("tests/"):
        assert (CHECKOUT / found.where).is_file()


@pytest.mark.parametrize(("kind", "accelerator"), CONFIGS, ids=[f"{kind} {where}" for kind, where in CONFIGS])
def test_engines_answer_by_the_table(kind: str, accelerator: Accelerator) -> None:
    """Of formats that share a packing an engine answers the best: before a checkpoint is there they look the same."""
    config = CONFIGS[kind, accelerator]
    engine = engine_of(config)
    assert engine.accelerator(config) is accelerator
    for known in FORMATS:
        alike = [
            other
            for other in FORMATS
            if (other.written_as, other.packing, other.load_method)
            == (known.written_as, known.packing, known.load_method)
        ]
        told = [found.answer for other in alike if (found := entry(kind, accelerator, other)) is not None]
        answer = engine.serves(config, known.written_as, known.load_method, known.packing)
        assert answer.answer is min(told, key=ORDER.index), known.name
        assert answer.reason or answer.answer is SupportAnswer.YES


@pytest.mark.parametrize("kind", kinds())
def test_methods_of_loading_are_those_the_engine_has_words_for(kind: str) -> None:
    told = {
        known.load_method
        for known in FORMATS
        for accelerator in Accelerator
        if known.load_method
        and (found := entry(kind, accelerator, known)) is not None
        and found.answer is not SupportAnswer.NO
    }
    assert told == set(engine_of(registered("engine")[kind]()).load_methods)


def test_what_tgi_is_asked_for_is_in_its_list() -> None:
    (row,) = [row for row in read_table(RECORDED / "tgi_launcher.tsv") if row["flag"] == "--quantize"]
    listed = set(row["possible_values"].split(", "))
    asked = {found.method for found in ROWS["tgi", CUDA].entries.values() if found.evidence is Evidence.LIST}
    assert asked
    assert asked <= listed


def test_what_a_processor_must_have(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = format_named("fp8_block")
    for flags, answer in (({"avx2"}, SupportAnswer.NO), ({"amx_tile"}, SupportAnswer.UNVERIFIED)):
        monkeypatch.setattr("bench.engines.support_matrix.processor_flags", lambda flags=flags: flags)
        found = entry("vllm", CPU, blocks)
        assert found is not None
        assert found.answer is answer


def group(weights: dict[str, Any], inputs: dict[str, Any] | None, form: str = "") -> dict[str, Any]:
    return {
        "quant_method": "compressed-tensors",
        "format": form,
        "config_groups": {"group_0": {"weights": weights, "input_activations": inputs}},
    }


@pytest.mark.parametrize(
    ("declared", "name"),
    [
        (None, "unquantized"),
        ({"quant_method": "gptq", "bits": 4}, "gptq"),
        ({"quant_method": "awq", "bits": 4}, "awq"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes"),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp8_block"),
        ({"quant_method": "fp8"}, ""),
        (group({"num_bits": 8, "type": "float", "strategy": "channel"}, {"dynamic": True}), "fp8_dynamic"),
        (group({"num_bits": 8, "type": "float", "strategy": "tensor"}, {"dynamic": False}), "fp8_static"),
        (group({"num_bits": 8, "type": "float", "strategy": "block"}, {"dynamic": True}), "fp8_block"),
        (group({"num_bits": 8, "type": "int", "strategy": "channel"}, {"dynamic": True}), "int8"),
        (group({"num_bits": 4, "type": "int", "strategy": "group"}, None), "w4a16"),
        (group({"num_bits": 8, "type": "int", "strategy": "group"}, None), "w8a16"),
        (group({"num_bits": 3, "type": "int", "strategy": "group"}, None), ""),
        (group({"num_bits": 4, "type": "float"}, {"dynamic": "local"}, "nvfp4-pack-quantized"), "nvfp4"),
        (group({"num_bits": 8, "strategy": "channel"}, None), ""),
        ({"config_groups": {"a": {}, "b": {}}}, ""),
    ],
)
def test_a_checkpoint_tells_its_format(declared: dict[str, Any] | None, name: str, tmp_path: Path) -> None:
    config = {"model_type": "llama"} | ({} if declared is None else {"quantization_config": declared})
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert format_of_checkpoint(tmp_path) == name


def test_a_folder_that_does_not_tell_is_refused_by_nobody(tmp_path: Path) -> None:
    assert of_checkpoint("vllm", CPU, tmp_path) is None
    (tmp_path / "config.json").write_text("[1")
    assert of_checkpoint("vllm", CPU, tmp_path) is None


def cell(known: Format, kind: str, accelerator: Accelerator) -> str:
    row = ROWS[kind, accelerator]
    found = row.entries.get(known.name)
    if found is None:
        return "no"
    return f"{found.answer}, or no" if found.processor else str(found.answer)


def table(columns: list[str], rows: list[list[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def support_tables() -> str:
    """The tables of docs/engines.md, and why of what is more than the wrong kind of file."""
    parts = []
    for accelerator in Accelerator:
        served = [kind for kind in kinds() if ROWS[kind, accelerator].entries]
        rows = [
            [f"`{known.name}`", known.words, *(cell(known, kind, accelerator) for kind in served)] for known in FORMATS
        ]
        lines = [f"### On {accelerator}", "", table(["format", "what it is", *served], rows), ""]
        for kind in served:
            why: dict[tuple[str, str], list[str]] = {}
            for name, found in ROWS[kind, accelerator].entries.items():
                rests = "" if found.evidence is Evidence.NONE else f" ({found.evidence}: `{found.where}`)"
                text = "; ".join(word for word in (found.reason, found.without) if word)
                why.setdefault((text, rests), []).append(f"`{name}`")
            lines += [
                f"- **{kind}** {', '.join(names)}: {text or 'yes'}{rests}" for (text, rests), names in why.items()
            ]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def settings_table() -> str:
    """Common settings down, engines across."""
    told = {kind: dict(settings(engine_of(registered("engine")[kind]()))) for kind in kinds()}
    rows = [
        [f"`{name}`", *(value if value in ("-", "yes") else f"`{value}`" for value in values)]
        for name in told["vllm"]
        for values in [["-" if of_kind[name] == "refused" else of_kind[name] for of_kind in told.values()]]
    ]
    return table(["setting", *told], rows)


def launch_table() -> str:
    modes = ("toolchain", "executable", "container", "attach")
    rows = []
    for kind in (*kinds(), "openai"):
        found = dict(launch_modes(engine_of(registered("engine")[kind]())))
        rows.append([f"`{kind}`", *("yes" if mode in found else "-" for mode in modes)])
    return table(["engine", *modes], rows)


@pytest.mark.parametrize("made", [launch_table, settings_table, support_tables])
def test_the_documentation_holds_these_tables(made: Any) -> None:
    text = (CHECKOUT / "docs" / "engines.md").read_text(encoding="utf-8")
    assert made() in text, f"docs/engines.md must hold:\n\n{made()}"
