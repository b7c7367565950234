"""One number of one cell as a report shows it: an estimate, or why there is none, and why it may not be believed."""

from __future__ import annotations

from dataclasses import dataclass

from bench.analysis.estimate import Estimate
from bench.analysis.results import Cell, Measurement, Metric
from bench.base.validity import Reason

PARTIAL = "partial"
OTHER_ADVICE = {PARTIAL: "The measurement was interrupted and is incomplete: run the same command again."}


def advice(code: str) -> str:
    """What to do about a validity reason."""
    if code in OTHER_ADVICE:
        return OTHER_ADVICE[code]
    known = {reason.value: reason.advice for reason in Reason}
    return known.get(code, "This reason is unknown to this version: see the measurement's summary.json.")


@dataclass(frozen=True, kw_only=True)
class Reading:
    """`estimate` is None exactly when `missing` says why. Only a `usable` reading may be ranked or compared."""

    cell: str
    source: str
    tag: str
    statistic: str
    unit: str
    estimate: Estimate | None
    validity: tuple[str, ...] = ()
    missing: str | None = None

    @property
    def usable(self) -> bool:
        """Present and valid."""
        return self.estimate is not None and not self.validity


def read(cell: Cell, kind: str, name: str, tag: str, statistic: str | None = None) -> Reading:
    """Metric `tag` of scenario or task `name`; without `statistic`, its headline with the interval."""
    children = cell.scenarios if kind == "scenarios" else cell.tasks
    child = children.get(name)
    found = child.metrics.get(tag) or child.server.get(tag) if child is not None else None
    if child is None or found is None:
        return absent(cell, name, tag, why_missing(cell, child, tag), statistic=statistic or "value")
    chosen = statistic or found.headline
    value = found.statistics.get(chosen)
    if value is None:
        return absent(cell, name, tag, no_statistic(found, chosen), statistic=chosen, unit=found.unit)
    lo, hi = found.interval(chosen)
    validity = (*found.validity, PARTIAL) if child.status == PARTIAL else found.validity
    return Reading(
        cell=cell.id,
        source=name,
        tag=tag,
        statistic=chosen,
        unit=found.unit,
        estimate=Estimate(value=value, lo=lo, hi=hi),
        validity=tuple(dict.fromkeys(validity)),
    )


def no_statistic(metric: Metric, statistic: str) -> str:
    """Why a metric that was recorded lacks a statistic."""
    if metric.n is not None and statistic.startswith("p"):
        return (
            f"{metric.n:.0f} values are too few for {statistic}"
            if metric.n < 1000
            else f"too few requests for {statistic}"
        )
    return f"{metric.tag} has no {statistic}"


def absent(cell: Cell, source: str, tag: str, missing: str, *, statistic: str = "value", unit: str = "") -> Reading:
    """A reading that is not there."""
    return Reading(cell=cell.id, source=source, tag=tag, statistic=statistic, unit=unit, estimate=None, missing=missing)


def why_missing(cell: Cell, child: Measurement | None, tag: str) -> str:
    """Why a cell has no such number, in a few words."""
    if child is not None and child.failure is not None:
        return f"{child.name} failed ({child.failure.kind})"
    if child is not None and child.status in {"missing", "failed", "interrupted"}:
        return f"{child.name} is {child.status}"
    if child is not None:
        return child.untold.get(tag) or f"{child.name} gave no {tag}"
    if cell.failure is not None:
        return f"the cell failed ({cell.failure.kind})"
    return {"unsupported": "unsupported", "missing": "the cell was not run"}.get(cell.status, "not measured")
