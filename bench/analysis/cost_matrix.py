"""Hardware × variant × engine: what each costs at every load, at its peak, under the objective, and at any demand."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

from bench.analysis.capacity import Capacity, Replicas, capacity_of, replicas_for
from bench.analysis.config import OwnedPriceConfig, ReportConfig
from bench.analysis.cost import (
    COST_PER_BLENDED_MTOK,
    COST_PER_REQUEST,
    SECONDS_PER_HOUR,
    Mix,
    cost_per_blended_mtok,
    cost_per_mtok,
    cost_per_request,
    mix_of,
    split_costs,
    total_throughput,
)
from bench.analysis.economics import BreakEven, Making, break_even, correct_costs, making_of
from bench.analysis.estimate import Estimate, inverse_scaled
from bench.analysis.loads import Load, same_workload
from bench.analysis.prices import MachinePrice, hardware_name, price_of
from bench.analysis.readings import Reading, absent, read
from bench.analysis.results import Cell
from bench.analysis.service import Point, points_of

GRID = 41
"""Demands at which costs are told: logarithmic steps over the capacities' range."""
METERS = ("gpu", "cpu_package")
JOULES_PER_KWH = 3.6e6


@dataclass(frozen=True, kw_only=True)
class LoadCost:
    """Costs on a machine kept at load `load`. `split_input` and `split_output` are by the configured rule."""

    load: str
    mix: Mix | None
    blended: Reading
    output: Reading
    request: Reading
    split_input: Reading
    split_output: Reading
    energy: tuple[Reading, ...]


@dataclass(frozen=True, kw_only=True)
class DemandCost:
    """The cost at a demand of `rate_per_s`, with the replicas it takes: what idles is paid too.

    `utilisation` is the demand over the capacity of all replicas. `beyond_measured`: the capacity is only known to be
    at least what was measured, so the cost is at most this.
    """

    rate_per_s: float
    replicas: int
    utilisation: float
    per_mtok: Estimate
    per_request: Estimate
    beyond_measured: bool


@dataclass(frozen=True, kw_only=True)
class CostRow:
    """One cell of the matrix. `at_slo` is the cost at the capacity under the objective, without headroom."""

    cell: Cell
    hardware: str
    price: MachinePrice
    loads: tuple[LoadCost, ...]
    peak: LoadCost | None
    points: tuple[Point, ...]
    capacity: Capacity
    at_slo: Reading
    request_at_slo: Reading
    per_correct: tuple[Reading, ...]
    making: Making
    api: BreakEven | None
    replicas: Replicas | None
    curve: tuple[DemandCost, ...] = ()

    def at(self, load: str) -> LoadCost | None:
        """The costs at a load by name."""
        return next((cost for cost in self.loads if cost.load == load), None)


def cost_rows(
    cells: Sequence[Cell], loads: Sequence[Load], reference: Load | None, config: ReportConfig
) -> list[CostRow]:
    """A row for every cell that has a load; costs of demand are over the loads of the priced load's workload."""
    curve_loads = [load for load in loads if reference is not None and same_workload(load, reference)]
    rows = [_row(cell, loads, curve_loads, reference, config) for cell in cells if cell.scenarios]
    grid = _grid(
        [row.capacity.rate.value for row in rows if row.capacity.rate is not None and row.capacity.rate.value > 0]
    )
    return [dataclasses.replace(row, curve=demand_curve(row, grid, reference, config)) for row in rows]


def _row(
    cell: Cell, loads: Sequence[Load], curve_loads: Sequence[Load], reference: Load | None, config: ReportConfig
) -> CostRow:
    price = price_of(cell, config)
    costs = tuple(_load_cost(cell, load.name, price, config) for load in loads if load.name in cell.scenarios)
    points = tuple(points_of(cell, curve_loads, config.slo))
    capacity = capacity_of(points)
    name = reference.name if reference is not None else ""
    at_load = next((cost for cost in costs if cost.load == name), None)
    at_slo, request_at_slo = _at_slo(cell, capacity, price, at_load)
    named = {load.name for load in curve_loads}
    return CostRow(
        cell=cell,
        hardware=hardware_name(cell),
        price=price,
        loads=costs,
        peak=_peak(cell, [cost for cost in costs if cost.load in named]),
        points=points,
        capacity=capacity,
        at_slo=at_slo,
        request_at_slo=request_at_slo,
        per_correct=correct_costs(cell, at_load.split_input, at_load.split_output) if at_load is not None else (),
        making=making_of(cell, price, config.traffic.lifetime_mtok),
        api=break_even(capacity, at_load.mix if at_load is not None else None, price, config.api),
        replicas=replicas_for(capacity, config.traffic),
    )


