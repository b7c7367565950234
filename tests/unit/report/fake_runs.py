"""Run directories as the pipeline leaves them, with summaries computed from the very requests beside them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

MODEL = {
    "name": "SmolLM2-135M-Instruct",
    "digest": "sha256:4f1c",
    "license": "Apache-2.0",
    "notes": ["weights sit on a Q4_1 grid: F16 here means dequantised Q4_1, so 4-bit rankings do not carry over"],
}
MACHINE = {
    "cpu": "Example CPU @ 2.5GHz",
    "cores": 2,
    "memory_bytes": 25_769_803_776,
    "gpus": [],
    "kernel": "6.1.0",
    "os": "Debian GNU/Linux 12",
}
TOOLCHAIN = {"name": "llama_cpp", "lock_hash": "9f2c41aa", "kind": "source", "versions": {"llama-cpp-python": "0.3.36"}}
VARIANTS: dict[str, dict[str, float]] = {
    "F16": {"bits": 16.0, "size": 270_900_000, "itl_ms": 17.0, "ratio": 1.0, "half": 0.0, "divergence": 0.0},
    "Q8_0": {"bits": 8.51, "size": 144_800_000, "itl_ms": 12.9, "ratio": 1.0026, "half": 0.0021, "divergence": 0.0038},
    "Q4_K_M": {"bits": 6.17, "size": 105_400_000, "itl_ms": 11.4, "ratio": 1.0496, "half": 0.012, "divergence": 0.048},
    "Q4_0": {"bits": 5.45, "size": 91_700_000, "itl_ms": 10.8, "ratio": 1.1876, "half": 0.031, "divergence": 0.281},
}
BASE_PERPLEXITY = 34.28
SCENARIO_DEFAULTS = {"kind": "closed", "requests": 24, "warmup": 2, "workload": "default", "seed": 0, "total_s": 1200.0}
WORKLOAD = {"kind": "synthetic", "input_tokens": 32, "output_tokens": 64}


def write_json(path: Path, value: Any) -> None:
    """Plain JSON, so that the fixtures do not depend on what is tested."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        data = json.dumps(value, indent=1, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # a lone surrogate can only be written escaped
        data = json.dumps(value, indent=1).encode()
    path.write_bytes(data)


def requests_table(*, concurrency: int, itl_ms: float, requests: int, seed: int) -> pa.Table:
    """A closed loop: each stream sends its next request when the last one ended; `events_table` has its events."""
    draw = np.random.default_rng(seed)
    clock_ns = [1_000_000_000] * concurrency
    rows: dict[str, list[object]] = {
        name: []
        for name in (
            "request_id",
            "sent_ns",
            "first_token_ns",
            "last_token_ns",
            "prompt_tokens",
            "output_tokens",
            "status",
            "scheduled_ns",
            "done_ns",
            "phase",
            "error_kind",
            "error_message",
        )
    }
    for request in range(requests):
        stream = request % concurrency
        sent = clock_ns[stream]
        first = sent + int(draw.normal(1.1 * itl_ms + 9 * concurrency, 2.5) * 1e6)
        gaps = draw.normal(itl_ms * (1 + 0.52 * (concurrency - 1)), 0.4, 63).clip(0.1) * 1e6
        last = first + int(gaps.sum())
        clock_ns[stream] = last
        values = (request, sent, first, last, 32, 64, "ok", sent - 100_000, last + 50_000, "main", None, None)
        for name, value in zip(rows, values, strict=True):
            rows[name].append(value)
    return pa.table(
        {**rows, "error_kind": pa.nulls(requests, pa.string()), "error_message": pa.nulls(requests, pa.string())}
    )


