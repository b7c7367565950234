"""Whether a variant was calibrated on what it is evaluated on: found by what the two texts share, and flagged."""

from __future__ import annotations

import dataclasses
from typing import Any

from bench.base.validity import Reason
from bench.quality.job import Outcome
from quantize.sketch import WORDS, CalibrationText

#: From this share of the evaluation text's runs of words on, the figures are flagged.
FLAGGED_SHARE = 0.01


def checked(outcome: Outcome, calibration: CalibrationText | None) -> Outcome:
    """`outcome` with `calibration_overlap` {share, ngrams, sampled_every}; every figure flagged where it is too much.

    `ngrams` are the different runs of eight words of the evaluation text that were looked up, one in `sampled_every`;
    `share` is null where there are none, or no sketch of the calibration text. A variant that was not calibrated, or a
    task without a text, has no such entry.
    """
    if calibration is None or not outcome.texts:
        return outcome
    found: dict[str, Any] = {"share": None, "ngrams": None, "sampled_every": None}
    if calibration.sketch is not None:
        overlap = calibration.sketch.overlap(outcome.texts)
        every = calibration.sketch.sampled_every
        found = {"share": overlap.share, "ngrams": overlap.runs, "sampled_every": every}
    details = {**outcome.details, "calibration_overlap": found}
    share = found["share"]
    if share is None or share < FLAGGED_SHARE:
        return dataclasses.replace(outcome, details=details)
    note = (
        f"calibration overlap: {calibration.label} was calibrated on {100 * share:.3g} % of this evaluation text "
        f"(different runs of {WORDS} words), so its figures here are flattered and not ranked"
    )
    metrics = {
        tag: {**metric, "validity": [*metric["validity"], Reason.CALIBRATION_OVERLAP.value]}
        for tag, metric in outcome.metrics.items()
    }
    details["notes"] = [*details.get("notes", []), note]
    return dataclasses.replace(outcome, metrics=metrics, details=details)
