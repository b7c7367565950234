"""The report's tables of what servers and meters said of themselves, beside what the client saw."""

from __future__ import annotations

from collections.abc import Callable

from bench.analysis import formatting as fmt
from bench.analysis.candidates import Analysis, Candidate
from bench.analysis.readings import read
from bench.analysis.server import where_it_lies
from bench.report.shown import Shown, plain, show
from bench.report.tables import Row, in_order, subject_of

#: Columns of the latency table: metric and statistic.
LATENCIES = (
    *(("client_ttft", "mean"), ("server_ttft", "mean"), ("beyond_server_ttft", "value")),
    *(("server_queue", "mean"), ("server_prefill", "mean")),
    *(("client_itl", "mean"), ("server_itl", "mean")),
    *(("client_tpot", "mean"), ("server_tpot", "mean")),
    *(("client_e2e", "mean"), ("server_e2e", "mean")),
)
#: Columns of the table of states and energy.
STATES = (
    ("peak_running", fmt.count),
    ("peak_waiting", fmt.count),
    ("peak_kv_cache_use", fmt.percent),
    ("preemptions", fmt.count),
    ("prefix_cache_hit_rate", fmt.percent),
    ("energy_per_output_token_gpu", fmt.significant),
    ("energy_per_output_token_cpu_package", fmt.significant),
)


def server_latency(analysis: Analysis, choice: Candidate | None) -> list[Row]:
    """Per cell and load: our means, the server's own, and where the difference lies."""
    return _rows(
        analysis,
        choice,
        lambda candidate, load: tuple(
            plain(read(candidate.cell, "scenarios", load, tag, statistic)) for tag, statistic in LATENCIES
        ),
    )


def server_states(analysis: Analysis, choice: Candidate | None) -> list[Row]:
    """Per cell and load: peaks of the server's queues and cache, and energy."""
    return _rows(
        analysis,
        choice,
        lambda candidate, load: tuple(
            show(read(candidate.cell, "scenarios", load, tag, "value"), formatter) for tag, formatter in STATES
        ),
    )


def server_ttft(analysis: Analysis, candidate: Candidate) -> tuple[Shown, Shown]:
    """Our mean TTFT and the server's at the priced load."""
    load = analysis.reference.name if analysis.reference is not None else ""
    return (
        plain(read(candidate.cell, "scenarios", load, "client_ttft", "mean")),
        plain(read(candidate.cell, "scenarios", load, "server_ttft", "mean")),
    )


def has_server_ttft(analysis: Analysis) -> bool:
    """Whether any server timed its first tokens."""
    return any("server_ttft" in child.server for cell in analysis.results.cells for child in cell.scenarios.values())


def _rows(
    analysis: Analysis, choice: Candidate | None, numbers: Callable[[Candidate, str], tuple[Shown, ...]]
) -> list[Row]:
    return [
        Row(
            subject=subject_of(candidate, choice),
            source=load.name,
            numbers=numbers(candidate, load.name),
            note=where_it_lies(candidate.cell.scenarios[load.name].server),
        )
        for candidate in in_order(analysis)
        for load in analysis.loads
        if load.name in candidate.cell.scenarios and candidate.cell.scenarios[load.name].server
    ]
