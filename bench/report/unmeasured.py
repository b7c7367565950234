"""What a reader might take for known and nobody measured, in sentences, the gravest first."""

from __future__ import annotations

from bench.analysis import formatting as fmt
from bench.analysis.candidates import Analysis, Candidate
from bench.analysis.quality import quality_metric, tasks_by_tag
from bench.analysis.readings import read
from bench.report.tables import multiple_choice_tasks

MOST = 6


def not_measured(analysis: Analysis, choice: Candidate | None) -> list[str]:
    """Sentences about cells without a result and figures that the answer would want and does not have."""
    told = [*_cells(analysis)]
    measured = [c for c in analysis.candidates if c.cell.scenarios or c.cell.tasks]
    if measured:
        told += [*_quality(analysis), *_loads(analysis)]
    if choice is not None:
        told += _of_choice(analysis, choice)
    return told[:MOST]


def _cells(analysis: Analysis) -> list[str]:
    by_status: dict[str, list[str]] = {}
    for cell in analysis.results.cells:
        if cell.status != "complete":
            by_status.setdefault(cell.status, []).append(cell.label)
    words = {"missing": "not run", "failed": "failed", "unsupported": "not supported here"}
    return [
        f"{len(labels)} cell{'s' if len(labels) > 1 else ''} {words.get(status, status)}: {fmt.listing(labels, 3)}."
        for status, labels in by_status.items()
    ]


def _quality(analysis: Analysis) -> list[str]:
    tasks = tasks_by_tag(analysis.results.cells)
    if not any(cell.tasks for cell in analysis.results.cells):
        return ["Quality: no task was run, so what the variants lose is unknown."]
    told = []
    if not any(quality_metric(cell, tasks, "mean_divergence").usable for cell in analysis.results.cells):
        told.append("Divergence from the baseline's predictions.")
    names = multiple_choice_tasks(analysis)
    generated = any("output_tokens_mean" in t.metrics for cell in analysis.results.cells for t in cell.tasks.values())
    if not names and not generated:
        told.append("Right answers: no task with answers was run; perplexity alone does not tell them.")
    elif not generated:
        told.append("Generated answers: what was asked is scored by likelihood only.")
    return told


def _loads(analysis: Analysis) -> list[str]:
    if not analysis.loads:
        return ["Speed: no load was measured, so there is no cost."]
    told = []
    if all(load.concurrency is not None for load in analysis.loads):
        told.append("Open-loop arrivals: queueing under traffic that does not wait is unknown.")
    if len({load.concurrency for load in analysis.loads if load.concurrency is not None}) < 2:
        told.append("More than one level of concurrency: where throughput saturates is unknown.")
    return told


def _of_choice(analysis: Analysis, choice: Candidate) -> list[str]:
    if analysis.reference is None:
        return []
    name = analysis.reference.name
    told = []
    missing = [
        words
        for tag, statistic, words in (("ttft", "p99", "p99 of TTFT"), ("itl", "p99", "p99 of ITL"))
        if not read(choice.cell, "scenarios", name, tag, statistic).usable
    ]
    if missing:
        told.append(f"A believable {' and '.join(missing)} of {choice.cell.label} at {name}: tails are unknown.")
    meters = ("energy_per_output_token_gpu", "energy_per_output_token_cpu_package")
    if not any(read(choice.cell, "scenarios", name, tag, "value").usable for tag in meters):
        told.append("Energy: this machine has no meter that could be read.")
    return told
