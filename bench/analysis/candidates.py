"""Cells side by side: which is the baseline, which may be compared with it, and how each does at the priced load."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.analysis.axes import COST, LOSS, frontiers
from bench.analysis.comparability import EVERYTHING, Difference, differences, spoils
from bench.analysis.config import ReportConfig
from bench.analysis.cost import cost_per_mtok, cost_per_request
from bench.analysis.cost_matrix import CostRow, cost_rows
from bench.analysis.estimate import Estimate, Verdict, judge, ratio
from bench.analysis.loads import Load, loads_of, reference_load
from bench.analysis.pareto import Frontier, Standing, frontier
from bench.analysis.prices import price_of
from bench.analysis.quality import Loss, loss_of, tasks_by_tag
from bench.analysis.readings import Reading, absent, read
from bench.analysis.results import Cell, Results, mapping, text, texts
from bench.base.errors import UsageError, nearest

UNQUANTIZED = {"F32": 0, "BF16": 1, "F16": 2, "FP16": 2, "NONE": 3}


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A relative change against something named, and how it ends; `reason` says why nothing was compared."""

    against: str
    change: Estimate | None
    verdict: Verdict
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A cell as a choice. `excluded` says why it is shown but not compared (another model, machine or request mix).

    `differences` are the facets in which it differs from what it would be compared with; `costs` is its row of the
    cost matrix, None where it has no load.
    """

    cell: Cell
    is_baseline: bool
    throughput: Reading
    cost: Reading
    request_cost: Reading
    loss: Loss
    speed: Comparison
    quality: Comparison
    excluded: str | None = None
    dominated_by: str | None = None
    on_frontier: bool = False
    differences: tuple[Difference, ...] = ()
    costs: CostRow | None = None

    @property
    def rankable(self) -> bool:
        """Whether its cost may be ranked."""
        return self.excluded is None and self.cost.usable


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """Everything a report says, before it is formatted.

    `watermark` is a sentence that stands with every ranking by speed, empty where none is needed.
    """

    results: Results
    config: ReportConfig
    loads: tuple[Load, ...]
    reference: Load | None
    baseline: Cell | None
    candidates: tuple[Candidate, ...]
    notes: tuple[str, ...]
    frontiers: tuple[Frontier, ...] = ()
    watermark: str = ""

    @property
    def costs(self) -> tuple[CostRow, ...]:
        """The cost matrix: the rows of all cells that have a load."""
        return tuple(candidate.costs for candidate in self.candidates if candidate.costs is not None)

    @property
    def not_comparable(self) -> tuple[Difference, ...]:
        """Every difference that kept something from being compared."""
        return tuple(found for candidate in self.candidates for found in candidate.differences)


WATERMARK = "Measured on a CPU: the order of formats by speed does not carry over to GPUs."


def analyse(results: Results, config: ReportConfig) -> Analysis:
    """Compare the recorded cells. Raises UsageError when the named baseline or load was not recorded."""
    cells = results.cells
    loads = loads_of(cells)
    reference = reference_load(cells, loads, config.load)
    baseline = find_baseline(cells, reference, config.baseline)
    anchor = baseline or next((cell for cell in cells if cell.scenarios or cell.tasks), None)
    rows = {row.cell.id: row for row in cost_rows(cells, loads, reference, config)}
    setting = _Setting(
        config=config, reference=reference, baseline=baseline, anchor=anchor, tasks=tasks_by_tag(cells), rows=rows
    )
    candidates = mark_frontier([_candidate(cell, setting) for cell in cells])
    return Analysis(
        results=results,
        config=config,
        loads=tuple(loads),
        reference=reference,
        baseline=baseline,
        candidates=tuple(candidates),
        notes=tuple(_notes(cells, candidates, baseline, reference)),
        frontiers=frontiers(candidates, reference, config),
        watermark=watermark_of(cells),
    )


def find_baseline(cells: Sequence[Cell], reference: Load | None, wanted: str | None) -> Cell | None:
    """The baseline cell: of the variant asked for, else the one the run scored against, else an unquantized one.

    Of several, measured cells come first.

    Raises UsageError when the one asked for is unknown.
    """
    if wanted is not None:
        chosen = [cell for cell in cells if wanted in {cell.variant_label, cell.label, cell.key}]
        if not chosen:
            known = dict.fromkeys(cell.variant_label for cell in cells)
            raise UsageError(f"baseline='{wanted}' was not recorded; {nearest(wanted, known)}")
    else:
        named = [cell for cell in cells if is_own_baseline(cell)]
        chosen = named or [cell for cell in cells if precision_rank(cell) is not None]

    def rank(cell: Cell) -> tuple[bool, bool, int]:
        priced = reference is not None and cell.id in reference.cells
        return not cell.tasks, not priced, precision_rank(cell) or 0

    return min(chosen, key=rank, default=None)


def is_own_baseline(cell: Cell) -> bool:
    """Whether the run that made the cell scored its variants against this very scheme."""
    scheme, baseline = mapping(cell.config.get("scheme")), mapping(cell.config.get("baseline"))
    return bool(scheme) and scheme == baseline


def precision_rank(cell: Cell) -> int | None:
    """How close to full precision an unquantized variant is (0 the closest); None for a quantized one."""
    scheme = mapping(cell.variant.get("scheme")) or mapping(cell.config.get("scheme"))
    for name in (text(scheme.get("type")), text(scheme.get("kind")), cell.variant_label):
        if name is not None and name.upper() in UNQUANTIZED:
            return UNQUANTIZED[name.upper()]
    return None


@dataclass(frozen=True, kw_only=True)
class _Setting:
    """What all cells of one analysis are compared under; `anchor` is the baseline, else the first measured cell."""

    config: ReportConfig
    reference: Load | None
    baseline: Cell | None
    anchor: Cell | None
    tasks: Mapping[str, str]
    rows: Mapping[str, CostRow]


def _candidate(cell: Cell, setting: _Setting) -> Candidate:
    reference, baseline, config = setting.reference, setting.baseline, setting.config
    anchor = setting.anchor or cell
    found = () if cell.id == anchor.id else tuple(differences(cell, anchor))
    excluded = _excluded(cell, anchor, setting, found)
    loss = loss_of(cell, baseline, setting.tasks)
    if reference is None:
        throughput = absent(cell, "load", "output_throughput", "no load was measured")
        cost = request_cost = dataclasses.replace(throughput, tag="cost")
    else:
        throughput = read(cell, "scenarios", reference.name, "output_throughput")
        price = price_of(cell, config)
        cost = cost_per_mtok(cell, reference.name, price)
        request_cost = cost_per_request(cell, reference.name, price)
    return Candidate(
        cell=cell,
        is_baseline=baseline is not None and cell.id == baseline.id,
        throughput=throughput,
        cost=cost,
        request_cost=request_cost,
        loss=loss,
        speed=_speed(cell, throughput, setting, excluded),
        quality=_quality(cell, loss, setting, excluded, found),
        excluded=excluded,
        differences=found,
        costs=setting.rows.get(cell.id),
    )


def _excluded(cell: Cell, anchor: Cell, setting: _Setting, found: Sequence[Difference]) -> str | None:
    """Why a measured cell must not be compared with `anchor`, the baseline where there is one.

    Another machine is no hindrance where the price book has a price for each of the two.
    """
    if not cell.scenarios and not cell.tasks:
        return None
    reference, config = setting.reference, setting.config
    digest, expected = text(cell.model.get("digest")), text(anchor.model.get("digest"))
    if digest is not None and expected is not None and digest != expected:
        return f"another model than {anchor.label}"
    for each in found:
        if each.facet in EVERYTHING and not each.source:
            return each.said
    if other_machine(cell, anchor) and not (price_of(cell, config).own and price_of(anchor, config).own):
        return f"measured on another machine than {anchor.label}"
    if reference is not None and cell.id in reference.other_cells:
        return f"load {reference.name} was asked otherwise than in most cells"
    return None


def other_machine(cell: Cell, other: Cell) -> bool:
    """Whether two cells are recorded on machines that differ in what makes a difference."""
    return bool(cell.machine) and bool(other.machine) and cell.machine_id != other.machine_id


def compare_throughput(above: Reading, below: Reading, against: str, margin: float) -> Comparison:
    """Relative change of throughput, independent measurements."""
    for reading, whose in ((above, "its"), (below, f"{against}'s")):
        if reading.estimate is None:
            return Comparison(
                against=against, change=None, verdict=Verdict.INCONCLUSIVE, reason=f"{whose} figure is missing"
            )
        if reading.validity:
            return Comparison(
                against=against, change=None, verdict=Verdict.INCONCLUSIVE, reason=f"{whose} figure is not valid"
            )
    assert above.estimate is not None
    assert below.estimate is not None
    relative = ratio(above.estimate, below.estimate)
    if relative is None:
        return Comparison(against=against, change=None, verdict=Verdict.INCONCLUSIVE, reason="a figure is not positive")
    change = relative.shifted(-1.0)
    verdict = judge(change, margin=margin, higher_is_better=True)
    reason = "" if change.has_interval else "there is no interval to judge by"
    return Comparison(against=against, change=change, verdict=verdict, reason=reason)


def _speed(cell: Cell, throughput: Reading, setting: _Setting, excluded: str | None) -> Comparison:
    baseline, reference = setting.baseline, setting.reference
    blocked = _blocked(cell, baseline, excluded)
    if blocked is not None or baseline is None:
        return blocked or _no_baseline()
    if reference is None:
        return dataclasses.replace(_no_baseline(), against=baseline.label, reason="no load was measured")
    if other_machine(cell, baseline):
        reason = f"{baseline.label} was measured on another machine"
        return dataclasses.replace(_no_baseline(), against=baseline.label, reason=reason)
    other = read(baseline, "scenarios", reference.name, "output_throughput")
    return compare_throughput(throughput, other, baseline.label, setting.config.margins.throughput)


def _quality(
    cell: Cell, loss: Loss, setting: _Setting, excluded: str | None, found: Sequence[Difference]
) -> Comparison:
    baseline, config = setting.baseline, setting.config
    blocked = _blocked(cell, baseline, excluded)
    if blocked is not None or baseline is None:
        return blocked or _no_baseline()
    reading = loss.perplexity_change
    spoilt = spoils(found, source=reading.source)
    if spoilt is not None and reading.estimate is not None:
        return Comparison(against=baseline.label, change=None, verdict=Verdict.INCONCLUSIVE, reason=spoilt)
    inconclusive = Comparison(against=baseline.label, change=None, verdict=Verdict.INCONCLUSIVE)
    if reading.estimate is None:
        return dataclasses.replace(inconclusive, reason=reading.missing or "not measured")
    if reading.validity:
        return dataclasses.replace(inconclusive, reason="the figure is not valid")
    verdict = judge(reading.estimate, margin=config.margins.perplexity, higher_is_better=False)
    reason = "" if reading.estimate.has_interval else "there is no interval to judge by"
    return Comparison(against=baseline.label, change=reading.estimate, verdict=verdict, reason=reason)


def _blocked(cell: Cell, baseline: Cell | None, excluded: str | None) -> Comparison | None:
    if baseline is None:
        return _no_baseline()
    if cell.id == baseline.id:
        return Comparison(against=baseline.label, change=None, verdict=Verdict.EQUIVALENT, reason="it is the baseline")
    if excluded is not None:
        return Comparison(against=baseline.label, change=None, verdict=Verdict.INCONCLUSIVE, reason=excluded)
    return None


def _no_baseline() -> Comparison:
    return Comparison(against="", change=None, verdict=Verdict.INCONCLUSIVE, reason="there is no baseline")


def mark_frontier(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Mark who is on the frontier of cost at the priced load against perplexity change, and who beats the others."""
    places = {point.cell: point for point in frontier(candidates, COST, LOSS).points}
    return [
        dataclasses.replace(c, on_frontier=point.standing is Standing.FRONTIER, dominated_by=point.by or None)
        if (point := places.get(c.cell.id)) is not None
        else c
        for c in candidates
    ]


