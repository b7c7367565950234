"""How a variant does at every measured load of one workload, and which of these loads hold a service level objective.

A load holds it when each bounded metric's percentile, as recorded, stays within its bound and enough requests
succeed. What was not recorded (too few requests for the percentile) or may not be believed leaves it unknown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from bench.analysis.estimate import Estimate
from bench.analysis.loads import Load
from bench.analysis.raw import read_requests
from bench.analysis.readings import Reading, read
from bench.analysis.results import Cell, mapping, number
from bench.load.slo import SloConfig
from bench.quality.intervals import wilson

_TIMELINE = ("sent_ns", "first_token_ns", "last_token_ns", "output_tokens")


class Held(StrEnum):
    """Whether a load holds the objective."""

    YES = "held"
    NO = "not held"
    UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True)
class Point:
    """One measured load of a variant. `strain` is how near it came to the tightest bound: 1 is at it, above is broken.

    `latency` is the mean of the end-to-end latency; `concurrency` what was in flight on average, by Little's law
    (rate × mean latency). `attainment` is the share of requests that succeeded within every bound, with its interval.
    """

    load: str
    open_loop: bool
    rate: Reading
    throughput: Reading
    latency: Reading
    concurrency: float | None
    held: Held
    why: str
    strain: float | None
    attainment: Estimate | None = None


def points_of(cell: Cell, loads: Sequence[Load], slo: SloConfig) -> list[Point]:
    """The valid loads of `cell`, the lightest first: by what was in flight on average, else by their rate.

    Loads asked otherwise than in most cells are left out.
    """
    found = [_point(cell, load, slo) for load in loads if cell.id in load.cells]
    kept = [point for point in found if point.rate.usable]

    def lightness(point: Point) -> tuple[float, float]:
        return point.concurrency or 0.0, point.rate.estimate.value if point.rate.estimate else 0.0

    return sorted(kept, key=lightness)


def _point(cell: Cell, load: Load, slo: SloConfig) -> Point:
    rate = read(cell, "scenarios", load.name, "request_throughput")
    latency = read(cell, "scenarios", load.name, "e2e_latency", "mean")
    concurrency = None
    if rate.estimate is not None and latency.estimate is not None:
        concurrency = rate.estimate.value * latency.estimate.value / 1000
    held, why, strain = holds(cell, load.name, slo)
    return Point(
        load=load.name,
        open_loop=load.concurrency is None,
        rate=rate,
        throughput=read(cell, "scenarios", load.name, "output_throughput"),
        latency=latency,
        concurrency=concurrency,
        held=held,
        why=why,
        strain=strain,
        attainment=attainment(cell, load.name, slo) if slo.given else None,
    )


def holds(cell: Cell, load: str, slo: SloConfig) -> tuple[Held, str, float | None]:
    """Whether `load` holds the objective, why, and the strain: the largest of percentile / bound.

    Without any bound a load holds it when enough requests succeed. Where a bound lies within the percentile's interval
    the reason says so, also of a load that holds it.
    """
    strains: list[float] = []
    unknown, broken, unsure = [], [], []
    for bound in slo.bounds():
        reading = read(cell, "scenarios", load, bound.tag, bound.statistic)
        name = f"{bound.tag} {bound.statistic}"
        if reading.estimate is None:
            unknown.append(f"{name}: {reading.missing}")
        elif reading.validity:
            unknown.append(f"{name} may not be believed ({', '.join(reading.validity)})")
        else:
            strains.append(reading.estimate.value / bound.limit_ms)
            told = f"{name} is {reading.estimate.value:.4g} ms, the bound {bound.limit_ms:g} ms"
            lo, hi = reading.estimate.lo, reading.estimate.hi
            near = lo is not None and hi is not None and lo <= bound.limit_ms <= hi
            if near:
                told += f", within its interval of {lo:.4g} to {hi:.4g} ms"
            if strains[-1] > 1:
                broken.append(told)
            elif near:
                unsure.append(told)
    errors = read(cell, "scenarios", load, "error_rate")
    if errors.estimate is not None and 1 - errors.estimate.value < slo.success:
        broken.append(f"{100 * (1 - errors.estimate.value):.3g} % succeed, {100 * slo.success:g} % shall")
    strain = max(strains, default=None)
    if broken:
        return Held.NO, "; ".join(broken), strain
    if unknown:
        return Held.UNKNOWN, "; ".join(unknown), None
    return Held.YES, "; ".join(unsure), strain


def attainment(cell: Cell, load: str, slo: SloConfig) -> Estimate | None:
    """Share of requests that succeeded within every bound, from the recorded requests; None where there are none.

    Requests that were in flight together are one draw: Wilson's interval at requests / in flight draws. ITL and TPOT
    both bound a request's mean time per token; one token has none.
    """
    child = cell.scenarios.get(load)
    requests = None if child is None else read_requests(child, _TIMELINE)
    if child is None or requests is None or not requests.measured.any():
        return None
    good = requests.ok.copy()
    with np.errstate(invalid="ignore"):
        if slo.ttft_ms is not None:
            good &= requests.ttft_ms <= slo.ttft_ms
        if slo.e2e_ms is not None:
            good &= requests.e2e_ms <= slo.e2e_ms
        for limit in (slo.itl_ms, slo.tpot_ms):
            if limit is not None:
                good &= (requests.tpot_ms <= limit) | (requests.output_tokens == 1)
    counted = requests.measured & (requests.ok | requests.failed)
    total = int(counted.sum())
    if total == 0:
        return None
    share = float((good & counted).sum()) / total
    wave = number(mapping(child.summary.get("window")).get("requests_in_flight")) or 1.0
    lo, hi = wilson(share, max(1.0, total / max(1.0, wave)))
    return Estimate(value=share, lo=lo, hi=hi)
