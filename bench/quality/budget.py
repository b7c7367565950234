"""Whether the rest of an evaluation is worth its time: bounds on the cheap figures, and verdicts over all tasks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.quality.config import StopWhen, TaskConfig, WindowedTextConfig
from bench.quality.statistics.paired import holm
from bench.quality.statistics.power import LEVEL

#: Figures that may speak against a variant → the bound's name.
_EVIDENCE = {"mean_divergence": "divergence", "perplexity_ratio": "perplexity_ratio"}


def is_evidence(task: TaskConfig) -> bool:
    """Whether a task is one of the cheap ones that are measured first, where a bound is given."""
    return isinstance(task, WindowedTextConfig)


def hopeless(summaries: Mapping[str, Mapping[str, Any]], bounds: StopWhen) -> str | None:
    """Why the expensive tasks are not worth their time, by the summaries of the cheap ones; None while they are.

    A figure speaks against the variant when all of its 95 % interval is above the bound, or the figure itself where it
    has no interval.
    """
    for name, summary in summaries.items():
        for tag, bound_name in _EVIDENCE.items():
            metric, bound = summary.get("metrics", {}).get(tag), getattr(bounds, bound_name)
            if metric is None or bound is None or metric["value"] is None:
                continue
            least = metric["value"] if metric["lo"] is None else metric["lo"]
            if least > bound:
                return f"hopeless: {tag} of {name} is {metric['value']:.4g}, above stop_when.{bound_name}={bound:g}"
    return None


def family(summaries: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Every task's verdicts together: {task/figure: {p_value, holm_p_value, verdict}}, p-values adjusted by Holm.

    A difference that its own test finds but the adjusted one does not is `inconclusive` here: among many tasks some
    differ by chance.
    """
    found = {
        f"{name}/{tag}": comparison
        for name, summary in summaries.items()
        for tag, comparison in (summary.get("comparisons") or {}).items()
    }
    known = {name: each["p_value"] for name, each in found.items() if each.get("p_value") is not None}
    rows: dict[str, dict[str, Any]] = {}
    for name, adjusted in holm(known).items():
        verdict = found[name]["verdict"]
        if verdict in ("worse", "better") and adjusted >= LEVEL:
            verdict = "equivalent" if found[name]["within_margin"] else "inconclusive"
        rows[name] = {"p_value": known[name], "holm_p_value": adjusted, "verdict": verdict}
    return rows
