"""The report's account of what is not a number: validity, failures, how variants were made, provenance."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.analysis import formatting as fmt
from bench.analysis.candidates import Analysis
from bench.analysis.readings import PARTIAL, advice
from bench.analysis.results import Cell, Failure, Measurement, mapping, number, sequence, text, texts
from bench.report.clean import tail
from bench.report.redact import redact, shown_command

PLACES = 12
CONFIGS = 60
"""Full configs are printed for up to this many cells; beyond, they are in the cells' own files."""


@dataclass(frozen=True, kw_only=True)
class Doubt:
    """A validity reason, what to do about it, and where it applies (cut after some; `more` counts the rest)."""

    code: str
    advice: str
    places: tuple[str, ...]
    more: int


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A failure, with every cell it struck in the same way."""

    labels: tuple[str, ...]
    failure: Failure
    log_tail: str


@dataclass(frozen=True, kw_only=True)
class Unsupported:
    """A reason why cells could not be tried, with their labels."""

    reason: str
    labels: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Artefact:
    """How a variant was made. `tensors` rows: type, tensors, parameters, MB."""

    label: str
    key: str
    format: str
    warnings: tuple[str, ...]
    tensors: tuple[tuple[str, str, str, str], ...]
    command: str
    facts: tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class CellRecord:
    """Provenance of one cell."""

    label: str
    key: str
    id: str
    engine: str
    command: str
    facts: tuple[tuple[str, str], ...]
    config: str


def doubts(analysis: Analysis) -> list[Doubt]:
    """Every reason why a number is greyed, with where; reasons given for a whole cell or measurement included."""
    found: dict[str, dict[str, None]] = {}

    def note(code: str, place: str) -> None:
        found.setdefault(code, {})[place] = None

    for cell in analysis.results.cells:
        for code in cell.validity:
            note(code, f"{cell.label}: the whole cell")
        for child in (*cell.scenarios.values(), *cell.tasks.values()):
            by_code: dict[str, list[str]] = {}
            for metric in (*child.metrics.values(), *child.server.values()):
                for code in metric.validity:
                    by_code.setdefault(code, []).append(metric.tag)
            for code in child.validity:
                by_code.setdefault(code, [])
            if child.status == PARTIAL:
                by_code[PARTIAL] = []
            for code, tags in by_code.items():
                what = _what(tags, child)
                note(code, f"{cell.label}, {child.name}: {what}")
    return [
        Doubt(code=code, advice=advice(code), places=tuple(places)[:PLACES], more=max(0, len(places) - PLACES))
        for code, places in found.items()
    ]


def _what(tags: list[str], child: Measurement) -> str:
    if not tags:
        return "incomplete" if child.status == PARTIAL else "noted, without a number it spoils"
    return "every number" if set(child.metrics) <= set(tags) else fmt.listing(tags, 5)


def faults(analysis: Analysis) -> list[Fault]:
    """Failures of cells, scenarios and tasks; those that read the same are one entry."""
    grouped: dict[tuple[str, str, str, str], list[str]] = {}
    kept: dict[tuple[str, str, str, str], Failure] = {}
    for label, failure in _failures(analysis.results.cells):
        key = (failure.stage, failure.kind, failure.message, failure.log_tail)
        grouped.setdefault(key, []).append(label)
        kept[key] = failure
    limit = 4_000 if len(grouped) <= 40 else 800
    return [
        Fault(labels=tuple(labels), failure=kept[key], log_tail=tail(kept[key].log_tail, limit))
        for key, labels in grouped.items()
    ]


def _failures(cells: Iterable[Cell]) -> Iterable[tuple[str, Failure]]:
    for cell in cells:
        if cell.failure is not None:
            yield cell.label, cell.failure
        elif cell.status in {"failed", "interrupted"}:
            yield cell.label, Failure(stage="unknown stage", kind=cell.status, message="no reason was recorded")
        for child in (*cell.scenarios.values(), *cell.tasks.values()):
            if child.failure is not None:
                yield f"{cell.label}, {child.name}", child.failure


def unsupported(analysis: Analysis) -> list[Unsupported]:
    """Cells that could not be tried, by reason; cells that were planned and not reached are here too."""
    grouped: dict[str, list[str]] = {}
    for cell in analysis.results.cells:
        if cell.status == "unsupported":
            grouped.setdefault(cell.unsupported_reason or "no reason was recorded", []).append(cell.label)
        elif cell.status == "missing":
            grouped.setdefault("planned, not run", []).append(cell.label)
        elif cell.status == "running":
            grouped.setdefault("still running, or its harness was killed", []).append(cell.label)
    return [Unsupported(reason=reason, labels=tuple(labels)) for reason, labels in grouped.items()]


def artefacts(analysis: Analysis) -> list[Artefact]:
    """Every variant once, by its key."""
    made: dict[str, Artefact] = {}
    for cell in analysis.results.cells:
        variant = cell.variant
        key = text(variant.get("key")) or cell.key
        if not variant or key in made:
            continue
        made[key] = Artefact(
            label=cell.variant_label,
            key=key,
            format=text(variant.get("format")) or "",
            warnings=texts(variant.get("warnings")),
            tensors=tuple(_tensors(variant)),
            command=command_line(variant.get("command")),
            facts=tuple(_variant_facts(variant)),
        )
    return list(made.values())


def _tensors(variant: Mapping[str, Any]) -> Iterable[tuple[str, str, str, str]]:
    for entry in sequence(variant.get("tensor_types")):
        row = mapping(entry)
        size = number(row.get("size_bytes"))
        yield (
            text(row.get("type")) or "?",
            _count(row.get("tensors")),
            _count(row.get("parameters")),
            fmt.megabytes(size) if size is not None else "—",
        )


def _variant_facts(variant: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    yield from _present(
        ("parameters", _count(variant.get("parameters"))),
        ("packing", text(variant.get("packing"))),
        ("quantized layers", _count(variant.get("quantized_layers")) if variant.get("quantized_layers") else None),
        ("left as they are", _some(texts(variant.get("skipped_layers")))),
        ("group size", _count(variant.get("group_size")) if variant.get("group_size") else None),
        ("calibration", _calibration(mapping(variant.get("calibration")))),
        ("time to make", _with_unit(variant.get("wall_s"), "s")),
        ("processor time", _with_unit(variant.get("cpu_s"), "s")),
        ("peak memory", _bytes(variant.get("peak_rss_bytes"))),
        ("toolchain", _toolchain_name(variant.get("toolchain"))),
        ("made", text(variant.get("created"))),
    )


def _some(names: Sequence[str], most: int = 8) -> str | None:
    """The first names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(names[:most])}{more}" if names else None


