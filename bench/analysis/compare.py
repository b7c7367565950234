"""Two runs or sweeps side by side: what changed from A to B, with its interval, and how that comparison ends.

Quality is paired over the same items wherever both kept them. Speeds are ratios of independent measurements: the
interval of each is that of its repeats where a cell was repeated, else of its batch means within the run.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from bench.analysis.candidates import WATERMARK
from bench.analysis.comparability import Facet, differences
from bench.analysis.config import MarginConfig
from bench.analysis.economics import compared_tags
from bench.analysis.estimate import Estimate, Verdict, judge, ratio
from bench.analysis.items import Paired, paired_tasks
from bench.analysis.pareto import MEMORY_VARIES
from bench.analysis.readings import Reading, read
from bench.analysis.results import TAILS, Cell, Results, mapping, number
from bench.load.metrics import METRICS, Better
from bench.quality.statistics.student import t_quantile

BATCHES = "independent, batch means within each run"
SINGLE = "independent"
EXACT = "exact"
_FILES = {"size_bytes": "bytes", "effective_bits_per_weight": "bits"}
_MEMORY = ("peak_gpu_bytes", "peak_rss_bytes", "weights_bytes", "kv_cache_bytes")
_TAILED = frozenset({"ttft", "itl", "e2e_latency"})
"""Latencies whose tail is compared too: a median does not show what a few wait for."""
_COUNTS = frozenset({"output_tokens_total", "prompt_tokens_total", "cached_tokens_total"})


@dataclass(frozen=True, kw_only=True)
class Change:
    """One figure of one pair of cells. `change` is (B - A) / A, or B - A where `absolute`; None with a `reason`.

    `basis` says what is paired with what; `compared` is False where the two may not be compared, whose verdict then
    means nothing.
    """

    cell: str
    kind: str
    source: str
    metric: str
    unit: str
    before: Estimate | None
    after: Estimate | None
    change: Estimate | None
    verdict: Verdict
    absolute: bool = False
    basis: str = ""
    reason: str = ""
    compared: bool = True


@dataclass(frozen=True, kw_only=True)
class SideBySide:
    """Everything a comparison says. `only_before` and `only_after` are the labels of cells without a counterpart."""

    before: str
    after: str
    changes: tuple[Change, ...]
    only_before: tuple[str, ...]
    only_after: tuple[str, ...]
    not_comparable: tuple[str, ...]
    notes: tuple[str, ...]

    def count(self, verdict: Verdict) -> int:
        """How many figures that could be compared end so."""
        return sum(each.compared and each.verdict is verdict for each in self.changes)


def compare(before: Results, after: Results, margins: MarginConfig) -> SideBySide:
    """Compare two loaded results, cell by cell."""
    pairs, only_before, only_after = _pairs(before.cells, after.cells)
    changes: list[Change] = []
    said: list[str] = []
    notes: list[str] = []
    for own, others in pairs:
        found = differences(others[0], own[0])
        spoilt = {each.source: each.said for each in reversed(found)}
        said += [each.said for each in found]
        notes += _notes(own[0], others[0])
        whole = next((each.said for each in found if each.facet is Facet.MODEL), spoilt.get(""))
        for change in _changes(own, others, margins):
            why = whole or spoilt.get(change.source)
            changes.append(_not_compared(change, why) if why is not None else change)
    return SideBySide(
        before=_name(before),
        after=_name(after),
        changes=tuple(changes),
        only_before=tuple(cells[0].label for cells in only_before),
        only_after=tuple(cells[0].label for cells in only_after),
        not_comparable=tuple(dict.fromkeys(said)),
        notes=tuple(dict.fromkeys(notes)),
    )


def _name(results: Results) -> str:
    return " + ".join(dict.fromkeys(run.name for run in results.runs))


def _not_compared(change: Change, why: str) -> Change:
    return Change(**{**vars(change), "change": None, "verdict": Verdict.INCONCLUSIVE, "reason": why, "compared": False})


Group = tuple[Cell, ...]
"""A cell with its repeats."""


def _pairs(before: Sequence[Cell], after: Sequence[Cell]) -> tuple[list[tuple[Group, Group]], list[Group], list[Group]]:
    """Cells of both sides of the same variant and engine; of several such those with the same overrides.

    One measured cell on either side is a pair whatever it is.
    """
    own, others = _groups(before), _groups(after)
    if len(own) == 1 and len(others) == 1:
        return [(own[0], others[0])], [], []
    pairs: list[tuple[Group, Group]] = []
    lonely: list[Group] = []
    left = list(others)
    ways = [_settings, _names] if _unique(own) and _unique(others) else [_settings]
    for way in ways:
        known = {way(group): group for group in left}
        remaining = lonely or own
        lonely = []
        for group in remaining:
            match = known.pop(way(group), None)
            if match is None:
                lonely.append(group)
            else:
                pairs.append((group, match))
                left.remove(match)
        if not lonely:
            break
    return pairs, lonely, left


def _groups(cells: Sequence[Cell]) -> list[Group]:
    """Measured cells, repeats of one together."""
    groups: dict[Any, list[Cell]] = {}
    for cell in cells:
        if cell.scenarios or cell.tasks:
            groups.setdefault(_settings((cell,)), []).append(cell)
    return [tuple(group) for group in groups.values()]


def _names(group: Group) -> tuple[str, str]:
    return group[0].variant_label, group[0].engine_kind or ""


def _settings(group: Group) -> tuple[Any, ...]:
    written = sorted(each for each in group[0].overrides if not each.startswith("repeat="))
    return (*_names(group), *written)


def _unique(groups: Sequence[Group]) -> bool:
    return len({_names(group) for group in groups}) == len(groups)


def _notes(own: Cell, other: Cell) -> Iterator[str]:
    if own.machine and other.machine and own.machine_id != other.machine_id:
        yield f"{own.label}: the two were measured on different machines, so speeds compare machines too."
    if own.variant_label != other.variant_label and not (own.has_gpu and other.has_gpu):
        yield WATERMARK
    builds = [str(cell.engine.get("build")) for cell in (own, other) if cell.engine.get("build")]
    if len(set(builds)) > 1:
        yield f"{own.label}: engine builds differ ({', then '.join(builds)})."


def _changes(own: Group, others: Group, margins: MarginConfig) -> Iterator[Change]:
    yield from _speeds(own, others, margins)
    paired = paired_tasks(own[0], others[0], margins)
    for each in itertools.chain.from_iterable(paired.values()):
        yield _paired(own[0], each)
    yield from _scores(own[0], others[0], paired, margins)
    yield from _exact(own[0], others[0])


def _speeds(own: Group, others: Group, margins: MarginConfig) -> Iterator[Change]:
    for load in own[0].scenarios:
        if load not in others[0].scenarios:
            continue
        for tag, metric in METRICS.items():
            if metric.better is Better.neither or tag in _COUNTS:
                continue
            repeated = min(len(own), len(others))
            basis = f"independent, {len(own)} and {len(others)} repeats" if repeated > 1 else BATCHES
            tail = _tail(own, others, load, tag) if tag in _TAILED else None
            for statistic in (None,) if tail is None else (None, tail):
                before, after = _pooled(own, load, tag, statistic), _pooled(others, load, tag, statistic)
                if before.estimate is None and after.estimate is None:
                    continue
                yield _independent(
                    own[0],
                    ("load", before, after),
                    higher_is_better=metric.better is Better.higher,
                    margin=margins.throughput,
                    basis=basis,
                    absolute=metric.unit == "ratio",
                )


def _tail(own: Group, others: Group, load: str, tag: str) -> str | None:
    """The farthest percentile that both sides can be judged by: each has an interval, or repeats that give one."""
    for name in reversed(TAILS):
        sides = [_pooled(group, load, tag, name).estimate for group in (own, others)]
        if all(side is not None and side.has_interval for side in sides):
            return name
    return None


def _pooled(group: Group, load: str, tag: str, statistic: str | None) -> Reading:
    """The figure of a cell; of a repeated one the mean of its repeats, with Student's interval."""
    readings = [read(cell, "scenarios", load, tag, statistic) for cell in group]
    usable = [reading for reading in readings if reading.usable]
    if len(usable) < 2:
        return usable[0] if usable else readings[0]
    values = [reading.estimate.value for reading in usable if reading.estimate is not None]
    mean = math.fsum(values) / len(values)
    spread = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))
    half = t_quantile(len(values) - 1) * spread / math.sqrt(len(values))
    estimate = Estimate(value=mean, lo=mean - half, hi=mean + half)
    return Reading(**{**vars(usable[0]), "estimate": estimate})


