"""`quantbench search`: the largest load that holds an objective."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from bench.base.compose import compose
from bench.base.validity import Reason
from bench.cli.commands import prepare
from bench.cli.variants import number

COLUMNS = ("probe", "level", "outcome", "ttft", "itl", "tpot", "e2e_latency", "success", "why")


def search(arguments: argparse.Namespace) -> int:
    """Probe an endpoint until its capacity is known; 1 where no load held."""
    from bench.load.capacity.config import SearchRunConfig
    from bench.load.capacity.search import run_search

    display = prepare(arguments)
    config = compose("search", arguments.overrides, SearchRunConfig)
    answer = run_search(config, display.progress())
    display.table("probe", COLUMNS, [_row(probe) for probe in answer["probes"]])
    display.result(sentence(answer), **{name: answer[name] for name in ("status", "ended", "over", "capacity", "slo")})
    for reason in Reason:
        if reason.value in answer["capacity"]["validity"]:
            display.note(f"{reason.value}: {reason.advice}")
    display.result(f"recorded in {config.out}", out=str(config.out))
    return 0 if answer["capacity"]["value"] is not None else 1


def sentence(answer: Mapping[str, Any]) -> str:
    """The answer in words."""
    found = answer["capacity"]
    unit, value, lo, hi = found["unit"], found["value"], found["lo"], found["hi"]
    if value is None:
        said = f"no load held; {number(hi)} {unit} did not" if hi is not None else "no load held"
    else:
        ends = [f"{number(lo)} always held" if lo is not None else "none always held"]
        ends.append(f"{number(hi)} never" if hi is not None else "what fails was not reached")
        said = f"capacity: {number(value)} {unit} ({', '.join(ends)})"
    unfinished = "" if answer["ended"] == "settled" else f"; not settled: ended by {answer['ended']}"
    return f"{said} at {answer['slo']}{unfinished}"


def _row(probe: Mapping[str, Any]) -> tuple[str, ...]:
    figures = {bound["tag"]: number(bound["value_ms"]) for bound in probe["bounds"]}
    return (
        str(probe["number"] + 1),
        number(probe["level"]),
        probe["outcome"],
        *(figures.get(tag, "-") for tag in ("ttft", "itl", "tpot", "e2e_latency")),
        number(probe["success"]),
        ", ".join(probe["reasons"]),
    )
