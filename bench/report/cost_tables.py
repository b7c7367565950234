"""The report's tables of money: the cost matrix, costs by load, capacity, and published figures apart from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.analysis import formatting as fmt
from bench.analysis.candidates import Analysis, Candidate
from bench.analysis.capacity import RULES_OF_THUMB, Rule, rule_of_thumb
from bench.analysis.cost_matrix import CostRow, DemandCost, LoadCost
from bench.analysis.economics import BreakEven, repaid_after_mtok
from bench.analysis.estimate import Estimate
from bench.analysis.pareto import Frontier
from bench.analysis.published import PublishedFigure, published
from bench.analysis.readings import Reading
from bench.report.plots import Axis, Cast, Choice, Draw, Panel, Plot, Series, View
from bench.report.shown import DASH, Shown, plain, show
from bench.report.tables import Row, Subject, in_order, subject_of

CURVES = 60
"""Cells whose cost against demand is drawn."""
STANDINGS = 100
"""Rows of each table of standings."""


@dataclass(frozen=True, kw_only=True)
class MatrixRow:
    """Hardware × variant × engine: numbers in the order of the table's columns; `price` and `peak` are words."""

    subject: Subject
    hardware: str
    engine: str
    price: str
    peak: str
    numbers: tuple[Shown, ...]
    correct: tuple[tuple[str, Shown], ...]


@dataclass(frozen=True, kw_only=True)
class CapacityRow:
    """What one replica carries under the objective, and how many are needed."""

    subject: Subject
    rate: Shown
    latency: str
    replicas: str
    users: str
    why: str


def _rows(analysis: Analysis) -> list[tuple[Candidate, CostRow]]:
    return [(c, c.costs) for c in in_order(analysis) if c.costs is not None]


def cost_matrix(analysis: Analysis, choice: Candidate | None) -> list[MatrixRow]:
    """Per cell: cost at the priced load, at the peak, under the objective; energy; making; per correct answer."""
    money = fmt.money(analysis.config.price.currency)
    reference = analysis.reference.name if analysis.reference is not None else ""
    base = next((c for c in analysis.candidates if c.is_baseline), None)
    rows = []
    for candidate, costs in _rows(analysis):
        at_load, peak = costs.at(reference), costs.peak
        price = f"{fmt.listed_price(costs.price.price.currency, costs.price.hourly)} an hour, {costs.price.price.name}"
        rows.append(
            MatrixRow(
                subject=subject_of(candidate, choice),
                hardware=costs.hardware or DASH,
                engine=candidate.cell.engine_kind or DASH,
                price=f"{price}{', assumed' if costs.price.price.assumed else ''}{_also(costs.price.note)}",
                peak=peak.load if peak is not None else DASH,
                numbers=(
                    _shown(at_load, "blended", money),
                    _shown(at_load, "output", money),
                    _shown(at_load, "request", money),
                    _shown(peak, "blended", money),
                    show(costs.at_slo, money),
                    show(costs.request_at_slo, money),
                    _energy(at_load),
                    _number(costs.making.amount, money, "not timed"),
                    _repaid(candidate, costs, base),
                ),
                correct=tuple((reading.source, show(reading, money)) for reading in costs.per_correct),
            )
        )
    return rows


def _also(note: str) -> str:
    return f" ({note})" if note else ""


def _shown(cost: LoadCost | None, name: str, money: fmt.Formatter) -> Shown:
    if cost is None:
        return Shown(text=DASH, missing="this load was not measured")
    reading: Reading = getattr(cost, name)
    return show(reading, money)


def _energy(cost: LoadCost | None) -> Shown:
    """Joules per output token of the first meter that tells."""
    for reading in cost.energy if cost is not None else ():
        if reading.estimate is not None and reading.tag.startswith("energy"):
            return plain(reading)
    return Shown(text=DASH, missing="no meter told")


def _number(value: float | None, formatter: fmt.Formatter, missing: str) -> Shown:
    return Shown(text=DASH, missing=missing) if value is None else Shown(text=formatter(value), value=value)


def _repaid(candidate: Candidate, costs: CostRow, base: Candidate | None) -> Shown:
    """Million output tokens after which the lower cost has paid for making the variant."""
    if candidate.is_baseline:
        return Shown(text=DASH, missing="it is the baseline")
    usable = base is not None and base.cost.usable and candidate.cost.usable
    if not usable or base is None or base.cost.estimate is None or candidate.cost.estimate is None:
        return Shown(text=DASH, missing="no valid cost to compare")
    value = repaid_after_mtok(costs.making, candidate.cost.estimate, base.cost.estimate)
    return _number(value, fmt.significant, "never, or the making was not timed")


def costs_by_load(analysis: Analysis, choice: Candidate | None) -> list[Row]:
    """Per cell and load: blended, output and request, and the split by the configured rule."""
    money = fmt.money(analysis.config.price.currency)
    rows = []
    for candidate, costs in _rows(analysis):
        for cost in costs.loads:
            numbers = (
                show(cost.blended, money),
                show(cost.output, money),
                plain(cost.request, money),
                plain(cost.split_input, money),
                plain(cost.split_output, money),
            )
            mix = DASH if cost.mix is None else f"{cost.mix.name}{'' if cost.mix.measured else ' (as asked)'}"
            rows.append(Row(subject=subject_of(candidate, choice), numbers=numbers, source=cost.load, note=mix))
    return rows