def events_table(table: pa.Table) -> pa.Table:
    """An event a token, evenly between a request's first and last token."""
    columns = table.to_pydict()
    rows: dict[str, list[int]] = {"request_id": [], "ns": [], "bytes": [], "tokens": []}
    for request, first, last, tokens in zip(
        *(columns[name] for name in ("request_id", "first_token_ns", "last_token_ns", "output_tokens")), strict=True
    ):
        stamps = np.linspace(first, last, tokens).round().astype(np.int64).tolist()
        for name, values in zip(rows, ([request] * tokens, stamps, [90] * tokens, [1] * tokens), strict=True):
            rows[name] += values
    return pa.table(rows)


def add_recordings(cell: Path, *, said: str = "refused", flipped: int = 3) -> None:
    """Give a cell's loads events, a failed request that says `said`, telemetry and the server's series, and a
    multiple choice task of which `flipped` items changed and whose texts are `said`.
    """
    for path in cell.glob("scenarios/*/requests.parquet"):
        table = pq.read_table(path)
        pq.write_table(events_table(table), path.with_name("events.parquet"))
        columns = table.to_pydict()
        columns["status"][-1], columns["error_kind"][-1], columns["error_message"][-1] = "error", "http", said
        for name in ("first_token_ns", "last_token_ns", "output_tokens"):
            columns[name][-1] = None
        pq.write_table(pa.table(columns, schema=table.schema), path)
        seconds = np.arange(0, max(columns["done_ns"]) + 1_000_000_000, 1_000_000_000, dtype=np.int64)
        count = len(seconds)
        series = {
            "running": np.full(count, 3.0),
            "waiting": np.zeros(count),
            "kv_cache_use": np.linspace(0.1, 0.4, count),
        }
        pq.write_table(
            pa.table({"t_ns": seconds.tolist(), **{name: values.tolist() for name, values in series.items()}}),
            path.with_name("server_metrics.parquet"),
        )
        told = [("gpu0", "power_w", 240.0, 0.0), ("host", "cpu_busy_s", 0.0, 1.5), ("server", "cpu_s", 0.0, 1.0)]
        rows = [
            (t, device, metric, base + step * i)
            for i, t in enumerate(seconds.tolist())
            for device, metric, base, step in told
        ]
        telemetry = dict(zip(("t_ns", "device", "metric", "value"), map(list, zip(*rows, strict=True)), strict=True))
        pq.write_table(pa.table(telemetry), path.with_name("telemetry.parquet"))
    _add_choices(cell, said, flipped)


def _add_choices(cell: Path, said: str, flipped: int, questions: int = 40) -> None:
    """A task `mmlu` of so many questions, all right at the baseline, of which the first `flipped` are wrong here."""
    relative = "tasks/mmlu-00c0ffee"
    right = [index >= flipped for index in range(questions)]
    share = sum(right) / questions
    paired = {"accuracy_change": share - 1, "wrong_to_right": 0, "right_to_wrong": flipped, "mcnemar_p": 0.25}
    metrics = {
        "accuracy_micro": single("ratio", share, 0.1),
        "accuracy_macro": single("ratio", share, 0.1),
        "base_accuracy_micro": single("ratio", 1.0),
        **{name: single("ratio", float(value)) for name, value in paired.items()},
    }
    items = {
        "item": range(questions),
        "subject": [said] * questions,
        "question": range(questions),
        "answer": ["A"] * questions,
        "prompt": [said] * questions,
        "output": [said] * questions,
        "picked": ["A" if good else "B" for good in right],
        "correct": right,
        "base_picked": ["A"] * questions,
        "base_correct": [True] * questions,
        **{
            f"{before}logprob_{letter}": [-0.5 - place] * questions
            for before in ("", "base_")
            for place, letter in enumerate("ABCD")
        },
    }
    (cell / relative).mkdir(parents=True)
    pq.write_table(pa.table({name: list(values) for name, values in items.items()}), cell / relative / "items.parquet")
    summary = {
        "schema_version": 1,
        "metrics": metrics,
        "errors": {},
        "validity": [],
        "protocol": {"questions": questions},
    }
    write_json(cell / relative / "summary.json", summary)
    recorded = json.loads((cell / "cell.json").read_text(encoding="utf-8"))
    recorded["tasks"]["mmlu"] = {"key": "00c0ffee", "path": relative, "status": "complete", "failure": None}
    write_json(cell / "cell.json", recorded)


