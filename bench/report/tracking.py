"""Logging a report to MLflow or Weights & Biases, where they are installed and asked for."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bench.analysis.candidates import Analysis, Candidate
from bench.analysis.config import TrackingConfig
from bench.analysis.prices import hardware_name
from bench.analysis.readings import Reading
from bench.analysis.recommend import Answer
from bench.analysis.results import text
from bench.base.errors import UsageError

#: What MLflow takes in a metric's name.
_ODD = re.compile(r"[^A-Za-z0-9_\-. /]")
_LONGEST = 250


def check(config: TrackingConfig) -> None:
    """Raise UsageError where something is asked for that is not installed; told before any work is done."""
    for name, wanted in (("mlflow", config.mlflow), ("wandb", config.wandb)):
        if wanted:
            _library(name)


def track(analysis: Analysis, answer: Answer, folder: Path) -> list[str]:
    """Log the report in `folder`; returns where, a line each. Raises UsageError where a library is missing."""
    config, told = analysis.config.tracking, []
    if config.mlflow:
        told.append(_to_mlflow(analysis, answer, folder, config))
    if config.wandb:
        told.append(_to_wandb(analysis, answer, folder, config))
    return told


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UsageError(f"tracking.{name}=true: {name} is not installed here ({error}); pip install {name}") from error


def _to_mlflow(analysis: Analysis, answer: Answer, folder: Path, config: TrackingConfig) -> str:
    """A run for the report with its files, and below it a run a cell with the cell's figures."""
    mlflow = _library("mlflow")
    if config.mlflow_uri is not None:
        mlflow.set_tracking_uri(config.mlflow_uri)
    mlflow.set_experiment(config.project)
    with mlflow.start_run(run_name=_title(analysis)) as parent:
        mlflow.set_tags(_verdict(answer))
        mlflow.log_artifacts(str(folder))
        for candidate in analysis.candidates:
            with mlflow.start_run(run_name=candidate.cell.label, nested=True):
                mlflow.log_params(_facts(candidate))
                mlflow.log_metrics(dict(_figures(candidate)))
        run_id = parent.info.run_id
    return f"logged to MLflow, experiment {config.project}, run {run_id}"


def _to_wandb(analysis: Analysis, answer: Answer, folder: Path, config: TrackingConfig) -> str:
    """One run: a table of cells and figures, the answer in its summary, the files as an artifact."""
    wandb = _library("wandb")
    run = wandb.init(project=config.project, name=_title(analysis), job_type="report")
    try:
        cells = [(candidate, dict(_figures(candidate))) for candidate in analysis.candidates]
        names = list(dict.fromkeys(name for _, figures in cells for name in figures))
        facts = list(_facts(analysis.candidates[0])) if cells else []
        rows = [[*_facts(candidate).values(), *(figures.get(name) for name in names)] for candidate, figures in cells]
        run.log({"cells": wandb.Table(columns=[*facts, *names], data=rows)})
        run.summary.update(_verdict(answer))
        artifact = wandb.Artifact("quantbench-report", type="report")
        artifact.add_dir(str(folder))
        run.log_artifact(artifact)
    finally:
        run.finish()
    return f"logged to Weights & Biases, project {config.project}, run {run.id}"


def _title(analysis: Analysis) -> str:
    return " + ".join(dict.fromkeys(run.name for run in analysis.results.runs))


def _verdict(answer: Answer) -> dict[str, str]:
    choice = answer.choice.cell.label if answer.choice is not None else ""
    told = {"choice": choice, "certainty": answer.certainty.value, "headline": answer.headline}
    return {f"quantbench.{name}": value for name, value in told.items()}


def _facts(candidate: Candidate) -> dict[str, str]:
    cell = candidate.cell
    facts: Mapping[str, str | None] = {
        "cell": cell.label,
        "variant": cell.variant_label,
        "engine": cell.engine_kind,
        "model": text(cell.model.get("name")),
        "hardware": hardware_name(cell),
        "status": cell.status,
        "key": cell.key,
    }
    return {name: (value or "")[:_LONGEST] for name, value in facts.items()}


def _figures(candidate: Candidate) -> Iterator[tuple[str, float]]:
    """Every valid headline by «source.metric», the costs and the loss; invalid numbers are not logged."""
    cell = candidate.cell
    for child in (*cell.scenarios.values(), *cell.tasks.values()):
        for metric in child.metrics.values():
            value = metric.statistics.get(metric.headline)
            if value is not None and not metric.validity and child.status == "complete":
                yield _name(child.name, metric.tag), value
    readings: list[Reading] = [candidate.cost, candidate.request_cost, candidate.loss.perplexity_change]
    if candidate.costs is not None:
        readings += [candidate.costs.at_slo, *candidate.costs.per_correct]
    for reading in readings:
        if reading.estimate is not None and reading.usable:
            yield _name(reading.source, reading.tag), reading.estimate.value
    for name, value in (("size_bytes", cell.size_bytes), ("bits_per_weight", cell.bits_per_weight)):
        if value is not None:
            yield name, value


def _name(source: str, tag: str) -> str:
    return _ODD.sub("_", f"{source}.{tag}")[:_LONGEST]
