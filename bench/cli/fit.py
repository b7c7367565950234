"""`quantbench fit`, and the same columns of a dry run."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bench.base.compose import compose, parse_overrides
from bench.base.errors import UsageError
from bench.base.paths import cache_dir

if TYPE_CHECKING:
    from bench.plan.fit import CellFit, Need
    from bench.plan.plan import Plan
    from bench.telemetry.hardware import Hardware

_GROUP = "hardware"
_GIB, _MIB = 1 << 30, 1 << 20

FIT_COLUMNS = ("output", "quantizing", "serving = weights + KV + overhead", "available", "verdict", "supported")


def hardware_overrides(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split overrides: those of `hardware`, and those of the cells; raises UsageError for a list of hardware."""
    own = [override for override in overrides if override.split("=", 1)[0].split(".")[0] == _GROUP]
    for override, parsed in zip(own, parse_overrides(own), strict=True):
        if parsed.is_sweep_override():
            raise UsageError(f"'{override}' lists several; name one hardware at a time")
    return own, [override for override in overrides if override not in own]


def fit(arguments: argparse.Namespace) -> int:
    """`quantbench fit`: what each cell needs, against the hardware."""
    from bench.cli.commands import plan_of, prepare
    from bench.plan.fit import FitConfig
    from bench.telemetry.hardware import hardware_of

    for_hardware, for_cells = hardware_overrides(arguments.overrides)
    display = prepare(arguments)
    hardware = hardware_of(compose("fit", for_hardware, FitConfig).hardware)
    plan = plan_of(arguments, for_cells)
    fits = _fits(plan, hardware, ask_hub=True, strict=True)
    display.result(hardware_line(hardware), **vars(hardware))
    rows = [(cell.label, *fit_row(cell)) for cell in fits]
    display.table("fit", ("cell", *FIT_COLUMNS), rows, records=[fit_record(cell) for cell in fits])
    for line in remarks(fits):
        display.result(line, note=line)
    return 0


def planned_fits(plan: Plan, *, served: bool) -> list[CellFit]:
    """What a dry run shows: against this machine, from what is on it; the network is not asked."""
    from bench.telemetry.hardware import HardwareConfig, hardware_of

    return _fits(
        plan,
        hardware_of(HardwareConfig(name="this machine", detected=True)),
        ask_hub=False,
        strict=False,
        served=served,
    )


def _fits(plan: Plan, hardware: Hardware, **options: bool) -> list[CellFit]:
    from bench.plan.fit import fit_cells

    return fit_cells(plan.cells, hardware, cache=cache_dir(), **options)


def hardware_line(hardware: Hardware) -> str:
    """The hardware in one line."""
    parts = []
    if hardware.gpus:
        capability = hardware.compute_capability
        told = "compute capability unknown" if capability is None else f"compute capability {capability}"
        parts.append(f"{hardware.gpus} × GPU with {size(hardware.gpu_bytes)}, {told}")
    parts.append(f"main memory {size(hardware.main_bytes)}")
    return f"{hardware.name}: {'; '.join(parts)}"


def fit_row(cell: CellFit) -> tuple[str, ...]:
    """The values of `FIT_COLUMNS`; «-» is not known."""
    found, serving, deciding = cell.estimate, cell.serving, cell.deciding
    parts = "-"
    if serving is not None:
        parts = f"{size(serving.total)} = {size(serving.weights)} + {size(serving.cache)} + {size(serving.overhead)}"
    return (
        "-" if found is None else size(found.output_bytes),
        "-" if found is None else size(found.quantizing_bytes),
        parts,
        "-" if deciding is None else size(deciding.there),
        _verdict(cell),
        f"{cell.support.answer}: {cell.support.reason}" if cell.support.reason else str(cell.support.answer),
    )


def _verdict(cell: CellFit) -> str:
    """With what decided, or why nobody knows."""
    deciding = cell.deciding
    if cell.unknown:
        return f"{cell.verdict}: {cell.unknown}"
    if deciding is None or deciding.needed is None or deciding.there is None:
        return str(cell.verdict)
    return f"{cell.verdict} ({deciding.what} {size(deciding.needed)})"


def remarks(fits: Sequence[CellFit]) -> list[str]:
    """What figures leave out, each once; named are the cells where it is not said of all."""
    lines: dict[str, list[str]] = {}
    for cell in fits:
        for text in cell.notes:
            lines.setdefault(text, []).append(cell.label)
    return [text if len(labels) == len(fits) else f"{text} ({', '.join(labels)})" for text, labels in lines.items()]


def fit_record(cell: CellFit) -> dict[str, Any]:
    """One cell for machines: bytes, null where something is not known."""
    found, serving, deciding = cell.estimate, cell.serving, cell.deciding
    return {
        "cell": cell.label,
        "output_bytes": None if found is None else found.output_bytes,
        "quantizing_bytes": None if found is None else found.quantizing_bytes,
        "serving_bytes": None if serving is None else serving.total,
        "weight_bytes": None if serving is None else serving.weights,
        "cache_bytes": None if serving is None else serving.cache,
        "overhead_bytes": None if serving is None else serving.overhead,
        "verdict": str(cell.verdict),
        "decided_by": None if deciding is None else _need(deciding),
        "needs": [_need(need) for need in cell.needs],
        "unknown": cell.unknown or None,
        "supported": str(cell.support.answer),
        "support_reason": cell.support.reason or None,
        "notes": list(cell.notes),
    }


def _need(need: Need) -> dict[str, Any]:
    return {
        "what": need.what,
        "needed_bytes": need.needed,
        "available_bytes": need.there,
        "verdict": str(need.verdict),
    }


def size(count: int | None) -> str:
    """Bytes for people: MiB below one GiB."""
    if count is None:
        return "-"
    return f"{count / _GIB:.1f} GiB" if count >= _GIB else f"{count / _MIB:.0f} MiB"