def load_metrics(table: pa.Table) -> dict[str, Any]:
    """The metrics of a scenario, from its requests."""
    column = {
        name: np.asarray(table[name].to_pylist())
        for name in ("sent_ns", "first_token_ns", "last_token_ns", "output_tokens")
    }
    wall_s = (column["last_token_ns"].max() - column["sent_ns"].min()) / 1e9
    ttft = (column["first_token_ns"] - column["sent_ns"]) / 1e6
    itl = (column["last_token_ns"] - column["first_token_ns"]) / (column["output_tokens"] - 1) / 1e6
    whole = (column["last_token_ns"] - column["sent_ns"]) / 1e6
    return {
        "ttft": distribution(ttft),
        "itl": distribution(itl),
        "e2e_latency": distribution(whole),
        "output_throughput": single("tokens/s", float(column["output_tokens"].sum() / wall_s), 0.015),
        "request_throughput": single("req/s", float(len(ttft) / wall_s), 0.015),
    }


def distribution(values_ms: Any) -> dict[str, Any]:
    """A latency metric in the recorded form."""
    quantiles = {f"p{q}": float(np.percentile(values_ms, q)) for q in (50, 90, 95, 99)}
    middle = quantiles["p50"]
    return {
        "unit": "ms",
        **quantiles,
        "mean": float(values_ms.mean()),
        "n": len(values_ms),
        "lo": middle * 0.98,
        "hi": middle * 1.02,
        "intervals": {name: [0.97 * quantiles[name], 1.04 * quantiles[name]] for name in ("p90", "p95", "p99")},
        "validity": [],
    }


def single(unit: str, value: float, relative: float = 0.0, validity: list[str] | None = None) -> dict[str, Any]:
    """A metric of one value in the recorded form."""
    bounds = {"lo": value * (1 - relative), "hi": value * (1 + relative)} if relative else {"lo": None, "hi": None}
    return {"unit": unit, "value": value, **bounds, "validity": validity or []}


