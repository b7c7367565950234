"""The whole analysis as one JSON document, after the published schema `report.schema.json` beside this file."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench._version import __version__
from bench.analysis.candidates import Analysis, Candidate
from bench.analysis.cost_matrix import CostRow, DemandCost, LoadCost
from bench.analysis.estimate import Estimate
from bench.analysis.pareto import Frontier
from bench.analysis.prices import hardware_name
from bench.analysis.published import published
from bench.analysis.readings import Reading
from bench.analysis.recommend import Answer
from bench.analysis.results import text
from bench.analysis.service import Point

if TYPE_CHECKING:
    import pandas as pd

SCHEMA_VERSION = 1
_SCHEMA = Path(__file__).with_name("report.schema.json")


@cache
def schema() -> dict[str, Any]:
    """The published schema (JSON Schema, draft 2020-12)."""
    read: dict[str, Any] = json.loads(_SCHEMA.read_text(encoding="utf-8"))
    return read


def document(analysis: Analysis, answer: Answer, frame: pd.DataFrame) -> dict[str, Any]:
    """The analysis, its answer and the tidy table `frame`. Missing is null, or a left out entry in `figures`."""
    config = analysis.config
    return {
        "schema_version": SCHEMA_VERSION,
        "quantbench": __version__,
        "runs": [
            {"name": run.name, "status": run.status, "started": run.started, "finished": run.finished}
            for run in analysis.results.runs
        ],
        "settings": {
            "currency": config.price.currency,
            "priority": config.priority.value,
            "load": analysis.reference.name if analysis.reference is not None else None,
            "baseline": analysis.baseline.id if analysis.baseline is not None else None,
            "slo": config.slo.describe() if config.slo.given else None,
            "split": config.split.rule.value,
            "max_perplexity_increase": config.max_perplexity_increase,
        },
        "answer": _answer(answer),
        "watermark": analysis.watermark,
        "notes": list(analysis.notes),
        "cells": [_cell(candidate) for candidate in analysis.candidates],
        "costs": [_costs(row) for row in analysis.costs],
        "frontiers": [_frontier(each) for each in analysis.frontiers],
        "not_comparable": [
            {**vars(each), "facet": each.facet.value, "said": each.said} for each in analysis.not_comparable
        ],
        "published": {
            "origin": published().origin,
            "note": published().note,
            "figures": [vars(figure) for figure in published().figures],
        },
        "figures": _records(frame),
    }


def _answer(answer: Answer) -> dict[str, Any]:
    prior = answer.prior
    return {
        "headline": answer.headline,
        "certainty": answer.certainty.value,
        "sure": answer.sure,
        "choice": answer.choice.cell.id if answer.choice is not None else None,
        "costs": answer.costs,
        "loses": answer.loses,
        "why": list(answer.why),
        "caveats": list(answer.caveats),
        "put_aside": list(answer.put_aside),
        "prior": None
        if prior is None
        else {"families": list(prior.families), "presets": list(prior.presets), "because": prior.because},
        "disagreement": answer.disagreement,
    }


def _cell(candidate: Candidate) -> dict[str, Any]:
    cell = candidate.cell
    failure = cell.failure
    return {
        "id": cell.id,
        "run": cell.run,
        "key": cell.key,
        "label": cell.label,
        "variant": cell.variant_label,
        "engine": cell.engine_kind,
        "model": text(cell.model.get("name")),
        "hardware": hardware_name(cell) or None,
        "status": cell.status,
        "baseline": candidate.is_baseline,
        "excluded": candidate.excluded,
        "unsupported_reason": cell.unsupported_reason,
        "failure": None
        if failure is None
        else {"stage": failure.stage, "kind": failure.kind, "message": failure.message},
        "size_bytes": cell.size_bytes,
        "bits_per_weight": cell.bits_per_weight,
        "speed": {"verdict": candidate.speed.verdict.value, "reason": candidate.speed.reason},
        "quality": {"verdict": candidate.quality.verdict.value, "reason": candidate.quality.reason},
    }


def _costs(row: CostRow) -> dict[str, Any]:
    price, capacity, replicas, api = row.price.price, row.capacity, row.replicas, row.api
    return {
        "cell": row.cell.id,
        "price": {
            "name": price.name,
            "per_hour": row.price.hourly,
            "currency": price.currency,
            "billing": price.billing.value,
            "date": price.date,
            "source": price.source,
            "assumed": price.assumed,
            "note": row.price.note,
        },
        "loads": [_load(cost) for cost in row.loads],
        "peak": row.peak.load if row.peak is not None else None,
        "at_slo": {"per_million_blended_tokens": _reading(row.at_slo), "per_request": _reading(row.request_at_slo)},
        "per_correct": [{"task": reading.source, "cost": _reading(reading)} for reading in row.per_correct],
        "curve": [_demand(each) for each in row.curve],
        "points": [_point(point) for point in row.points],
        "capacity": {
            "rate_per_s": _estimate(capacity.rate),
            "at_least": capacity.at_least,
            "interpolated": capacity.interpolated,
            "load": capacity.load,
            "latency_s": capacity.latency_s,
            "why": capacity.why,
        },
        "replicas": None if replicas is None else vars(replicas),
        "making": vars(row.making),
        "api": None if api is None else vars(api),
    }


def _load(cost: LoadCost) -> dict[str, Any]:
    mix = cost.mix
    return {
        "load": cost.load,
        "input_tokens": None if mix is None else mix.input_tokens,
        "output_tokens": None if mix is None else mix.output_tokens,
        "per_million_blended_tokens": _reading(cost.blended),
        "per_million_output_tokens": _reading(cost.output),
        "per_request": _reading(cost.request),
        "split_input": _reading(cost.split_input),
        "split_output": _reading(cost.split_output),
    }


def _demand(each: DemandCost) -> dict[str, Any]:
    return {**vars(each), "per_mtok": _estimate(each.per_mtok), "per_request": _estimate(each.per_request)}


def _point(point: Point) -> dict[str, Any]:
    return {
        "load": point.load,
        "rate_per_s": _estimate(point.rate.estimate),
        "latency_ms": None if point.latency.estimate is None else point.latency.estimate.value,
        "concurrency": point.concurrency,
        "held": point.held.value,
        "why": point.why,
        "attainment": _estimate(point.attainment),
    }


def _frontier(each: Frontier) -> dict[str, Any]:
    return {
        "x": {"name": each.x.name, "unit": each.x.unit, "higher_is_better": each.x.higher_is_better},
        "y": {"name": each.y.name, "unit": each.y.unit, "higher_is_better": each.y.higher_is_better},
        "points": [
            {
                "cell": point.cell,
                "x": _estimate(point.x.estimate),
                "y": _estimate(point.y.estimate),
                "standing": point.standing.value,
                "by": point.by,
                "why": point.why,
            }
            for point in each.points
        ],
        "left_out": [{"label": label, "why": why} for label, why in each.left_out],
    }


def _reading(reading: Reading) -> dict[str, Any]:
    estimate = _estimate(reading.estimate) or {"value": None, "lo": None, "hi": None}
    return {**estimate, "unit": reading.unit, "validity": list(reading.validity), "missing": reading.missing}


def _estimate(estimate: Estimate | None) -> dict[str, Any] | None:
    return None if estimate is None else {"value": estimate.value, "lo": estimate.lo, "hi": estimate.hi}


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of the tidy table, without what is missing (None, or a number that is not equal to itself)."""
    names = [str(name) for name in frame.columns]
    columns = [frame[name].tolist() for name in names]
    return [
        {name: value for name, value in zip(names, row, strict=True) if value is not None and value == value}  # noqa: PLR0124 - nan
        for row in zip(*columns, strict=True)
    ]
