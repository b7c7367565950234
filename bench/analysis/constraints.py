"""What a variant must hold before it may be recommended: memory, hardware, quality floor, objective."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from bench.analysis import formatting as fmt
from bench.analysis.axes import memory_reading
from bench.analysis.candidates import Candidate
from bench.analysis.config import ReportConfig
from bench.analysis.economics import accuracy_tags
from bench.analysis.prices import hardware_name, words
from bench.analysis.readings import read
from bench.analysis.service import Held

GIB = 1 << 30
QUESTIONS = frozenset({"accuracy_micro"})


class Holds(StrEnum):
    """Whether a constraint is held."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True)
class Check:
    """One constraint against one variant; `said` is a sentence without its end."""

    name: str
    holds: Holds
    said: str


def checks(candidate: Candidate, config: ReportConfig) -> list[Check]:
    """Every constraint that is set, against `candidate`."""
    found = [_memory(candidate, config), _hardware(candidate, config), *_floor(candidate, config)]
    return [check for check in (*found, _objective(candidate, config)) if check is not None]


def _memory(candidate: Candidate, config: ReportConfig) -> Check | None:
    limit = config.constraints.memory_gib
    if limit is None:
        return None
    reading, label = memory_reading(candidate), candidate.cell.label
    if reading.estimate is None:
        size = candidate.cell.size_bytes
        if size is not None and size > limit * GIB:
            told = f"{label} does not fit {limit:g} GiB: its files alone take {size / GIB:.3g} GiB"
            return Check(name="memory", holds=Holds.NO, said=told)
        told = f"whether {label} fits {limit:g} GiB is unknown: {reading.missing}"
        return Check(name="memory", holds=Holds.UNKNOWN, said=told)
    needed = reading.estimate.value / GIB
    fits = needed <= limit
    told = f"{label} {'fits' if fits else 'does not fit'} {limit:g} GiB: serving it took {needed:.3g} GiB"
    return Check(name="memory", holds=Holds.YES if fits else Holds.NO, said=told)


def _hardware(candidate: Candidate, config: ReportConfig) -> Check | None:
    wanted = config.constraints.gpu
    if not wanted:
        return None
    name, label = hardware_name(candidate.cell), candidate.cell.label
    if not name:
        return Check(name="hardware", holds=Holds.UNKNOWN, said=f"what {label} was measured on is not recorded")
    holds = words(wanted) <= words(name)
    told = f"{label} was measured on {name}" + ("" if holds else f", not on {wanted}")
    return Check(name="hardware", holds=Holds.YES if holds else Holds.NO, said=told)


def _floor(candidate: Candidate, config: ReportConfig) -> list[Check]:
    floor = config.constraints.min_accuracy
    if floor is None:
        return []
    found, label = [], candidate.cell.label
    for task in candidate.cell.tasks.values():
        tags = accuracy_tags(task)
        tag = tags[0] if tags is not None else next((name for name in task.metrics if name in QUESTIONS), None)
        if tag is None:
            continue
        reading = read(candidate.cell, "tasks", task.name, tag)
        if reading.estimate is None or not reading.usable:
            reason = reading.missing or ", ".join(reading.validity)
            said = f"whether {label} keeps the floor in {task.name} is unknown: {reason}"
            found.append(Check(name="quality floor", holds=Holds.UNKNOWN, said=said))
            continue
        holds = reading.estimate.value >= floor
        shown, least = fmt.percent(reading.estimate.value), fmt.percent(floor)
        said = f"{label} answers {shown} of {task.name} right, the floor is {least}"
        sure = reading.estimate.lo is not None and reading.estimate.lo >= floor
        if holds and not sure:
            said += ", and its interval reaches below it"
        found.append(Check(name="quality floor", holds=Holds.YES if holds else Holds.NO, said=said))
    if not found:
        said = f"{label} has no task with right answers, so the floor cannot be checked"
        found.append(Check(name="quality floor", holds=Holds.UNKNOWN, said=said))
    return found


def _objective(candidate: Candidate, config: ReportConfig) -> Check | None:
    if not config.slo.given:
        return None
    row, label, told = candidate.costs, candidate.cell.label, config.slo.describe()
    if row is None or not row.points:
        why = "no load of it may be believed" if row is not None else "it has no load"
        return Check(name="SLO", holds=Holds.UNKNOWN, said=f"whether {label} holds {told} is unknown: {why}")
    if row.capacity.rate is not None:
        return Check(name="SLO", holds=Holds.YES, said=f"{label} holds {told}: {row.capacity.why}")
    unknown = all(point.held is Held.UNKNOWN for point in row.points)
    holds = Holds.UNKNOWN if unknown else Holds.NO
    return Check(name="SLO", holds=holds, said=f"{label} does not hold {told}: {row.capacity.why}")


def broken(found: Sequence[Check]) -> list[Check]:
    """Those that are not held, or not known to be."""
    return [check for check in found if check.holds is not Holds.YES]
