"""A reading as it stands on a page: text, interval, what is wrong with it, and which row of the tidy table it is."""

from __future__ import annotations

from dataclasses import dataclass

from bench.analysis import formatting as fmt
from bench.analysis.estimate import Estimate
from bench.analysis.readings import Reading
from bench.analysis.results import Cell

DASH = "—"


@dataclass(frozen=True, kw_only=True)
class Shown:
    """`missing` says why the text is a dash; `reasons` why the number is greyed. `value` is what rows are sorted by."""

    text: str
    value: float | None = None
    detail: str = ""
    reasons: tuple[str, ...] = ()
    missing: str = ""
    source: str = ""
    metric: str = ""
    statistic: str = ""


def show(reading: Reading, formatter: fmt.Formatter = fmt.significant, *, detail: str | None = None) -> Shown:
    """The reading with its interval below it; `detail` replaces the interval."""
    if reading.estimate is None:
        return Shown(text=DASH, missing=reading.missing or "not measured")
    return Shown(
        text=formatter(reading.estimate.value),
        value=reading.estimate.value,
        detail=fmt.interval(reading.estimate, formatter) if detail is None else detail,
        reasons=reading.validity,
        source=reading.source,
        metric=reading.tag,
        statistic=reading.statistic,
    )


def plain(reading: Reading, formatter: fmt.Formatter = fmt.significant) -> Shown:
    """The reading without its interval."""
    return show(reading, formatter, detail="")


def with_error(reading: Reading, formatter: fmt.Formatter = fmt.significant) -> Shown:
    """The reading with half its interval's width as «± x»."""
    return show(reading, formatter, detail=fmt.plus_minus(reading.estimate) if reading.estimate is not None else "")


def fact(cell: Cell, value: float | None, formatter: fmt.Formatter, metric: str) -> Shown:
    """A property of the variant's files."""
    if value is None:
        return Shown(text=DASH, missing=_why_no_variant(cell))
    return show(
        Reading(
            cell=cell.id,
            source="files",
            tag=metric,
            statistic="value",
            unit="",
            estimate=Estimate(value=value),
        ),
        formatter,
    )


def _why_no_variant(cell: Cell) -> str:
    if cell.failure is not None:
        return f"the cell failed ({cell.failure.kind})"
    return "unsupported" if cell.status == "unsupported" else "not recorded"
