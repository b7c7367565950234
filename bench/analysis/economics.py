"""What follows from a cost: per correct answer, against an API's price, and with the cost of making the variant."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bench.analysis.config import ApiPriceConfig
from bench.analysis.estimate import Estimate, ratio
from bench.analysis.prices import MachinePrice
from bench.analysis.raw import read_columns
from bench.analysis.readings import Reading, read
from bench.analysis.results import Cell, Measurement, number

if TYPE_CHECKING:
    from bench.analysis.capacity import Capacity
    from bench.analysis.cost import Mix

SECONDS_PER_HOUR = 3600.0
LENGTH = "output_tokens_mean"
COST_PER_CORRECT = "cost_per_correct_answer"


_CHANGES = {"accuracy_micro": "accuracy_change"}
_NOT_RIGHT = frozenset({"pairwise_win_rate"})
"""Shares that a change is told of, and that are not of right answers."""


def accuracy_tags(task: Measurement) -> tuple[str, str] | None:
    """The task's share of right answers and its change against the baseline; None for a task without.

    Tasks name the change `TAG_change`; multiple choice that of `accuracy_micro` `accuracy_change`.
    """
    shares = [tag for tag in compared_tags(task) if task.metrics[tag].unit == "ratio" and tag not in _NOT_RIGHT]
    return (shares[0], _CHANGES.get(shares[0], f"{shares[0]}_change")) if shares else None


def compared_tags(task: Measurement) -> list[str]:
    """The task's figures that a change against the baseline is told of, the share of right answers first."""
    tags = sorted(task.metrics, key=lambda tag: tag not in _CHANGES)
    return [tag for tag in tags if _CHANGES.get(tag, f"{tag}_change") in task.metrics]


def correct_costs(cell: Cell, per_input: Reading, per_output: Reading) -> tuple[Reading, ...]:
    """Currency units per correct answer of every generation task, at the length the model itself chose.

        (prompt tokens * input cost + output tokens * output cost) / share of right answers

    with the mean tokens of an answer, and the costs per token at the priced load by the configured split.
    """
    return tuple(
        reading
        for task in cell.tasks.values()
        if LENGTH in task.metrics and (reading := _correct_cost(cell, task, per_input, per_output)) is not None
    )


def _correct_cost(cell: Cell, task: Measurement, per_input: Reading, per_output: Reading) -> Reading | None:
    tags = accuracy_tags(task)
    if tags is None:
        return None
    share, length = read(cell, "tasks", task.name, tags[0]), read(cell, "tasks", task.name, LENGTH)
    unit = per_output.unit.replace("/Mtok", "/correct answer")
    blank = dataclasses.replace(share, tag=COST_PER_CORRECT, unit=unit, estimate=None)
    parts = (share, length, per_input, per_output)
    validity = tuple(dict.fromkeys(reason for part in parts for reason in part.validity))
    lacking = next((part.missing for part in parts if part.estimate is None), None)
    if share.estimate is None or length.estimate is None or per_input.estimate is None or per_output.estimate is None:
        return dataclasses.replace(blank, validity=(), missing=lacking or "not measured")
    if share.estimate.value <= 0:
        return dataclasses.replace(blank, validity=(), missing="no answer is right")
    prompt = _mean_prompt_tokens(task)
    scale = per_output.estimate.scaled(length.estimate.value / 1e6)
    answer = scale
    if prompt is not None:
        added = per_input.estimate.scaled(prompt / 1e6)
        answer = Estimate(
            value=scale.value + added.value,
            lo=None if scale.lo is None or added.lo is None else scale.lo + added.lo,
            hi=None if scale.hi is None or added.hi is None else scale.hi + added.hi,
        )
    return dataclasses.replace(blank, estimate=ratio(answer, share.estimate), validity=validity, missing=None)


def _mean_prompt_tokens(task: Measurement) -> float | None:
    """Mean tokens of a question, from the items; None where nobody counted them."""
    columns = read_columns(task, "items.parquet", ("prompt_tokens",))
    if not columns or "prompt_tokens" not in columns:
        return None
    counts = np.array([np.nan if value is None else value for value in columns["prompt_tokens"]], dtype=np.float64)
    return float(np.nanmean(counts)) if np.isfinite(counts).any() else None


@dataclass(frozen=True, kw_only=True)
class Making:
    """What making the variant cost: its time at the price of the hour. None where it was not timed.

    `per_mtok` is that spread over the configured lifetime.
    """

    amount: float | None
    per_mtok: float | None = None


def making_of(cell: Cell, price: MachinePrice, lifetime_mtok: float | None) -> Making:
    """The cost of quantizing, on the machine that serves."""
    seconds = number(cell.variant.get("wall_s"))
    if seconds is None:
        return Making(amount=None)
    amount = seconds / SECONDS_PER_HOUR * price.hourly
    return Making(amount=amount, per_mtok=None if lifetime_mtok is None else amount / lifetime_mtok)


def repaid_after_mtok(making: Making, cost: Estimate, baseline: Estimate) -> float | None:
    """Million tokens after which a variant's lower cost per million has paid for making it; None: never, or unknown."""
    saved = baseline.value - cost.value
    return None if making.amount is None or saved <= 0 else making.amount / saved


@dataclass(frozen=True, kw_only=True)
class BreakEven:
    """One machine of one's own against an API at the same mix of tokens.

    From `rate_per_s` requests/s on, around the clock, the machine is cheaper; `utilisation` is that over its capacity.
    `reachable`: it is within what the machine carries; None where its capacity is not known.
    """

    api_per_request: float
    rate_per_s: float
    utilisation: float | None
    reachable: bool | None
    why: str


def break_even(
    capacity: Capacity, mix: Mix | None, price: MachinePrice, api: ApiPriceConfig | None
) -> BreakEven | None:
    """Where the machine breaks even; None without an API's price or without known tokens of a request."""
    if api is None or mix is None:
        return None
    each = api.per_request(mix.input_tokens, mix.output_tokens)
    if each <= 0:
        return None
    rate = price.hourly / SECONDS_PER_HOUR / each
    if capacity.rate is None or capacity.rate.value <= 0:
        why = f"what the machine carries is not known: {capacity.why}"
        return BreakEven(api_per_request=each, rate_per_s=rate, utilisation=None, reachable=None, why=why)
    used = rate / capacity.rate.value
    beyond = used > 1
    if beyond and capacity.at_least:
        why, reachable = "beyond the highest measured load, so it is not known whether it can be reached", None
    elif beyond:
        why, reachable = "the machine cannot carry that much: the API stays cheaper at any demand", False
    else:
        why, reachable = f"from {100 * used:.3g} % of its capacity on, around the clock, the machine is cheaper", True
    return BreakEven(api_per_request=each, rate_per_s=rate, utilisation=used, reachable=reachable, why=why)
