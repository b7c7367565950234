"""The tidy table: one row per cell, source (scenario, task, cost …) and metric. Missing is empty, never 0."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from bench.analysis.candidates import Analysis, Candidate
from bench.analysis.cost_matrix import CostRow
from bench.analysis.economics import repaid_after_mtok
from bench.analysis.prices import hardware_name
from bench.analysis.readings import PARTIAL, Reading
from bench.analysis.results import STATISTICS, TAILS, Cell, Measurement, Metric, number, text

if TYPE_CHECKING:
    import pandas as pd

TAIL_ENDS = tuple(f"{name}_{end}" for name in TAILS for end in ("lo", "hi"))
COLUMNS = (
    "run",
    "cell_key",
    "cell",
    "variant",
    "engine",
    "model",
    "hardware",
    "status",
    "kind",
    "source",
    "metric",
    "unit",
    *STATISTICS,
    "n",
    "lo",
    "hi",
    *TAIL_ENDS,
    "validity",
)


def tidy(analysis: Analysis) -> pd.DataFrame:
    """Every figure of every cell as a data frame with the columns of `COLUMNS`.

    `lo` and `hi` are the 95 % interval of `value`, or of `p50` where there is no `value`; of kind `server` the bucket
    of `p50`. `p95_lo` and so on are those of the tails. `validity` joins reason codes with a space and is empty for a
    valid number. A cell without figures has one row with an empty metric.
    """
    import pandas as pd

    frame = pd.DataFrame(list(_rows(analysis)), columns=list(COLUMNS))
    numeric = [*STATISTICS, "n", "lo", "hi", *TAIL_ENDS]
    return frame.astype(dict.fromkeys(numeric, "float64"))


def _rows(analysis: Analysis) -> Iterator[dict[str, Any]]:
    baseline = next((candidate for candidate in analysis.candidates if candidate.is_baseline), None)
    for candidate in analysis.candidates:
        cell = candidate.cell
        identity = {
            "run": cell.run,
            "cell_key": cell.key,
            "cell": cell.label,
            "variant": cell.variant_label,
            "engine": cell.engine_kind,
            "model": text(cell.model.get("name")),
            "hardware": hardware_name(cell) or None,
            "status": cell.status,
        }
        rows: list[dict[str, Any] | None] = [*_measured(cell)]
        if candidate.costs is not None:
            rows += _costs(candidate.costs)
            rows += _capacity(candidate.costs)
            rows += _making(candidate, baseline, analysis.config.price.currency)
        rows.append(_reading_row("comparison", candidate.loss.perplexity_change))
        rows += _facts(cell)
        present = [row for row in rows if row is not None]
        yield from ({**identity, **row} for row in present or [{}])


def _costs(row: CostRow) -> Iterator[dict[str, Any] | None]:
    for cost in row.loads:
        readings = (cost.output, cost.request, cost.blended, cost.split_input, cost.split_output)
        yield from (_reading_row("cost", reading) for reading in readings)
        yield from (_reading_row("cost", reading) for reading in cost.energy if not reading.tag.startswith("energy"))
    yield from (_reading_row("cost", reading) for reading in (row.at_slo, row.request_at_slo, *row.per_correct))


def _capacity(row: CostRow) -> Iterator[dict[str, Any] | None]:
    rate, source = row.capacity.rate, row.capacity.load
    if rate is not None:
        figures = {"value": rate.value, "lo": rate.lo, "hi": rate.hi}
        yield _figure("capacity", source, "capacity_per_replica", "req/s", **figures)
    if row.replicas is not None and row.replicas.count is not None:
        figures = {"value": row.replicas.count, "lo": row.replicas.fewest, "hi": row.replicas.most}
        yield _figure("capacity", source, "replicas", "1", **figures)
    for point in row.points:
        if point.attainment is not None:
            figures = {"value": point.attainment.value, "lo": point.attainment.lo, "hi": point.attainment.hi}
            yield _figure("capacity", point.load, "slo_attainment", "ratio", **figures)
    if row.api is not None:
        yield _figure("cost", source, "break_even_rate", "req/s", value=row.api.rate_per_s)


def _making(candidate: Candidate, base: Candidate | None, currency: str) -> Iterator[dict[str, Any] | None]:
    assert candidate.costs is not None
    making = candidate.costs.making
    if making.amount is not None:
        yield _figure("cost", "quantizing", "making_cost", currency, value=making.amount)
    if making.per_mtok is not None:
        yield _figure("cost", "quantizing", "making_cost_per_million_tokens", f"{currency}/Mtok", value=making.per_mtok)
    if base is not None and base.cost.estimate is not None and candidate.cost.estimate is not None:
        repaid = repaid_after_mtok(making, candidate.cost.estimate, base.cost.estimate)
        if repaid is not None and candidate.cost.usable and base.cost.usable:
            yield _figure("cost", "quantizing", "repaid_after_million_output_tokens", "Mtok", value=repaid)


def _figure(kind: str, source: str, metric: str, unit: str, **figures: float | None) -> dict[str, Any]:
    return {"kind": kind, "source": source, "metric": metric, "unit": unit, "validity": "", **figures}


def _measured(cell: Cell) -> Iterator[dict[str, Any]]:
    for kind, children in (("scenario", cell.scenarios), ("task", cell.tasks)):
        for child in children.values():
            yield from _metric_rows(kind, child, child.metrics)
            yield from _metric_rows("server", child, child.server)


def _metric_rows(kind: str, child: Measurement, metrics: Mapping[str, Metric]) -> Iterator[dict[str, Any]]:
    partial = (PARTIAL,) if child.status == PARTIAL else ()
    for metric in metrics.values():
        yield {
            "kind": kind,
            "source": child.name,
            "metric": metric.tag,
            "unit": metric.unit,
            **metric.statistics,
            "n": metric.n,
            "lo": metric.lo,
            "hi": metric.hi,
            **dict(zip(TAIL_ENDS, (end for name in TAILS for end in metric.interval(name)), strict=True)),
            "validity": " ".join(dict.fromkeys([*metric.validity, *partial])),
        }


def _reading_row(kind: str, reading: Reading) -> dict[str, Any] | None:
    if reading.estimate is None:
        return None
    return {
        "kind": kind,
        "source": reading.source,
        "metric": reading.tag,
        "unit": reading.unit,
        "value": reading.estimate.value,
        "lo": reading.estimate.lo,
        "hi": reading.estimate.hi,
        "validity": " ".join(reading.validity),
    }


def _facts(cell: Cell) -> Iterator[dict[str, Any]]:
    files: Mapping[str, tuple[float | None, str]] = {
        "size_bytes": (cell.size_bytes, "bytes"),
        "effective_bits_per_weight": (cell.bits_per_weight, "bits"),
    }
    yield from _fact_rows("variant", "files", files)
    memory = {name: (number(cell.engine.get(recorded)), "bytes") for name, recorded in MEMORY.items()}
    yield from _fact_rows("engine", "memory", memory)


MEMORY = {
    "peak_memory_bytes": "peak_rss_bytes",
    "weights_bytes": "weights_bytes",
    "kv_cache_bytes": "kv_cache_bytes",
}
"""Metrics of the server's memory → how `cell.json` calls them."""


def _fact_rows(kind: str, source: str, facts: Mapping[str, tuple[float | None, str]]) -> Iterator[dict[str, Any]]:
    for metric, (value, unit) in facts.items():
        if value is not None:
            yield {
                "kind": kind,
                "source": source,
                "metric": metric,
                "unit": unit,
                "value": value,
                "validity": "",
            }
