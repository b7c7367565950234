"""A sweep to saturation: one open loop after another, each faster, until the endpoint no longer keeps up.

Every step is a scenario of its own in `steps/NN`. The result's own files are those of the fastest step that kept up.
"""

from __future__ import annotations

import dataclasses
import math
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bench.base.files import read_json, write_json
from bench.base.hashing import sha256_file
from bench.base.schema import restored
from bench.base.validity import Reason
from bench.load.arrivals.config import GammaConfig, SweepConfig
from bench.load.config import ScenarioConfig
from bench.load.parquet import read_table
from bench.load.record import FILES, salvage
from bench.load.table import MISSING, Table

StepRunner = Callable[[ScenarioConfig, Path, str], dict[str, Any]]
"""(scenario, folder, name) -> summary, like `run_scenario`."""

_ASKED = Path("steps", "asked.json")
_SHOWN = ("ttft", "itl", "e2e_latency")


def run_sweep(config: SweepConfig, out: Path, *, name: str, run_step: StepRunner) -> dict[str, Any]:
    """Run the steps, leave the result in `out`, return its summary, in which `sweep` tells of all steps.

    Interrupted in a step, the result is made of the steps until then, and KeyboardInterrupt is raised again.
    """
    steps: list[dict[str, Any]] = []
    interrupted = False
    (out / "steps").mkdir(parents=True)
    write_json(out / _ASKED, {"name": name, "scenario": dataclasses.asdict(config)})
    for number in range(config.steps):
        scenario = step_of(config, number)
        folder = out / "steps" / f"{number:02d}"
        folder.mkdir()
        try:
            summary = run_step(scenario, folder, f"{name}-{number:02d}")
        except KeyboardInterrupt:
            if not (folder / "summary.json").is_file():
                if not steps:
                    raise
                interrupted = True
                break
            summary, interrupted = read_json(folder / "summary.json"), True
        steps.append(_judged(config, folder, number, summary))
        if interrupted or steps[-1]["status"] != "complete" or not steps[-1]["kept_up"]:
            break
    summary = _conclude(config, out, steps, name=name, partial=interrupted)
    if interrupted:
        raise KeyboardInterrupt
    return summary


def salvage_sweep(out: Path) -> int | None:
    """Make a partial result of the steps that a killed sweep left in `out`; how many requests had got their answer.

    None where no step has any. Raises OSError, ValueError, KeyError or TypeError where the sweep's own file is damaged.
    """
    asked = read_json(out / _ASKED)
    config: SweepConfig = restored("scenario", asked["scenario"])
    steps = []
    for number in range(config.steps):
        folder = out / "steps" / f"{number:02d}"
        if (folder / "manifest.json").is_file() or salvage(folder) is not None:
            steps.append(_judged(config, folder, number, read_json(folder / "summary.json")))
    if not steps:
        return None
    _conclude(config, out, steps, name=asked["name"], partial=True)
    return sum(int(step["requests"]) for step in steps)


def _judged(config: SweepConfig, folder: Path, number: int, summary: Mapping[str, Any]) -> dict[str, Any]:
    return judge(config, step_of(config, number), summary, read_table(folder)) | {"folder": f"steps/{folder.name}"}


def _conclude(
    config: SweepConfig, out: Path, steps: list[dict[str, Any]], *, name: str, partial: bool
) -> dict[str, Any]:
    kept = [step for step in steps if step["kept_up"]]
    chosen, last = kept[-1] if kept else steps[0], steps[-1]
    told = {
        "chosen": chosen["folder"],
        "kept_up_per_s": kept[-1]["rate_per_s"] if kept else None,
        "saturated_per_s": None if last["kept_up"] or last["status"] == "partial" else last["rate_per_s"],
        "steps": steps,
    }
    return _adopt(config, out, out / chosen["folder"], told, name=name, partial=partial)


