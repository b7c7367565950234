"""Drawing a scenario before it is sent: one pass over its sessions, straight into the workers' plan and body files."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bench.base.errors import UsageError
from bench.load.arrivals.config import TraceConfig
from bench.load.arrivals.trace import Demand, read_trace
from bench.load.config import OpenConfig, ScenarioConfig, WorkloadConfig
from bench.load.payload import request_body
from bench.load.prompts import Prompts
from bench.load.schedule import draw_offsets, draw_thinking, worker_of
from bench.load.spec import PlannedRequest, PlanWriter
from bench.load.target import Target
from bench.load.workloads.draft import Draft, Source
from bench.load.workloads.source import open_source

_TOLD_EVERY = 5000
_MOST_TURNS = 64
"""Turns of a session that are reckoned with where nothing bounds the number of requests."""


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """What was drawn. `scenario` is the one that was asked for, with `requests` as many as there are."""

    scenario: ScenarioConfig
    prompts: Prompts
    sessions: bool
    """Whether answers become part of later requests."""


def draw_plan(
    target: Target,
    scenario: ScenarioConfig,
    workload: WorkloadConfig,
    raw: Path,
    *,
    name: str,
    repeat: int,
    on_drawn: Callable[[int], None] = lambda _: None,
) -> Drawn:
    """Write `worker0.plan`, `worker0.bodies` and so on into `raw`. Slots below `warmup` are the warm-up.

    `on_drawn` is called with the number of requests drawn so far, now and then. Raises UsageError for files that cannot
    be used.
    """
    offsets: npt.NDArray[np.int64] | None = None
    demands: Iterator[Demand | None] = iter(lambda: None, 0)
    left_out = 0
    if isinstance(scenario, TraceConfig):
        trace = read_trace(scenario)
        offsets, left_out = trace.offsets_ns, trace.left_out
        demands = trace.demands() if scenario.lengths else demands
    elif isinstance(scenario, OpenConfig):
        offsets = draw_offsets(scenario, repeat)
    if offsets is not None and not len(offsets):
        raise UsageError(
            "scenario.stages hold no request as drawn: give higher rates or longer stages, or another seed"
        )
    units = scenario.requests if offsets is None else len(offsets)
    bound = scenario.requests if offsets is None or scenario.requests else len(offsets) * _MOST_TURNS
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(open_source(target, workload, scenario.warmup + bound, name=name, repeat=repeat))
        writers = [stack.enter_context(PlanWriter(raw, f"worker{number}")) for number in range(scenario.workers)]
        counted = dataclasses.replace(scenario, requests=scenario.requests or units)
        drawing = _Drawing(counted, workload, target.model, writers, repeat=repeat, on_drawn=on_drawn)
        drawing.warm_up(source)
        drawing.draw(source, demands, offsets, bound)
        prompts = source.prompts()
    if left_out:
        prompts = dataclasses.replace(prompts, how=f"{prompts.how}; {left_out} requests of the trace were left out")
    return Drawn(
        scenario=dataclasses.replace(scenario, requests=drawing.slot - scenario.warmup),
        prompts=prompts,
        sessions=drawing.sessions > 0,
    )


class _Drawing:
    """Slots in order, each into the plan of the worker that sends it."""

    def __init__(
        self,
        scenario: ScenarioConfig,
        workload: WorkloadConfig,
        model: str,
        writers: list[PlanWriter],
        *,
        repeat: int,
        on_drawn: Callable[[int], None],
    ) -> None:
        self._scenario = scenario
        self._workload = workload
        self._model = model
        self._writers = writers
        self._on_drawn = on_drawn
        self._thinking = draw_thinking(scenario, repeat)
        self.slot = 0
        self.sessions = 0

    def warm_up(self, source: Source) -> None:
        """The warm-up asks first turns of the workload's own lengths."""
        for position in range(self._scenario.warmup):
            self._add(worker_of(self._scenario, position), source.session(None)[0], main=False, offset_ns=0)

    def draw(
        self,
        source: Source,
        demands: Iterator[Demand | None],
        offsets: npt.NDArray[np.int64] | None,
        bound: int,
    ) -> None:
        """Units until there are `bound` requests, or in an open loop no offsets more."""
        first, unit = self.slot, 0
        while (missing := bound - (self.slot - first)) > 0 and (offsets is None or unit < len(offsets)):
            turns = source.session(next(demands))[:missing]
            worker = worker_of(self._scenario, unit)
            offset_ns = 0 if offsets is None else int(offsets[unit])
            session = self.sessions if len(turns) > 1 else None
            for number, draft in enumerate(turns):
                self._add(worker, draft, main=True, offset_ns=offset_ns, session=session, turn=number)
            self.sessions += len(turns) > 1
            unit += 1

    def _add(
        self, worker: int, draft: Draft, *, main: bool, offset_ns: int, session: int | None = None, turn: int = 0
    ) -> None:
        body = request_body(self._workload, self._model, draft, in_session=session is not None)
        self._writers[worker].add(
            PlannedRequest(
                slot=self.slot,
                main=main,
                offset_ns=offset_ns,
                think_ns=next(self._thinking) if main else 0,
                body=body.content,
                insert_at=body.insert_at,
                own_length=body.own_length,
                input_tokens=draft.input_tokens,
                output_tokens=draft.output_tokens,
                session=session,
                turn=turn,
            )
        )
        self.slot += 1
        if not self.slot % _TOLD_EVERY:
            self._on_drawn(self.slot)
