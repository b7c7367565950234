"""`quantbench compare A B`: what changed from one run to another and, on demand, a failure where it is worse."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bench.base.compose import compose
from bench.base.errors import UsageError, nearest

if TYPE_CHECKING:
    from bench.analysis.compare import Change, SideBySide

FAIL_ON = "fail_on"
_GATES = ("worse", "inconclusive", "none")


def compare(arguments: argparse.Namespace) -> int:
    """Prints every figure with its verdict; 1 when `fail_on` names a verdict that one of them has."""
    from bench.analysis.compare import compare as side_by_side
    from bench.analysis.config import ReportConfig
    from bench.analysis.load import load_results
    from bench.base.files import write_atomic
    from bench.cli.commands import prepare
    from bench.cli.decide import split_arguments
    from bench.report.clean import one_line
    from bench.report.compare_page import (
        HEADS,
        headline,
        lines_of,
        remarks,
        render_csv,
        render_html,
        render_markdown,
    )

    directories, overrides = split_arguments(arguments.arguments)
    gate, overrides = _gate(overrides)
    if len(directories) != 2:
        raise UsageError(f"compare: name two run folders, A and B; these are {len(directories)}")
    if arguments.out is not None and arguments.out.exists() and not arguments.out.is_dir():
        raise UsageError(f"out={arguments.out} is a file; name a folder")
    display = prepare(arguments)
    config = compose("report", overrides, ReportConfig)
    before, after = (load_results([directory]) for directory in directories)
    side = side_by_side(before, after, config.margins)
    rows = [_terminal(line.cells) for line in lines_of(side)]
    display.table("change", HEADS[:-1], [row[:-1] for row in rows], records=[_record(each) for each in side.changes])
    for each in remarks(side):
        display.result(one_line(each), note=each)
    told = headline(side)
    display.result(one_line(told), headline=told)
    if arguments.out is not None:
        for name, text in (
            ("compare.md", render_markdown(side)),
            ("compare.csv", render_csv(side)),
            ("compare.html", render_html(side)),
        ):
            write_atomic(arguments.out / name, text.encode())
        display.result(f"comparison: {arguments.out / 'compare.html'}", comparison=str(arguments.out / "compare.html"))
    return _exit_code(side, gate)


def _gate(overrides: Sequence[str]) -> tuple[str, list[str]]:
    """`fail_on=…`, and what else there is."""
    own = [override for override in overrides if override.split("=", 1)[0] == FAIL_ON]
    gate = own[-1].split("=", 1)[1] if own else "none"
    if gate not in _GATES:
        raise UsageError(f"fail_on={gate}: {nearest(gate, _GATES)}")
    return gate, [override for override in overrides if override not in own]


def _terminal(cells: Sequence[str]) -> tuple[str, ...]:
    from bench.report.clean import short

    return tuple(short(cell, 60) for cell in cells)


def _record(each: Change) -> dict[str, Any]:
    """A change for machines: estimates as value, lo and hi."""
    return dataclasses.asdict(each)


def _exit_code(side: SideBySide, gate: str) -> int:
    """1 where the gate's verdict, or a worse one, was reached."""
    from bench.analysis.estimate import Verdict

    if gate == "none":
        return 0
    if side.count(Verdict.WORSE):
        return 1
    return 1 if gate == "inconclusive" and side.count(Verdict.INCONCLUSIVE) else 0
