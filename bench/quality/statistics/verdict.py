"""How a paired comparison ends: worse, better, equivalent within a margin, or inconclusive, and what would decide it.

A difference is called worse or better when its two-sided test rejects at 5 %. It is equivalent when two one-sided tests
at 5 % each (TOST, Schuirmann 1987) put it within the margin, that is when its 90 % interval lies inside. Both may hold:
the difference is then real and small. Where neither does, the test was too small: `needed` says how many draws would
do.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.quality.intervals import mcnemar, mcnemar_method, paired_change_interval
from bench.quality.statistics.paired import bootstrap_interval, t_test
from bench.quality.statistics.power import LEVEL, detectable_mean, detectable_share, draws_needed
from bench.quality.statistics.student import t_quantile


class Verdict(StrEnum):
    """How a comparison with the baseline ends."""

    WORSE = "worse"
    BETTER = "better"
    EQUIVALENT = "equivalent"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Variant minus baseline over `draws` pairs of `unit` (questions, windows), in the figure's own unit.

    `lo` and `hi` are the 95 % interval. `equivalence_lo` and `_hi` are the 90 % one, which lies within ±`margin` where
    the two are equivalent. `detectable` is the smallest difference found with power 0.8, `needed` how many draws decide
    about the margin. `bootstrap_lo` and `_hi`: a paired bootstrap's 95 % interval.
    """

    difference: float
    lo: float | None
    hi: float | None
    equivalence_lo: float | None
    equivalence_hi: float | None
    bootstrap_lo: float | None
    bootstrap_hi: float | None
    p_value: float | None
    test: str
    margin: float
    within_margin: bool
    detectable: float | None
    draws: int
    needed: int | None
    unit: str
    verdict: Verdict

    def as_dict(self) -> dict[str, Any]:
        """For summaries."""
        return {**self.__dict__, "verdict": self.verdict.value, "said": self.said()}

    def said(self) -> str:
        """The verdict in a sentence."""
        sees = (
            "" if self.detectable is None else f"; {self.draws} {self.unit} find a difference of {self.detectable:.2g}"
        )
        if self.verdict is Verdict.INCONCLUSIVE:
            need = "" if self.needed is None else f", {self.needed} {self.unit} are needed for that"
            return f"inconclusive: neither different nor equivalent within {self.margin:g}{need}{sees}"
        within = f", within {self.margin:g}" if self.within_margin else ""
        return f"{self.verdict.value}{within}{sees}"


def compare_answers(own: NDArray[np.bool_], base: NDArray[np.bool_], *, margin: float) -> Comparison | None:
    """Right and wrong answers to the same questions; the difference is one of accuracies. None without questions."""
    total = len(own)
    if total == 0:
        return None
    gained, lost = int((own & ~base).sum()), int((~own & base).sum())
    # As in the interval: what was not seen to change may yet.
    changed_share = min(1.0, (gained + lost + 2) / (total + 2))
    return _concluded(
        difference=(gained - lost) / total,
        interval=paired_change_interval(gained, lost, total),
        narrow=paired_change_interval(gained, lost, total, 1 - 2 * LEVEL),
        resampled=bootstrap_interval(own.astype(np.float64) - base.astype(np.float64)),
        p_value=mcnemar(gained, lost),
        test=mcnemar_method(gained + lost),
        margin=margin,
        detectable=detectable_share(total, changed_share),
        draws=total,
        needed=draws_needed(changed_share, margin),
        unit="questions",
        higher_is_better=True,
    )


def compare_means(
    differences: NDArray[np.float64], *, margin: float, unit: str = "windows", higher_is_better: bool = False
) -> Comparison | None:
    """Paired differences, shape (draws,), such as a window's mean nll under variant and baseline; None below two."""
    draws = len(differences)
    p_value = t_test(differences)
    if p_value is None:
        return None
    mean, spread = float(differences.mean()), float(differences.std(ddof=1))
    wide, narrow = (t_quantile(draws - 1, level) * spread / math.sqrt(draws) for level in (1 - LEVEL / 2, 1 - LEVEL))
    return _concluded(
        difference=mean,
        interval=(mean - wide, mean + wide),
        narrow=(mean - narrow, mean + narrow),
        resampled=bootstrap_interval(differences),
        p_value=p_value,
        test="paired t",
        margin=margin,
        detectable=detectable_mean(spread, draws),
        draws=draws,
        needed=draws_needed(spread**2, margin),
        unit=unit,
        higher_is_better=higher_is_better,
    )


def _concluded(
    *,
    difference: float,
    interval: tuple[float, float] | None,
    narrow: tuple[float, float] | None,
    resampled: tuple[float, float] | None,
    p_value: float,
    test: str,
    margin: float,
    detectable: float | None,
    draws: int,
    needed: int,
    unit: str,
    higher_is_better: bool,
) -> Comparison:
    within = narrow is not None and -margin < narrow[0] and narrow[1] < margin
    if p_value < LEVEL and difference:
        verdict = Verdict.BETTER if (difference > 0) is higher_is_better else Verdict.WORSE
    else:
        verdict = Verdict.EQUIVALENT if within else Verdict.INCONCLUSIVE
    lo, hi = interval or (None, None)
    narrow_lo, narrow_hi = narrow or (None, None)
    boot_lo, boot_hi = resampled or (None, None)
    return Comparison(
        difference=difference,
        lo=lo,
        hi=hi,
        equivalence_lo=narrow_lo,
        equivalence_hi=narrow_hi,
        bootstrap_lo=boot_lo,
        bootstrap_hi=boot_hi,
        p_value=p_value,
        test=test,
        margin=margin,
        within_margin=within,
        detectable=detectable,
        draws=draws,
        needed=max(needed, draws + 1) if verdict is Verdict.INCONCLUSIVE else None,
        unit=unit,
        verdict=verdict,
    )
