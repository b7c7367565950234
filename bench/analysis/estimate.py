"""Numbers with 95 % intervals, and the verdicts that comparing them may end in.

Ratios of independent positive estimates: the delta method on the logarithm, with each standard error read back from its
interval as (ln hi - ln lo) / (2 * 1.96). Verdicts are by interval against an equivalence margin (two one-sided tests).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

Z95 = 1.959964


class Verdict(StrEnum):
    """How a comparison ends."""

    BETTER = "better"
    WORSE = "worse"
    EQUIVALENT = "equivalent"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A value with its 95 % interval where one is known."""

    value: float
    lo: float | None = None
    hi: float | None = None

    @property
    def has_interval(self) -> bool:
        """Whether both ends are known."""
        return self.lo is not None and self.hi is not None

    def shifted(self, by: float) -> Estimate:
        """The estimate plus a constant."""
        return Estimate(
            value=self.value + by,
            lo=None if self.lo is None else self.lo + by,
            hi=None if self.hi is None else self.hi + by,
        )

    def scaled(self, by: float) -> Estimate:
        """The estimate times a positive constant."""
        return Estimate(
            value=self.value * by,
            lo=None if self.lo is None else self.lo * by,
            hi=None if self.hi is None else self.hi * by,
        )


def inverse_scaled(estimate: Estimate, numerator: float) -> Estimate | None:
    """numerator / estimate, exactly, with the interval's ends exchanged; None when the value is not positive."""
    if estimate.value <= 0:
        return None
    positive = estimate.lo is not None and estimate.lo > 0 and estimate.hi is not None and estimate.hi > 0
    return Estimate(
        value=numerator / estimate.value,
        lo=numerator / estimate.hi if positive and estimate.hi else None,
        hi=numerator / estimate.lo if positive and estimate.lo else None,
    )


def log_standard_error(estimate: Estimate) -> float | None:
    """Standard error of the logarithm, read back from the interval; None without a positive interval."""
    if estimate.lo is None or estimate.hi is None or estimate.lo <= 0 or estimate.hi < estimate.lo:
        return None
    return (math.log(estimate.hi) - math.log(estimate.lo)) / (2 * Z95)


def ratio(numerator: Estimate, denominator: Estimate) -> Estimate | None:
    """numerator / denominator of independent positive estimates; None when either value is not positive."""
    if numerator.value <= 0 or denominator.value <= 0:
        return None
    value = numerator.value / denominator.value
    above, below = log_standard_error(numerator), log_standard_error(denominator)
    if above is None or below is None:
        return Estimate(value=value)
    half = Z95 * math.hypot(above, below)
    return Estimate(value=value, lo=value * math.exp(-half), hi=value * math.exp(half))


def judge(change: Estimate, *, margin: float, higher_is_better: bool) -> Verdict:
    """The verdict on a relative change (0 = the same): equivalent inside the margin, else by the side of 0 it is on."""
    if change.lo is None or change.hi is None:
        return Verdict.INCONCLUSIVE
    if -margin <= change.lo and change.hi <= margin:
        return Verdict.EQUIVALENT
    if change.lo > 0:
        return Verdict.BETTER if higher_is_better else Verdict.WORSE
    if change.hi < 0:
        return Verdict.WORSE if higher_is_better else Verdict.BETTER
    return Verdict.INCONCLUSIVE
