"""`quantbench recommend`: the report's answer on the terminal, or what is usual where nothing was measured."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bench.base.compose import compose, parse_overrides
from bench.base.errors import UsageError

if TYPE_CHECKING:
    from bench.analysis.config import ReportConfig
    from bench.analysis.recommend import Answer
    from bench.cli.show import Display
    from bench.plan.fit import CellFit
    from bench.telemetry.hardware import Hardware

_GIB = 1 << 30
_LISTED = 20
_CELL_GROUPS = ("model", "engine", "base")
_ENGINE_OF = {"gguf_q4_k_m": ("llama_cpp", "llama_cpp_gpu"), "load_eetq": ("tgi", "tgi")}
"""Schemes that vLLM does not serve → the engine without, and with GPUs."""
_LADDER = ("fp16", "fp8", "load_eetq", "int8", "awq", "gptq", "gguf_q4_k_m")
"""Schemes of the rules of thumb, the largest first."""


def split_arguments(words: Sequence[str]) -> tuple[list[Path], list[str]]:
    """Run folders, and overrides."""
    return [Path(word) for word in words if "=" not in word], [word for word in words if "=" in word]


def recommend(arguments: argparse.Namespace) -> int:
    """`quantbench recommend`: from recorded runs, from hardware and a model alone, or from both."""
    from bench.analysis.settings import report_config
    from bench.cli.commands import prepare

    directories, overrides = split_arguments(arguments.arguments)
    groups = [override.split("=", 1)[0].split(".")[0] for override in overrides]
    for_hardware = [each for each, group in zip(overrides, groups, strict=True) if group == "hardware"]
    for_cells = [each for each, group in zip(overrides, groups, strict=True) if group in _CELL_GROUPS]
    for_report = [each for each in overrides if each not in for_hardware and each not in for_cells]
    if not directories and not for_hardware:
        raise UsageError("recommend: name a run folder, such as results/quickstart, or hardware=NAME, or both")
    for override, parsed in zip(for_hardware, parse_overrides(for_hardware), strict=True):
        if parsed.is_sweep_override():
            raise UsageError(f"'{override}' lists several; name one hardware at a time")
    if for_cells and not for_hardware:
        raise UsageError(f"recommend: '{for_cells[0]}' tells what is to fit; name hardware=NAME too")
    display = prepare(arguments)
    config = report_config(directories, for_report)
    hardware = _hardware(for_hardware) if for_hardware else None
    if directories:
        _from_runs(directories, config, hardware, display)
    if hardware is not None:
        _usual(hardware, for_cells, config, display)
    return 0


def _from_runs(directories: Sequence[Path], config: ReportConfig, hardware: Hardware | None, display: Display) -> None:
    from bench.analysis.candidates import analyse
    from bench.analysis.load import load_results
    from bench.analysis.recommend import recommend as answer_of
    from bench.report.clean import one_line

    room = None if hardware is None else hardware.gpu_bytes or hardware.main_bytes
    if room is not None and config.constraints.memory_gib is None:
        limits = dataclasses.replace(config.constraints, memory_gib=room / _GIB)
        config = dataclasses.replace(config, constraints=limits)
    answer = answer_of(analyse(load_results(directories), config))
    for line, fields in answer_lines(answer):
        indent = line[: len(line) - len(line.lstrip())]
        display.result(f"{indent}{one_line(line)}", **fields)


def answer_lines(answer: Answer) -> list[tuple[str, dict[str, object]]]:
    """The answer's sentences, each with what it is for machines."""
    choice = answer.choice.cell.label if answer.choice is not None else None
    lines: list[tuple[str, dict[str, object]]] = [
        (answer.headline, {"headline": answer.headline, "certainty": answer.certainty.value, "choice": choice})
    ]
    for shown, name, told in (
        ("costs", "costs", answer.costs),
        ("loses", "loses", answer.loses),
        ("how sure", "sure", answer.sure),
    ):
        if told:
            lines.append((f"  {shown}: {told}", {name: told}))
    for shown, name, sentences in (
        ("why", "why", answer.why),
        ("constraint", "put_aside", answer.put_aside),
        ("bear in mind", "caveats", answer.caveats),
    ):
        lines += [(f"  {shown}: {told}", {name: told}) for told in sentences[:_LISTED]]
        if len(sentences) > _LISTED:
            more = len(sentences) - _LISTED
            lines.append((f"  {shown}: {more} more, in the report", {f"{name}_more": more}))
    if answer.prior is not None:
        lines.append((f"  usual here: {answer.prior.said}", {"prior": answer.prior.said}))
    if answer.disagreement:
        lines.append((f"  against that: {answer.disagreement}", {"disagreement": answer.disagreement}))
    return lines