def _load_cost(cell: Cell, load: str, price: MachinePrice, config: ReportConfig) -> LoadCost:
    split = split_costs(cell, load, price, config)
    return LoadCost(
        load=load,
        mix=mix_of(cell, load),
        blended=cost_per_blended_mtok(cell, load, price),
        output=cost_per_mtok(cell, load, price),
        request=cost_per_request(cell, load, price),
        split_input=split[0],
        split_output=split[1],
        energy=tuple(_energy(cell, load, price)),
    )


def _energy(cell: Cell, load: str, price: MachinePrice) -> list[Reading]:
    """Joules per output token by meter, and what their electricity costs where the machine's price tells it."""
    found = [read(cell, "scenarios", load, f"energy_per_output_token_{meter}") for meter in METERS]
    told = [reading for reading in found if reading.estimate is not None]
    if isinstance(price.price, OwnedPriceConfig):
        per_joule = price.price.electricity_per_kwh * price.price.pue / JOULES_PER_KWH
        told += [
            dataclasses.replace(
                reading,
                tag=reading.tag.replace("energy", "electricity_cost"),
                unit=f"{price.price.currency}/token",
                estimate=reading.estimate.scaled(per_joule),
            )
            for reading in told
            if reading.estimate is not None and per_joule > 0
        ]
    return told


def _peak(cell: Cell, costs: Sequence[LoadCost]) -> LoadCost | None:
    """The load at which tokens were made fastest, among those that may be believed."""

    def speed(cost: LoadCost) -> float:
        reading = total_throughput(cell, cost.load)
        return reading.estimate.value if reading.estimate is not None and reading.usable else 0.0

    best = max(costs, key=speed, default=None)
    return best if best is not None and speed(best) > 0 else None


def _at_slo(cell: Cell, capacity: Capacity, price: MachinePrice, at_load: LoadCost | None) -> tuple[Reading, Reading]:
    units = (f"{price.price.currency}/Mtok", f"{price.price.currency}/request")
    tags = (f"{COST_PER_BLENDED_MTOK}_at_slo", f"{COST_PER_REQUEST}_at_slo")
    mix = at_load.mix if at_load is not None else None
    request = None if capacity.rate is None else inverse_scaled(capacity.rate, price.hourly / SECONDS_PER_HOUR)
    if request is None or mix is None:
        missing = capacity.why if capacity.rate is None else "the tokens of a request are not known"
        return absent(cell, "slo", tags[0], missing, unit=units[0]), absent(
            cell, "slo", tags[1], missing, unit=units[1]
        )
    blended = request.scaled(1e6 / mix.total)
    made = [
        Reading(cell=cell.id, source="slo", tag=tag, statistic="value", unit=unit, estimate=estimate)
        for tag, unit, estimate in zip(tags, units, (blended, request), strict=True)
    ]
    return made[0], made[1]


def _grid(capacities: Sequence[float]) -> list[float]:
    """Demands in requests/s: from a hundredth of the smallest capacity to ten times the largest."""
    if not capacities:
        return []
    low, high = math.log(min(capacities) / 100), math.log(max(capacities) * 10)
    return [math.exp(low + (high - low) * step / (GRID - 1)) for step in range(GRID)]


def demand_curve(
    row: CostRow, grid: Sequence[float], reference: Load | None, config: ReportConfig
) -> tuple[DemandCost, ...]:
    """Cost at every demand of `grid`: replicas × price per hour over what is asked in an hour; whole replicas only.

    Headroom is kept free as configured. The interval is that of the capacity, through the number of replicas.
    """
    rate = row.capacity.rate
    mix = mix_of(row.cell, reference.name) if reference is not None else None
    if rate is None or rate.value <= 0 or mix is None:
        return ()
    share = 1 - config.traffic.headroom
    return tuple(_demand(asked, rate, share, row, mix) for asked in grid)


def _demand(asked: float, rate: Estimate, share: float, row: CostRow, mix: Mix) -> DemandCost:
    def replicas(capacity: float) -> int:
        return max(1, math.ceil(asked / (capacity * share) - 1e-9))

    per_replica = row.price.hourly / SECONDS_PER_HOUR / asked
    count = replicas(rate.value)
    request = Estimate(
        value=count * per_replica,
        lo=replicas(rate.hi) * per_replica if rate.hi is not None and rate.hi > 0 else None,
        hi=replicas(rate.lo) * per_replica if rate.lo is not None and rate.lo > 0 else None,
    )
    return DemandCost(
        rate_per_s=asked,
        replicas=count,
        utilisation=asked / (count * rate.value),
        per_mtok=request.scaled(1e6 / mix.total),
        per_request=request,
        beyond_measured=row.capacity.at_least and asked > rate.value * share,
    )
