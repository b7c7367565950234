"""What the plan says of recorded requests: what was asked for, sessions, and which of them are the cool-down."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bench.base.clock import NS_PER_S
from bench.load.config import ScenarioConfig
from bench.load.spec import PLAN_DTYPE, read_plan
from bench.load.table import MISSING, Ints, Table


def join_plan(table: Table, plans: Sequence[tuple[Path, str]]) -> Table:
    """The table with the columns of the plans, (directory, stem) each; missing where a plan is damaged or gone."""
    found: list[npt.NDArray[np.void]] = []
    for directory, stem in plans:
        try:
            found.append(read_plan(directory, stem))
        except (OSError, ValueError):
            continue
    plan = np.concatenate(found) if found else np.empty(0, dtype=PLAN_DTYPE)
    plan = plan[np.argsort(plan["slot"], kind="stable")]
    if not len(plan):
        return table
    index = np.minimum(np.searchsorted(plan["slot"], table.slot), len(plan) - 1)
    known = plan["slot"][index] == table.slot

    def column(name: str) -> Ints:
        return np.where(known, plan[name][index].astype(np.int64), MISSING)

    session = column("session")
    return dataclasses.replace(
        table,
        session=session,
        turn=np.where(session == MISSING, MISSING, column("turn")),
        asked_input_tokens=column("input_tokens"),
        asked_output_tokens=column("output_tokens"),
    )


def without_cooldown(table: Table, scenario: ScenarioConfig) -> Table:
    """The table with the cool-down taken out of what is measured: the last `cooldown` slots, and what was scheduled in
    the last `cooldown_s` seconds of sending.
    """
    main = table.main.copy()
    if scenario.cooldown:
        main &= table.slot < scenario.warmup + scenario.requests - scenario.cooldown
    if scenario.cooldown_s and table.main.any():
        last_ns = int(table.scheduled_ns[table.main].max())
        main &= table.scheduled_ns <= last_ns - round(scenario.cooldown_s * NS_PER_S)
    return dataclasses.replace(table, main=main)