def _independent(
    cell: Cell,
    figure: tuple[str, Reading, Reading],
    *,
    higher_is_better: bool,
    margin: float,
    basis: str,
    absolute: bool = False,
) -> Change:
    kind, before, after = figure
    why = _why_not(before, "A") or _why_not(after, "B")
    change = None
    if why is None and before.estimate is not None and after.estimate is not None:
        if absolute:
            change = _minus(after.estimate, before.estimate)
        else:
            relative = ratio(after.estimate, before.estimate)
            change = None if relative is None else relative.shifted(-1.0)
            why = "a figure is not positive" if relative is None else None
    if change is not None and not change.has_interval:
        why = "there is no interval to judge by"
    verdict = Verdict.INCONCLUSIVE
    if change is not None:
        verdict = judge(change, margin=margin, higher_is_better=higher_is_better)
    return Change(
        cell=cell.label,
        kind=kind,
        source=before.source,
        metric=f"{before.tag} {before.statistic}" if before.statistic in TAILS else before.tag,
        unit=before.unit or after.unit,
        before=before.estimate,
        after=after.estimate,
        change=change,
        verdict=verdict,
        absolute=absolute,
        basis=basis,
        reason=why or "",
    )


def _why_not(reading: Reading, side: str) -> str | None:
    if reading.estimate is None:
        return f"{side} has none: {reading.missing}"
    return f"{side}'s may not be believed: {', '.join(reading.validity)}" if reading.validity else None