def watermark_of(cells: Sequence[Cell]) -> str:
    """What must stand with every ranking by speed: that a CPU's order of formats is not a GPU's."""
    measured = [cell for cell in cells if cell.scenarios and cell.machine]
    return WATERMARK if measured and not any(cell.has_gpu for cell in measured) else ""


def _notes(
    cells: Sequence[Cell], candidates: Sequence[Candidate], baseline: Cell | None, reference: Load | None
) -> list[str]:
    """What a reader must know before believing a comparison."""
    measured = [cell for cell in cells if cell.scenarios or cell.tasks]
    notes = [f"About the model: {note}" for cell in measured for note in texts(cell.model.get("notes"))]
    notes += [
        f"{cell.variant_label}: {warning}" for cell in measured for warning in texts(cell.variant.get("warnings"))
    ]
    if watermark_of(cells):
        notes.append(WATERMARK)
    if any("another machine" in (candidate.excluded or "") for candidate in candidates):
        notes.append(
            "Cells come from different machines; one price is applied to all, and only one machine is ranked:"
            " give each its price under prices."
        )
    if baseline is None and measured:
        notes.append("There is no unquantized variant to compare with, so no loss can be stated.")
    excluded = [c for c in candidates if c.excluded is not None]
    if excluded:
        notes.append(
            f"{len(excluded)} cell{'' if len(excluded) == 1 else 's'} shown but not compared: {excluded[0].excluded}"
            f"{' and other reasons' if len({c.excluded for c in excluded}) > 1 else ''}."
        )
    if reference is None and measured:
        notes.append("No load was measured, so there is no speed and no cost.")
    return list(dict.fromkeys(notes))