class FakeRun:
    """A run directory under construction."""

    def __init__(self, directory: Path, *, name: str = "quickstart", status: str = "complete") -> None:
        self.directory = directory
        self.planned: list[dict[str, Any]] = []
        write_json(
            directory / "run.json",
            {
                "schema_version": 1,
                "name": name,
                "status": status,
                "command": ["quantbench", "run", "experiment=quickstart"],
                "overrides": ["experiment=quickstart"],
                "started": "2026-11-23T12:00:00Z",
                "finished": "2026-11-23T12:06:12Z",
                "quantbench": "0.1.0",
            },
        )
        self._write_plan()

    def _write_plan(self) -> None:
        write_json(self.directory / "plan.json", {"schema_version": 1, "cells": self.planned})

    def plan(self, label: str, *, status: str = "unsupported", reason: str | None = None) -> None:
        """A planned cell without a folder."""
        self.planned.append({"label": label, "key": None, "overrides": [], "status": status, "reason": reason})
        self._write_plan()

    def cell(
        self,
        variant: str,
        /,
        *,
        scenarios: tuple[int, ...] = (1, 4),
        tasks: bool = True,
        seed: int = 7,
        figures: dict[str, float] | None = None,
        **changes: Any,
    ) -> Path:
        """A measured cell of a variant in `VARIANTS`, or of `figures`; `changes` replace entries of `cell.json`."""
        known = figures or VARIANTS[variant]
        key = str(changes.pop("key", f"{hash_of(variant):016x}"[:16]))
        folder = self.directory / "cells" / key
        scenario_config = {f"c{c}": {**SCENARIO_DEFAULTS, "concurrency": c} for c in scenarios}
        recorded: dict[str, Any] = {
            "schema_version": 1,
            "key": key,
            "label": f"{variant} · llama_cpp",
            "status": "complete",
            "failure": None,
            "unsupported_reason": None,
            "overrides": [f"scheme.type={variant}"],
            "config": {
                "scheme": {"kind": "gguf", "type": variant},
                "baseline": {"kind": "gguf", "type": "F16"},
                "engine": {"kind": "llama_cpp", "threads": 1, "api_key": "sk-config-secret"},
                "scenarios": scenario_config,
                "workloads": {"default": WORKLOAD},
                "tasks": {"divergence": {"kind": "divergence", "windows": 8}},
            },
            "variant": {
                "schema_version": 1,
                "key": f"artefact-{variant}",
                "label": variant,
                "format": "gguf",
                "scheme": {"kind": "gguf", "type": variant},
                "model": MODEL,
                "size_bytes": known["size"],
                "parameters": 134_515_008,
                "effective_bits_per_weight": known["bits"],
                "tensor_types": [
                    {"type": variant, "tensors": 211, "parameters": 134_479_872, "size_bytes": known["size"]},
                    {"type": "F32", "tensors": 61, "parameters": 35_136, "size_bytes": 140_544},
                ],
                "warnings": ["180 of 272 tensors fell back from Q4_K"] if variant == "Q4_K_M" else [],
                "command": ["llama-quantize", "--allow-requantize", "source.gguf", "model.gguf", variant],
                "toolchain": TOOLCHAIN,
                "wall_s": 1.42,
                "cpu_s": 1.91,
                "peak_rss_bytes": 412_000_000,
                "created": "2026-11-23T12:01:00Z",
            },
            "acceptance": {"verdict": "accepted", "perplexity": BASE_PERPLEXITY * known["ratio"]},
            "engine": {
                "kind": "llama_cpp",
                "build": "llama_cpp 9f2c41aa",
                "command": ["llama-server", "-m", "model.gguf", "-t", "1", "--api-key", "sk-argv-secret"],
                "toolchain": TOOLCHAIN,
                "ready_s": 2.1,
                "peak_rss_bytes": 388_000_000,
                "validity": [],
            },
            "machine": MACHINE,
            "provenance": {
                "quantbench": "0.1.0",
                "commit": "0123abcd",
                "python": "3.11.2",
                "versions": {"numpy": "2.3"},
                "environment": {"OMP_NUM_THREADS": "1"},
                "load_average": [0.41, 0.33, 0.2],
                "seeds": {"workload": 0},
                "started": "2026-11-23T12:01:00Z",
                "finished": "2026-11-23T12:03:00Z",
            },
            "scenarios": {},
            "tasks": {},
            "validity": [],
        }
        for concurrency in scenarios:
            self._scenario(folder, recorded, concurrency, known["itl_ms"], seed)
        if tasks:
            self._task(folder, recorded, known)
        write_json(folder / "cell.json", {**recorded, **changes})
        self.planned.append(
            {"label": recorded["label"], "key": key, "overrides": [], "status": "planned", "reason": None}
        )
        self._write_plan()
        return folder

    def _scenario(self, folder: Path, recorded: dict[str, Any], concurrency: int, itl_ms: float, seed: int) -> None:
        name = f"c{concurrency}"
        relative = f"scenarios/{name}-0123abcd"
        table = requests_table(concurrency=concurrency, itl_ms=itl_ms, requests=24, seed=seed + concurrency)
        (folder / relative).mkdir(parents=True)
        pq.write_table(table, folder / relative / "requests.parquet")
        own: dict[str, Any] = {
            "time_source": "kernel",
            "read_delay_us": {"p99": 212.0},
            "schedule_slip_us": {"p99": 96.0},
        }
        own |= {"delivered_share": 0.998, "coalesced_reads_share": 0.0, "busy_share": 0.04}
        summary = {
            "schema_version": 1,
            "metrics": load_metrics(table),
            "errors": {},
            "validity": [],
            "own_error": own,
        }
        write_json(folder / relative / "summary.json", summary)
        write_json(folder / relative / "manifest.json", {"schema_version": 1, "status": "complete"})
        recorded["scenarios"][name] = {"key": "0123abcd", "path": relative, "status": "complete", "failure": None}

    def open_loop(self, cell: Path, rate_per_s: float, *, kind: str = "poisson", median_ms: float = 25.0) -> None:
        """Add a load whose requests leave at drawn times to a recorded cell; it is named `kind` and rate."""
        name = f"{kind}-{rate_per_s:g}"
        recorded = json.loads((cell / "cell.json").read_text(encoding="utf-8"))
        relative = f"scenarios/{name}-0bad0bad"
        metrics = {
            "ttft": distribution(np.array([median_ms, median_ms, 3 * median_ms])),
            "itl": distribution(np.full(3, median_ms / 2)),
            "output_throughput": single("tokens/s", rate_per_s * 64, 0.1),
            "request_throughput": single("req/s", rate_per_s, 0.1),
        }
        summary = {"schema_version": 1, "metrics": metrics, "errors": {}, "validity": [], "own_error": {}}
        write_json(cell / relative / "summary.json", summary)
        recorded["scenarios"][name] = {"key": "0bad0bad", "path": relative, "status": "complete", "failure": None}
        asked = {**SCENARIO_DEFAULTS, "kind": kind, "rate_per_s": rate_per_s}
        recorded["config"]["scenarios"][name] = asked
        write_json(cell / "cell.json", recorded)

    def _task(self, folder: Path, recorded: dict[str, Any], known: dict[str, float]) -> None:
        relative = "tasks/divergence-89abcdef"
        perplexity = BASE_PERPLEXITY * known["ratio"]
        ratio = {"unit": "ratio", "value": known["ratio"], "validity": []}
        ratio |= {"lo": known["ratio"] - known["half"], "hi": known["ratio"] + known["half"]}
        metrics = {
            "perplexity": single("1", perplexity, 0.04),
            "perplexity_ratio": ratio,
            "mean_divergence": single("nat/token", known["divergence"], 0.1 if known["divergence"] else 0.0),
            "median_divergence": single("nat/token", known["divergence"] * 0.4),
            "p99_divergence": single("nat/token", known["divergence"] * 9),
            "max_divergence": single("nat/token", known["divergence"] * 31),
            "top1_agreement": single("ratio", 1 - known["divergence"] * 0.6, 0.01),
        }
        summary = {
            "schema_version": 1,
            "metrics": metrics,
            "errors": {},
            "validity": [],
            "scored_by": {"engine": "llama_cpp", "build": "9f2c41aa", "same_as_serving": True},
        }
        write_json(folder / relative / "summary.json", summary)
        recorded["tasks"]["divergence"] = {
            "key": "89abcdef",
            "path": relative,
            "status": "complete",
            "failure": None,
        }


def hash_of(text: str) -> int:
    """A number that is the same in every process."""
    return int.from_bytes(text.encode()[:8].ljust(8, b"\x01"), "big")


def failed(stage: str = "serve", kind: str = "crashed", log_tail: str = "") -> dict[str, Any]:
    """The `cell.json` entries of a failed cell."""
    failure = {"stage": stage, "kind": kind, "message": "llama-server ended with signal 11", "log_tail": log_tail}
    return {"status": "failed", "failure": failure}


def edit_summary(cell: Path, child: str, change: Any) -> None:
    """Rewrite one summary of a cell through `change`."""
    (path,) = cell.glob(f"*/{child}-*/summary.json")
    summary = json.loads(path.read_text(encoding="utf-8"))
    change(summary)
    write_json(path, summary)


def quickstart(directory: Path, variants: tuple[str, ...] = ("F16", "Q8_0", "Q4_K_M", "Q4_0")) -> Path:
    """A finished run of several variants at two loads with quality."""
    run = FakeRun(directory)
    for variant in variants:
        run.cell(variant)
    return directory
