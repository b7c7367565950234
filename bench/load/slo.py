"""Service level objectives: what a request, and a load as a whole, must keep to.

A request meets an objective when it succeeds within every bound. A load holds it when the `percentile` of each metric
stays within its bound and a `success` share of the requests succeeds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bench.base.schema import schema

_PERCENTILES = (50.0, 90.0, 95.0, 99.0)
_METRIC_OF = {"ttft_ms": "ttft", "itl_ms": "itl", "tpot_ms": "tpot", "e2e_ms": "e2e_latency"}


@dataclass(frozen=True, kw_only=True)
class Bound:
    """`statistic` of metric `tag` shall be no more than `limit_ms`."""

    tag: str
    statistic: str
    limit_ms: float


@schema("slo", "slo")
@dataclass(frozen=True, kw_only=True)
class SloConfig:
    """Bounds in ms, null: none. With all null there is no objective.

    `itl_ms` bounds the gaps between tokens, `tpot_ms` each request's mean of them; of a single request both bound its
    mean. `percentile` is 50, 90, 95 or 99; `success` is a share from 0 to 1.
    """

    ttft_ms: float | None = None
    itl_ms: float | None = None
    tpot_ms: float | None = None
    e2e_ms: float | None = None
    percentile: float = 95.0
    success: float = 0.99

    def __post_init__(self) -> None:
        for name in _METRIC_OF:
            limit = getattr(self, name)
            if limit is not None and not limit > 0:
                raise ValueError(f"slo.{name}={limit} must be above 0, or null for no bound")
        if self.percentile not in _PERCENTILES:
            raise ValueError(f"slo.percentile={self.percentile:g}: write 50, 90, 95 or 99")
        if not 0 < self.success <= 1:
            raise ValueError(f"slo.success={self.success}: write a share above 0 up to 1, such as 0.99")

    @property
    def given(self) -> bool:
        """Whether there is any bound."""
        return any(getattr(self, name) is not None for name in _METRIC_OF)

    def bounds(self) -> tuple[Bound, ...]:
        """What a load as a whole is held to, beside `success`."""
        limits = ((tag, getattr(self, name)) for name, tag in _METRIC_OF.items())
        statistic = f"p{self.percentile:g}"
        return tuple(Bound(tag=tag, statistic=statistic, limit_ms=limit) for tag, limit in limits if limit is not None)

    def describe(self) -> str:
        """In words: `TTFT p95 ≤ 500 ms, ITL p95 ≤ 50 ms, 99 % succeed`."""
        said = [f"{_WORDS[bound.tag]} {bound.statistic} ≤ {bound.limit_ms:g} ms" for bound in self.bounds()]
        return ", ".join([*said, f"{100 * self.success:g} % succeed"])


_WORDS = {"ttft": "TTFT", "itl": "ITL", "tpot": "TPOT", "e2e_latency": "end to end"}


def judge(metrics: Mapping[str, Mapping[str, Any]], slo: SloConfig) -> dict[str, Any]:
    """Whether a load held an objective, from a summary's `metrics`: every bound with its figure, and the whole.

    `held` is None where a figure is missing and nothing else is broken; `validity` are the reasons not to believe the
    figures that were needed.
    """
    bounds = []
    for bound in slo.bounds():
        value = metrics.get(bound.tag, {}).get(bound.statistic)
        held = None if value is None else bool(value <= bound.limit_ms)
        bounds.append({**dataclasses.asdict(bound), "value_ms": value, "held": held})
    failed = metrics.get("error_rate", {}).get("value")
    success = None if failed is None else 1 - failed
    verdicts = [entry["held"] for entry in bounds]
    verdicts.append(None if success is None else success >= slo.success)
    reasons = [reason for bound in slo.bounds() for reason in metrics.get(bound.tag, {}).get("validity", ())]
    return {
        "asked": dataclasses.asdict(slo),
        "bounds": bounds,
        "success": success,
        "held": False if False in verdicts else None if None in verdicts else True,
        "validity": list(dict.fromkeys(reasons)),
    }
