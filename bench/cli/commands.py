"""What each working command does, once its arguments are parsed. Thin: the rooms below do the work."""

from __future__ import annotations

import argparse
import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.base.compose import compose, load_plugins
from bench.base.errors import UsageError
from bench.cli.show import Display
from bench.cli.variants import VARIANT_COLUMNS, number, quality_rows, variant_rows

if TYPE_CHECKING:
    from bench.pipeline.run import RunOutcome
    from bench.plan.plan import Plan


def run(arguments: argparse.Namespace) -> int:
    """`quantbench run`: every stage of every cell, then the report."""
    from bench.analysis.config import ReportConfig
    from bench.pipeline.report import report_overrides, write_report

    for_report, overrides = report_overrides(arguments.overrides)
    prepare(arguments)
    compose("report", for_report, ReportConfig)  # a wrong price is said before anything is measured

    def finish(outcome: RunOutcome, display: Display) -> None:
        display.table("variant", VARIANT_COLUMNS, variant_rows(outcome))
        write_report(outcome, for_report, display)

    return _run(arguments, overrides, finish=finish)


def quantize(arguments: argparse.Namespace) -> int:
    """`quantbench quantize`: make and accept the variants."""
    from bench.pipeline.context import Stages

    def finish(outcome: RunOutcome, display: Display) -> None:
        display.table("variant", VARIANT_COLUMNS, variant_rows(outcome))

    return _run(arguments, arguments.overrides, finish=finish, stages=Stages(load=False, evaluate=False))


def evaluate(arguments: argparse.Namespace) -> int:
    """`quantbench evaluate`: quality only."""
    from bench.pipeline.context import Stages

    def finish(outcome: RunOutcome, display: Display) -> None:
        display.table(
            "quality", _QUALITY_COLUMNS, [row for cell in outcome.cells for row in quality_rows(outcome, cell)]
        )

    return _run(arguments, arguments.overrides, finish=finish, stages=Stages(load=False))


def serve(arguments: argparse.Namespace) -> int:
    """`quantbench serve`: one variant until interrupted, or just its command line."""
    from bench.pipeline.serve import print_command, serving

    display = prepare(arguments)
    plan = plan_of(arguments, arguments.overrides)
    if len(plan.cells) != 1:
        raise UsageError(f"serve takes one variant, these overrides give {len(plan.cells)}; name one with scheme=NAME")
    config = plan.cells[0].config
    assert config is not None, "a plan of one cell composes"
    if arguments.print_only:
        line, env = print_command(config, port=arguments.port)
        display.result(line, command=line, secret_environment=sorted(env))
        return 0
    api_key = os.environ.get("QUANTBENCH_API_KEY") or secrets.token_urlsafe(24)
    with serving(config, port=arguments.port, api_key=api_key, progress=display.progress()) as endpoint:
        try:
            display.result(
                f"serving {endpoint.model} at {endpoint.url}/v1 (key in {endpoint.key_file}); Ctrl-C stops it",
                url=endpoint.url,
                model=endpoint.model,
                key_file=str(endpoint.key_file),
            )
            endpoint.wait()
        except KeyboardInterrupt:  # how serving is meant to end
            display.result("stopped", status="stopped")
    return 0


def load(arguments: argparse.Namespace) -> int:
    """`quantbench load`: load any endpoint and record it."""
    from bench.load.command import run_load
    from bench.load.config import LoadRunConfig

    display = prepare(arguments, load_only=True)
    config = compose("load", arguments.overrides, LoadRunConfig)
    summary = run_load(config, display.progress())
    rows = [_metric_row(tag, metric) for tag, metric in summary["metrics"].items()]
    display.table("metric", ("metric", "unit", "value or p50", "p99", "n", "validity"), rows)
    if "sweep" in summary:
        steps = [_step_row(step) for step in summary["sweep"]["steps"]]
        display.table("step", ("rate/s", "kept up", "req/s", "tokens/s", "ttft p50", "why not"), steps)
    if summary.get("slo"):
        said = {True: "held", False: "not held", None: "unknown, a figure is missing"}[summary["slo"]["held"]]
        display.result(f"objective ({config.slo.describe()}): {said}", slo=summary["slo"])
    for kind, count in summary["errors"].items():
        display.result(f"errors: {count} x {kind}", error=kind, count=count)
    display.result(f"recorded in {config.out}", out=str(config.out))
    return 1 if summary["errors"] else 0