def _hardware(overrides: Sequence[str]) -> Hardware:
    from bench.plan.fit import FitConfig
    from bench.telemetry.hardware import detected_gpus, hardware_of

    config = compose("fit", overrides, FitConfig).hardware
    hardware = hardware_of(config)
    found = detected_gpus() if config.detected else ()
    return dataclasses.replace(hardware, name=found[0].name) if found else hardware


def _usual(hardware: Hardware, for_cells: Sequence[str], config: ReportConfig, display: Display) -> None:
    """The rule of thumb for the hardware; with a model, which of the usual schemes fit it, the first that does."""
    from bench.analysis.config import Priority
    from bench.analysis.prior import prior_of
    from bench.cli.fit import hardware_line

    memory = None if not hardware.gpus else (hardware.gpu_bytes or 0) / _GIB
    name = hardware.name if hardware.gpus else ""
    prior = prior_of(name, memory, quality_first=config.priority is Priority.quality)
    display.result(hardware_line(hardware), **vars(hardware))
    display.result(f"usual there: {prior.said}", usual=list(prior.families), because=prior.because)
    if not any(override.split("=", 1)[0].split(".")[0] == "model" for override in for_cells):
        display.note("name a model (model=hub model.repo=ORG/NAME, model=local model.path=…) to see what fits")
        return
    fits = {scheme: _fit(scheme, for_cells, hardware) for scheme in _LADDER}
    _show_fits(fits, prior.presets, display)


def _fit(scheme: str, for_cells: Sequence[str], hardware: Hardware) -> CellFit:
    from bench.base.paths import cache_dir
    from bench.plan.fit import fit_cells
    from bench.plan.plan import plan

    engine = _ENGINE_OF.get(scheme, ("vllm_cpu", "vllm_gpu"))[bool(hardware.gpus)]
    own = any(override.split("=", 1)[0] == "engine" for override in for_cells)
    made = plan([f"scheme={scheme}", *([] if own else [f"engine={engine}"]), *for_cells])
    return fit_cells(made.cells, hardware, cache=cache_dir(), ask_hub=True)[0]


def _show_fits(fits: dict[str, CellFit], usual: Sequence[str], display: Display) -> None:
    from bench.cli.fit import FIT_COLUMNS, fit_record, fit_row
    from bench.engines.base import SupportAnswer
    from bench.plan.fit import Verdict

    rows = [(scheme, *fit_row(cell)) for scheme, cell in fits.items()]
    records = [{"scheme": scheme, **fit_record(cell)} for scheme, cell in fits.items()]
    display.table("fit", ("scheme", *FIT_COLUMNS), rows, records=records)
    may = [
        scheme
        for scheme, cell in fits.items()
        if cell.verdict in {Verdict.FITS, Verdict.TIGHT} and cell.support.answer is not SupportAnswer.NO
    ]
    chosen = next((scheme for scheme in usual if scheme in may), None)
    if chosen is not None:
        told = f"try scheme={chosen} first: it is usual there and fits; nothing of this was measured"
    elif may:
        chosen = may[0]
        told = f"what is usual there does not fit or is not supported; scheme={chosen} is the largest that may"
    else:
        told = "none of the usual schemes is known to fit: a smaller model, more memory, or see the table's reasons"
    display.result(told, scheme=chosen)