def _calibration(record: Mapping[str, Any]) -> str | None:
    """The calibration set in a line: its name, how much of it was used, its digest."""
    counts = (("windows", "windows"), ("samples", "samples"), ("chunks", "chunks"), ("tokens", "tokens"))
    used = [f"{_count(record.get(key))} {unit}" for key, unit in counts if number(record.get(key)) is not None]
    said = [text(record.get("name")) or text(record.get("text")), *used, text(record.get("digest"))]
    return ", ".join(word for word in said if word) or None


def models(analysis: Analysis) -> list[tuple[tuple[str, str], ...]]:
    """Every model once: name, licence, origin notes, digest."""
    seen: dict[tuple[tuple[str, str], ...], None] = {}
    for cell in analysis.results.cells:
        if not cell.model:
            continue
        notes = texts(cell.model.get("notes"))
        facts = _present(
            ("name", text(cell.model.get("name"))),
            ("licence", text(cell.model.get("license")) or "not stated by its source"),
            *(("note", note) for note in notes),
            ("digest", text(cell.model.get("digest"))),
        )
        seen[tuple(facts)] = None
    return list(seen)


def machines(analysis: Analysis) -> list[tuple[tuple[str, str], ...]]:
    """Every machine once, with how many cells were measured on it."""
    counted: dict[tuple[tuple[str, str], ...], int] = {}
    for cell in analysis.results.cells:
        machine = cell.machine
        if not machine:
            continue
        names = [str(mapping(gpu).get("name", gpu)) for gpu in cell.gpus]
        facts = _present(
            ("processor", text(machine.get("cpu"))),
            ("cores", _count(machine.get("cores"))),
            ("memory", _bytes(machine.get("memory_bytes"))),
            ("GPUs", ", ".join(names) or "none"),
            ("kernel", text(machine.get("kernel"))),
            ("system", text(machine.get("os"))),
        )
        counted[tuple(facts)] = counted.get(tuple(facts), 0) + 1
    return [(*facts, ("cells", str(count))) for facts, count in counted.items()]