def _minus(after: Estimate, before: Estimate) -> Estimate:
    """Difference of independent estimates: half widths add in squares."""
    value = after.value - before.value
    if after.lo is None or after.hi is None or before.lo is None or before.hi is None:
        return Estimate(value=value)
    down = math.hypot(after.value - after.lo, before.hi - before.value)
    up = math.hypot(after.hi - after.value, before.value - before.lo)
    return Estimate(value=value, lo=value - down, hi=value + up)


def _paired(cell: Cell, paired: Paired) -> Change:
    return Change(
        cell=cell.label,
        kind="task",
        source=paired.task,
        metric=paired.metric,
        unit=paired.unit,
        before=paired.before,
        after=paired.after,
        change=paired.change,
        verdict=paired.verdict,
        absolute=paired.absolute,
        basis=paired.basis,
        reason=paired.reason,
    )


def _scores(own: Cell, other: Cell, paired: Container[str], margins: MarginConfig) -> Iterator[Change]:
    """Perplexity, and the first figure that tells its change, of tasks whose items could not be paired."""
    for name in own.tasks:
        if name in paired or name not in other.tasks:
            continue
        score = next((tag for tag in compared_tags(own.tasks[name]) if tag != "perplexity"), "accuracy_micro")
        for tag, higher, absolute in (("perplexity", False, False), (score, True, True)):
            if tag in own.tasks[name].metrics and tag in other.tasks[name].metrics:
                figure = ("task", read(own, "tasks", name, tag), read(other, "tasks", name, tag))
                points = own.tasks[name].metrics[tag].unit == "points"
                margin = margins.rating if points else margins.accuracy if absolute else margins.perplexity
                yield _independent(own, figure, higher_is_better=higher, margin=margin, basis=SINGLE, absolute=absolute)


def _exact(own: Cell, other: Cell) -> Iterator[Change]:
    """Sizes and memory: a smaller one is better by any amount, for they are counted."""
    for names, unit, before, after in (
        (("size_bytes",), "bytes", own.variant, other.variant),
        (_MEMORY, "bytes", own.engine, other.engine),
    ):
        for name in names:
            first, second = number(mapping(before).get(name)), number(mapping(after).get(name))
            if first and second is not None:
                measured = name not in _FILES
                yield _counted(own, name, unit, first, second, margin=MEMORY_VARIES if measured else 0.0)


def _counted(cell: Cell, name: str, unit: str, first: float, second: float, *, margin: float) -> Change:
    """Peaks of memory vary a little from run to run: within the margin they are equivalent."""
    relative = second / first - 1
    exact = Estimate(value=relative, lo=relative, hi=relative)
    return Change(
        cell=cell.label,
        kind="engine" if margin else "variant",
        source="memory" if margin else "files",
        metric=name,
        unit=unit,
        before=Estimate(value=first),
        after=Estimate(value=second),
        change=exact,
        verdict=judge(exact, margin=margin, higher_is_better=False),
        basis=EXACT if not margin else "one reading each, within 5 % equivalent",
    )