def step_of(config: SweepConfig, number: int) -> GammaConfig:
    """The scenario of a step, from 0: `factor` times as fast as the one before."""
    rate = float(f"{config.start_per_s * config.factor**number:.4g}")
    shared = {field.name: getattr(config, field.name) for field in dataclasses.fields(ScenarioConfig)}
    shared |= {"kind": "gamma", "requests": max(config.requests, math.ceil(rate * config.step_s))}
    return GammaConfig(**shared, rate_per_s=rate, burstiness=config.burstiness)


def judge(config: SweepConfig, scenario: GammaConfig, summary: Mapping[str, Any], table: Table) -> dict[str, Any]:
    """What `sweep.steps` tells of a step: whether it kept up, why not, and its main figures."""
    counts, metrics = summary["requests"], summary["metrics"]
    ended = counts["ok"] + counts["failed"]
    due, done = due_and_done(table, summary["window"])
    why = [] if summary["status"] == "complete" else [str(summary["status"])]
    if Reason.BACKLOG_GROWING.value in summary["validity"]:
        why.append(Reason.BACKLOG_GROWING.value)
    # What is in flight at both ends of the window differs by chance, by about the root of its mean.
    if due - done > (1 - config.kept_share) * due + 2 * math.sqrt(summary["window"]["requests_in_flight"]):
        why.append("behind")
    if not ended or counts["failed"] / ended > config.error_share:
        why.append(Reason.ERRORS.value)
    return {
        "rate_per_s": scenario.rate_per_s,
        "status": summary["status"],
        "kept_up": not why,
        "why": why,
        "kept_share": done / due if due else None,
        "requests": counts["taken"],
        "failed": counts["failed"],
        "request_throughput": metrics["request_throughput"]["value"],
        "output_throughput": metrics["output_throughput"]["value"],
        **{tag: {name: metrics[tag][name] for name in ("p50", "p99")} for tag in _SHOWN},
        "validity": summary["validity"],
        "tokens": summary["tokens"],
    }


def due_and_done(table: Table, window: Mapping[str, Any]) -> tuple[int, int]:
    """How many requests were due in the window, and how many ended in it."""
    begin, end = window["start_ns"], window["end_ns"]
    due = table.main & (table.scheduled_ns > begin) & (table.scheduled_ns <= end)
    done = table.main & (table.done_ns != MISSING) & (table.done_ns > begin) & (table.done_ns <= end)
    return int(due.sum()), int(done.sum())


def _adopt(
    config: SweepConfig, out: Path, folder: Path, told: dict[str, Any], *, name: str, partial: bool
) -> dict[str, Any]:
    """Make the step in `folder` the result, and say what the whole was; the manifest last."""
    summary: dict[str, Any] = read_json(folder / "summary.json")
    manifest: dict[str, Any] = read_json(folder / "manifest.json")
    status = "partial" if partial else summary["status"]
    summary |= {"scenario": name, "status": status, "tokens": _all_tokens(told["steps"]), "sweep": told}
    for file in FILES:
        if file != "summary.json":
            shutil.copyfile(folder / file, out / file)
    write_json(out / "summary.json", summary)
    files = [
        {"path": file, "size_bytes": (out / file).stat().st_size, "sha256": sha256_file(out / file)} for file in FILES
    ]
    changed = {"name": name, "status": status, "scenario": dataclasses.asdict(config), "files": files}
    write_json(out / "manifest.json", manifest | changed | {"sweep": told})
    return summary


def _all_tokens(steps: list[dict[str, Any]]) -> dict[str, dict[str, int | None]]:
    """Tokens of all steps, by phase: what the server's own counters are held against."""
    totals: dict[str, dict[str, int | None]] = {}
    for phase, names in steps[0]["tokens"].items():
        counts = {name: [step["tokens"][phase][name] for step in steps] for name in names}
        totals[phase] = {name: None if None in values else sum(values) for name, values in counts.items()}
    return totals