def toolchains(analysis: Analysis) -> list[tuple[str, str, tuple[tuple[str, str], ...]]]:
    """Every toolchain once: name, lock hash, versions."""
    seen: dict[tuple[str, str], tuple[tuple[str, str], ...]] = {}
    for cell in analysis.results.cells:
        for recorded in (cell.variant.get("toolchain"), cell.engine.get("toolchain")):
            toolchain = mapping(recorded)
            if toolchain:
                name = text(toolchain.get("name")) or "unnamed"
                versions = mapping(toolchain.get("versions"))
                pairs = tuple((str(part), str(version)) for part, version in versions.items())
                seen[name, text(toolchain.get("lock_hash")) or ""] = pairs
    return [(name, lock, versions) for (name, lock), versions in seen.items()]


def cell_records(analysis: Analysis) -> list[CellRecord]:
    """Provenance of every cell that got as far as having one."""
    cells = [cell for cell in analysis.results.cells if cell.provenance or cell.engine or cell.config]
    return [
        CellRecord(
            label=cell.label,
            key=cell.key,
            id=cell.id,
            engine=" ".join(part for part in (cell.engine_kind, text(cell.engine.get("build"))) if part),
            command=command_line(cell.engine.get("command")),
            facts=tuple(_cell_facts(cell)),
            config=_json(cell.config) if len(cells) <= CONFIGS and cell.config else "",
        )
        for cell in cells
    ]


def _cell_facts(cell: Cell) -> Iterable[tuple[str, str]]:
    provenance = cell.provenance
    averages = [number(value) for value in sequence(provenance.get("load_average"))]
    yield from _present(
        ("started", text(provenance.get("started"))),
        ("finished", text(provenance.get("finished"))),
        ("server ready after", _with_unit(cell.engine.get("ready_s"), "s")),
        ("server peak memory", _bytes(cell.engine.get("peak_rss_bytes"))),
        ("weights in memory", _bytes(cell.engine.get("weights_bytes"))),
        ("KV cache", _bytes(cell.engine.get("kv_cache_bytes"))),
        ("load average", ", ".join(f"{value:.2f}" for value in averages if value is not None)),
        ("quantbench", text(provenance.get("quantbench"))),
        ("commit", text(provenance.get("commit"))),
        ("Python", text(provenance.get("python"))),
        ("seeds", _pairs(provenance.get("seeds"))),
        ("packages", _pairs(provenance.get("versions"))),
        ("environment", _pairs(redact(provenance.get("environment")))),
        ("overrides", " ".join(cell.overrides)),
    )


def command_line(value: object) -> str:
    """A recorded command as one line, quoted for a shell, with secrets hidden."""

    return shown_command([str(part) for part in sequence(value)])


def _json(value: Any) -> str:
    return json.dumps(redact(value), indent=2, ensure_ascii=False, default=str)


def _present(*pairs: tuple[str, str | None]) -> list[tuple[str, str]]:
    return [(name, value) for name, value in pairs if value]


def _pairs(value: object) -> str:
    return ", ".join(f"{name} {entry}" for name, entry in mapping(value).items())


def _count(value: object) -> str:
    plain = number(value)
    return f"{plain:,.0f}" if plain is not None else ""


def _with_unit(value: object, unit: str) -> str:
    plain = number(value)
    return f"{fmt.significant(plain)} {unit}" if plain is not None else ""


def _bytes(value: object) -> str:
    plain = number(value)
    return f"{fmt.megabytes(plain)} MB" if plain is not None else ""


def _toolchain_name(value: object) -> str:
    toolchain = mapping(value)
    return " ".join(part for part in (text(toolchain.get("name")), text(toolchain.get("lock_hash"))) if part)