def report(arguments: argparse.Namespace) -> int:
    """`quantbench report`: write the report of recorded runs."""
    from bench.pipeline.report import build

    display = prepare(arguments)
    directories = [Path(word) for word in arguments.arguments if "=" not in word]
    overrides = [word for word in arguments.arguments if "=" in word]
    if not directories:
        raise UsageError("report: name at least one run folder, such as results/quickstart")
    path = build(directories, overrides, out=arguments.out, progress=display.progress())
    display.result(f"report: {path}", report=str(path))
    return 0


def _run(arguments: argparse.Namespace, overrides: Sequence[str], *, finish: Any, **options: Any) -> int:
    display = prepare(arguments)
    plan = plan_of(arguments, overrides)
    if arguments.dry_run:
        _show_plan(plan, display, served=arguments.command == "run")
        return 0

    from bench.pipeline.run import run_plan
    from bench.store.run import Status

    command = ["quantbench", *arguments.argv]
    default_out = None if arguments.command == "run" else Path("results") / f"{arguments.command}-{plan.name}"
    outcome = run_plan(
        plan,
        progress=display.progress(),
        command=command,
        overrides=arguments.overrides,
        default_out=default_out,
        **options,
    )
    finish(outcome, display)
    for cell in outcome.cells:
        if cell.status is Status.FAILED:
            failure = cell.record.get("failure") or {}
            display.result(
                f"failed: {cell.label}: {failure.get('stage')}: {failure.get('message')}", cell=cell.label, **failure
            )
            display.log_tail(str(failure.get("log_tail") or ""))
        elif cell.status is Status.UNSUPPORTED:
            reason = cell.record.get("unsupported_reason") or "its overrides do not compose"
            display.result(f"unsupported: {cell.label}: {reason}", cell=cell.label, reason=reason)
    return 1 if outcome.failed else 0


def prepare(arguments: argparse.Namespace, *, load_only: bool = False) -> Display:
    """Everything that registers configs (`load_only`: those of the load generator), then the display."""
    from bench.pipeline.schemas import register_all, register_load

    (register_load if load_only else register_all)()
    load_plugins(arguments.plugin)
    return Display(quiet=arguments.quiet, json_lines=arguments.json_lines)


def plan_of(arguments: argparse.Namespace, overrides: Sequence[str]) -> Plan:
    """The cells that these overrides mean."""
    from bench.plan.plan import plan

    return plan(overrides, multirun=getattr(arguments, "multirun", False))


def _show_plan(plan: Plan, display: Display, *, served: bool) -> None:
    from bench.cli.fit import FIT_COLUMNS, fit_record, fit_row, planned_fits

    columns = ("cell", "model", "scenarios", "tasks", "status")
    fits, rows, records = planned_fits(plan, served=served), [], []
    for spec, found in zip(plan.cells, fits, strict=True):
        config = spec.config
        row = (spec.label, "-", "-", "-", f"unsupported: {spec.error}")
        if config is not None:
            row = (spec.label, config.model.kind, ", ".join(config.scenarios), ", ".join(config.tasks), "planned")
        rows.append((*row, *fit_row(found)))
        records.append({**dict(zip(columns, row, strict=True)), **fit_record(found)})
    display.table("cell", (*columns, *FIT_COLUMNS), rows, records=records)


_QUALITY_COLUMNS = ("cell", "task", "metric", "value", "low", "high")


def _step_row(step: dict[str, Any]) -> tuple[str, ...]:
    """A step of a sweep."""
    figures = (step["request_throughput"], step["output_throughput"], step["ttft"]["p50"])
    kept_up = "yes" if step["kept_up"] else "no"
    return number(step["rate_per_s"]), kept_up, *map(number, figures), ", ".join(step["why"])


def _metric_row(tag: str, metric: dict[str, Any]) -> tuple[str, ...]:
    value = metric.get("value", metric.get("p50"))
    n = metric.get("n")
    validity = ", ".join(metric["validity"]) or "valid"
    return tag, str(metric["unit"]), number(value), number(metric.get("p99")), "-" if n is None else str(n), validity
