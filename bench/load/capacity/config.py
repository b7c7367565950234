"""What `quantbench search` is asked: the largest load that holds an objective, and how much effort to find it."""

from __future__ import annotations

from dataclasses import dataclass, field

from bench.base.schema import schema
from bench.load.config import MISSING, EndpointConfig, ScenarioConfig, WorkloadConfig
from bench.load.slo import SloConfig


@dataclass(frozen=True, kw_only=True)
class EffortConfig:
    """Where the search begins, how fine it gets, and when it ends.

    Levels are requests/s of an open loop, or users of a closed one. From `start` the level is multiplied by `factor`
    (or divided by it) until it no longer holds (holds), inside `lowest` to `highest`; then the bracket is halved on a
    log scale until its ends are within `tolerance` of each other, and both ends are probed `repeats` times.

    Of a probe `requests` are measured at least (0: as many as the objective's percentile needs), and in an open loop it
    lasts `probe_s` at least. After `max_probes` probes or `budget_s` seconds the search ends with what it knows.
    """

    start: float = 1.0
    factor: float = 2.0
    lowest: float = 0.01
    highest: float = 10_000.0
    tolerance: float = 0.05
    repeats: int = 3
    requests: int = 0
    probe_s: float = 20.0
    max_probes: int = 40
    budget_s: float = 3600.0

    def __post_init__(self) -> None:
        if not 0 < self.lowest <= self.start <= self.highest:
            raise ValueError(
                f"search.start={self.start:g} must lie between lowest={self.lowest:g} and highest={self.highest:g}"
            )
        if not self.factor > 1:
            raise ValueError(f"search.factor={self.factor:g} must be above 1")
        if not 0 < self.tolerance < 1:
            raise ValueError(f"search.tolerance={self.tolerance:g}: write a share between 0 and 1, such as 0.05")
        if self.repeats < 1 or self.max_probes < 1 or self.requests < 0:
            raise ValueError("search.repeats and search.max_probes must be 1 or more, search.requests 0 or more")
        if self.probe_s < 0 or not self.budget_s > 0:
            raise ValueError("search.probe_s must be 0 or more, search.budget_s above 0")


@schema(None, "search")
@dataclass(frozen=True, kw_only=True)
class SearchRunConfig:
    """Root of `quantbench search`. The scenario says what is searched over: a closed loop's `concurrency`, or the
    `rate_per_s` of an open loop at one rate. Its `requests` are those of the search.
    """

    endpoint: EndpointConfig = MISSING
    scenario: ScenarioConfig = MISSING
    workload: WorkloadConfig = MISSING
    slo: SloConfig = field(default_factory=SloConfig)
    search: EffortConfig = field(default_factory=EffortConfig)
    out: str = MISSING
    fresh_prompts: bool = True
    """Draw the workload's seed anew at the start of a search; each probe asks with prompts of its own in any case."""