def capacity(analysis: Analysis, choice: Candidate | None) -> list[CapacityRow]:
    """Per cell: the rate one replica carries, replicas for the configured traffic, and what that rests on."""
    rows = []
    for candidate, costs in _rows(analysis):
        found, needed = costs.capacity, costs.replicas
        rate = Shown(text=DASH, missing=found.why or "not known")
        if found.rate is not None:
            least = "≥ " if found.at_least else ""
            rate = Shown(
                text=f"{least}{fmt.significant(found.rate.value)}",
                value=found.rate.value,
                detail=fmt.interval(found.rate),
            )
        count, users = "", ""
        if needed is not None:
            users = "" if needed.users_per_replica is None else fmt.significant(needed.users_per_replica)
            count = DASH if needed.count is None else _range(needed.count, needed.fewest, needed.most)
        rows.append(
            CapacityRow(
                subject=subject_of(candidate, choice),
                rate=rate,
                latency="" if found.latency_s is None else fmt.significant(found.latency_s),
                replicas=count,
                users=users,
                why="; ".join(part for part in (found.why, needed.why if needed is not None else "") if part),
            )
        )
    return rows


def _range(count: int, fewest: int | None, most: int | None) -> str:
    known = fewest is not None and most is not None and (fewest, most) != (count, count)
    return f"{count} ({fewest} to {most})" if known else str(count)


def rules(analysis: Analysis) -> tuple[Sequence[Rule], Rule | None]:
    """The rule of thumb for users, and which of its lines is for the configured number of users."""
    users = analysis.config.traffic.users
    return RULES_OF_THUMB, None if users is None else rule_of_thumb(users)


def slo_words(analysis: Analysis) -> str:
    """The objective in words."""
    slo = analysis.config.slo
    if not slo.given:
        return f"no latency bound is set; a load counts as carried when {fmt.percent(slo.success)} of requests succeed"
    bounds = [f"{bound.tag} {bound.statistic} ≤ {bound.limit_ms:g} ms" for bound in slo.bounds()]
    return f"{fmt.listing(bounds, 6)}, and {fmt.percent(slo.success)} of requests succeed"


def break_evens(analysis: Analysis) -> list[tuple[str, str]]:
    """Against an API's price, per cell: label and sentence."""
    money = fmt.money(analysis.config.price.currency)
    return [
        (
            candidate.cell.label,
            _break_even(row.api, money),
        )
        for candidate, row in _rows(analysis)
        if row.api is not None
    ]


def _break_even(api: BreakEven, money: fmt.Formatter) -> str:
    even = f"even at {fmt.significant(api.rate_per_s)} requests/s"
    return f"{money(api.api_per_request)} a request there; {even} ({api.why})"


def standings(frontiers: Sequence[Frontier]) -> list[tuple[str, list[tuple[str, str, str]]]]:
    """Of each frontier its name, and of each variant label, standing and why; the name says where rows are left out."""
    tables = []
    for each in frontiers:
        rows = [
            *((point.label, point.standing.value, point.why) for point in each.points),
            *((label, "not placed", why) for label, why in each.left_out),
        ]
        cut = f", the first {STANDINGS} of {len(rows)}" if len(rows) > STANDINGS else ""
        tables.append((f"{each.x.name} against {each.y.name}{cut}", rows[:STANDINGS]))
    return tables


def published_tables() -> tuple[str, list[tuple[str, list[PublishedFigure]]]]:
    """The note that stands with the published figures, and the figures by their table."""
    shipped = published()
    grouped: dict[str, list[PublishedFigure]] = {}
    for figure in shipped.figures:
        grouped.setdefault(figure.table, []).append(figure)
    return f"{shipped.origin}: {shipped.note}", list(grouped.items())


def demand_plot(cast: Cast) -> Plot | None:
    """Cost against what is asked of the whole service: whole replicas, idle capacity paid too; None without a curve."""
    currency = cast.analysis.config.price.currency
    figures = (
        ("per million tokens", f"{currency} per million blended tokens", True),
        ("per request", f"{currency} per request", True),
        ("replicas", "Replicas", False),
        ("utilisation", "Share of the replicas' capacity in use, %", False),
    )
    found_rows = [(c, c.costs) for c in cast.compared if c.costs is not None and c.costs.curve]
    rows = found_rows[:CURVES]
    if not rows:
        return None
    views = []
    for index, (_, label, has_interval) in enumerate(figures):
        series = []
        for candidate, row in rows:
            look = cast.look(candidate)
            found = [_at(index, each) for each in row.curve]
            series.append(
                Series(
                    name=candidate.cell.label,
                    colour=look.colour,
                    shown=look.shown,
                    draw=Draw.LINE,
                    x=[each.rate_per_s for each in row.curve],
                    y=[each.value for each in found],
                    lo=[each.lo for each in found] if has_interval else None,
                    hi=[each.hi for each in found] if has_interval else None,
                )
            )
        views.append(
            View(
                at=(index,),
                x=Axis(label="Requests/s asked of the whole service", log=True),
                panels=[Panel(y=Axis(label=label, log=index < 3, zero=True), series=series, height=340)],
            )
        )
    headroom = cast.analysis.config.traffic.headroom
    rest = f" Of {len(found_rows)} cells the first {CURVES} are drawn." if len(found_rows) > CURVES else ""
    beyond = any(each.beyond_measured for _, row in rows for each in row.curve)
    most = (
        " Where no higher load was measured a replica may carry more: costs are then at most these." if beyond else ""
    )
    return Plot(
        id="plot-demand",
        section="cost",
        title="Cost against what is asked",
        note=f"Whole replicas, {fmt.percent(headroom) if headroom else 'nothing'} of each kept free: idle capacity is"
        " paid too, so cost falls with demand until the replicas are full. Bars are the interval of the capacity."
        f"{most}{rest}",
        views=views,
        choices=(Choice(name="Show", options=[name for name, _, _ in figures]),),
    )


def _at(index: int, each: DemandCost) -> Estimate:
    return (
        each.per_mtok,
        each.per_request,
        Estimate(value=float(each.replicas)),
        Estimate(value=100 * each.utilisation),
    )[index]
