"""What variants are ranked and plotted by: cost, throughput, latency and memory, against what they lose."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from bench.analysis import formatting as fmt
from bench.analysis.config import Priority, ReportConfig
from bench.analysis.economics import accuracy_tags
from bench.analysis.estimate import Estimate
from bench.analysis.pareto import Axis, Frontier, frontier
from bench.analysis.readings import Reading, absent, read
from bench.analysis.results import number

if TYPE_CHECKING:
    from bench.analysis.candidates import Candidate
    from bench.analysis.loads import Load

MEMORY = "serving_memory_bytes"


def axis_of(priority: Priority, reference: Load | None, config: ReportConfig) -> Axis:
    """The axis of a priority at the priced load; cost is that under the objective where one is set."""
    name = reference.name if reference is not None else ""
    if priority is Priority.cost:
        unit = f"{config.price.currency}/10⁶ tokens"
        money = fmt.money(config.price.currency)
        if config.slo.given:
            return Axis(name="cost at the SLO", unit=unit, read=cost_at_slo, higher_is_better=False, formatter=money)
        return Axis(name="cost", unit=unit, read=cost_reading, higher_is_better=False, formatter=money)
    if priority is Priority.throughput:
        return Axis(
            name="throughput",
            unit="output tokens/s",
            read=throughput_reading,
            higher_is_better=True,
            formatter=fmt.significant,
        )
    if priority is Priority.latency:
        return Axis(
            name="end-to-end latency p50",
            unit="ms",
            read=lambda candidate: read(candidate.cell, "scenarios", name, "e2e_latency", "p50"),
            higher_is_better=False,
            formatter=fmt.significant,
        )
    if priority is Priority.memory:
        return Axis(
            name="memory while serving",
            unit="MB",
            read=memory_reading,
            higher_is_better=False,
            formatter=lambda value: f"{fmt.megabytes(value)} MB",
        )
    return LOSS


def cost_reading(candidate: Candidate) -> Reading:
    """Per million output tokens at the priced load."""
    return candidate.cost


def cost_at_slo(candidate: Candidate) -> Reading:
    """Per million blended tokens at the capacity under the objective."""
    if candidate.costs is None:
        return absent(candidate.cell, "slo", "cost", "no load was measured")
    return candidate.costs.at_slo


def throughput_reading(candidate: Candidate) -> Reading:
    """Output tokens per second at the priced load."""
    return candidate.throughput


def memory_reading(candidate: Candidate) -> Reading:
    """Memory that serving takes, as far as it was recorded: the server's peak, else weights and KV cache."""
    engine = candidate.cell.engine
    peak = number(engine.get("peak_gpu_bytes")) or number(engine.get("peak_rss_bytes"))
    weights, cache = number(engine.get("weights_bytes")), number(engine.get("kv_cache_bytes"))
    found = peak if peak is not None else None if weights is None or cache is None else weights + cache
    if found is None:
        return absent(candidate.cell, "memory", MEMORY, "the server's memory was not recorded", unit="bytes")
    return Reading(
        cell=candidate.cell.id,
        source="memory",
        tag=MEMORY,
        statistic="value",
        unit="bytes",
        estimate=Estimate(value=found),
    )


def loss_reading(candidate: Candidate) -> Reading:
    """Relative change of perplexity."""
    return candidate.loss.perplexity_change


COST = Axis(name="cost", unit="", read=cost_reading, higher_is_better=False, formatter=fmt.significant)
LOSS = Axis(name="perplexity change", unit="ratio", read=loss_reading, higher_is_better=False, formatter=fmt.change)
DIVERGENCE = Axis(
    name="mean divergence",
    unit="nat/token",
    read=lambda candidate: candidate.loss.divergence,
    higher_is_better=False,
    formatter=fmt.significant,
)


def accuracy_loss(task: str) -> Axis:
    """Points of accuracy lost against the baseline in `task`: the paired change, turned over."""

    def lost(candidate: Candidate) -> Reading:
        measured = candidate.cell.tasks.get(task)
        tags = None if measured is None else accuracy_tags(measured)
        if tags is None:
            return absent(candidate.cell, task, "accuracy_change", f"{task} was not measured")
        change = read(candidate.cell, "tasks", task, tags[1])
        if change.estimate is None:
            return change
        turned = Estimate(
            value=0.0 - change.estimate.value,
            lo=None if change.estimate.hi is None else -change.estimate.hi,
            hi=None if change.estimate.lo is None else -change.estimate.lo,
        )
        return dataclasses.replace(change, tag="accuracy_loss", estimate=turned)

    return Axis(name=f"accuracy lost in {task}", unit="ratio", read=lost, higher_is_better=False, formatter=fmt.change)


def loss_axis(candidates: Sequence[Candidate]) -> Axis:
    """The loss that most variants have: the change of perplexity, else accuracy in a task, else divergence."""
    tasks = dict.fromkeys(name for each in candidates for name, task in each.cell.tasks.items() if accuracy_tags(task))
    axes = [LOSS, *(accuracy_loss(name) for name in tasks), DIVERGENCE]
    usable = [sum(axis.read(candidate).usable for candidate in candidates) for axis in axes]
    return axes[usable.index(max(usable))]


def frontiers(candidates: Sequence[Candidate], reference: Load | None, config: ReportConfig) -> tuple[Frontier, ...]:
    """The frontiers of cost, throughput, latency and memory against the loss; those with no point are left out."""
    loss = loss_axis(candidates)
    named = (Priority.cost, Priority.throughput, Priority.latency, Priority.memory)
    drawn = [frontier(candidates, axis_of(priority, reference, config), loss) for priority in named]
    return tuple(each for each in drawn if each.points)
