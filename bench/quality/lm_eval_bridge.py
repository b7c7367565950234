"""Tasks of lm-evaluation-harness: run in their own environment on a served model, read back into metrics and items."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.base.errors import UsageError
from bench.base.files import read_json
from bench.base.hashing import DigestCache, key_of
from bench.base.paths import cache_dir
from bench.quality.generation.config import LmEvalConfig, LmEvalModel
from bench.quality.generation.job import GradingJob, column
from bench.quality.generation.paired import Figures
from bench.quality.generation.session import Session
from bench.quality.job import Outcome, value_metric
from bench.toolchains.worker import run_worker

_WORKER = Path(__file__).parent / "workers" / "lm_eval_worker.py"
_Z = 1.959964
#: lm-eval's own words for a figure that no filter made.
_NO_FILTER = "none"


@dataclass(frozen=True, kw_only=True)
class LmEvalRun:
    """What lm-eval gave for one model: its file as the worker describes it."""

    version: str
    results: Mapping[str, Mapping[str, Any]]
    shots: Mapping[str, Any]
    versions: Mapping[str, Any]
    samples: Sequence[Mapping[str, Any]]
    usage: Mapping[str, Any]


def check(config: LmEvalConfig) -> None:
    """Raise UsageError where no task is named or the folder of own task files is none."""
    if not config.tasks:
        raise UsageError("task.tasks is empty: name tasks of lm-eval, such as task.tasks=[arc_easy]")
    if config.include_path and not Path(config.include_path).expanduser().is_dir():
        raise UsageError(f"task.include_path={config.include_path}: there is no such folder")


def data_digest(config: LmEvalConfig) -> str | None:
    """The content of the user's own task files and what lies beside them; None without any."""
    if not config.include_path:
        return None
    check(config)
    digests = DigestCache(cache_dir() / "lm_eval" / "digests.json")
    return digests.digest_tree(Path(config.include_path).expanduser())


def generate(config: LmEvalConfig, session: Session) -> LmEvalRun:
    """Run the tasks on one model. Answers are remembered beside the session's, so that a killed run goes on.

    Raises UsageError, ToolchainError or WorkerError.
    """
    assert session.toolchain is not None
    toolchain = session.toolchain("lm_eval")
    served = config.model is not LmEvalModel.hf
    environment = {"HF_DATASETS_OFFLINE": "1", "HF_HUB_OFFLINE": "1"} if config.offline else {}
    if served:
        server = session.server()
        arguments = _served_arguments(config, session, server.url, server.model)
        environment["OPENAI_API_KEY"] = server.api_key
    else:
        arguments = _own_arguments(config, session)
    work = session.work_dir
    work.mkdir(parents=True, exist_ok=True)
    named = key_of([dataclasses.asdict(config), toolchain.lock_hash])[:8]
    cache = session.store.path.with_name(f"{session.store.path.stem}.lm_eval-{named}")
    cache.parent.mkdir(parents=True, exist_ok=True)
    out = work / "lm_eval.json"
    session.progress.say(f"lm-eval asks {session.label}: {', '.join(config.tasks)}")
    reply = run_worker(
        toolchain,
        _WORKER,
        {
            "model": config.model.value.replace("_", "-"),
            "model_args": arguments,
            "tasks": list(config.tasks),
            "num_fewshot": config.num_fewshot,
            "limit": config.limit,
            "include_path": str(Path(config.include_path).expanduser().resolve()) if config.include_path else None,
            "apply_chat_template": config.apply_chat_template or config.model is LmEvalModel.local_chat_completions,
            "seed": config.seed,
            "gen_kwargs": dict(config.gen_kwargs),
            "unsafe_code": config.unsafe_code,
            "cache": str(cache),
            "out": str(out),
        },
        work_dir=work,
        log=work / "lm_eval.log",
        progress=session.progress,
        timeout_s=config.timeout_s,
        env=environment,
    )
    if served:
        server.raise_if_dead()
    return LmEvalRun(version=reply["version"], usage=reply["usage"], **read_json(out))


def _served_arguments(config: LmEvalConfig, session: Session, url: str, model: str) -> dict[str, Any]:
    """What lm-eval's clients need to reach the server.

    A Hugging Face variant brings the tokenizer that counts contexts; of a GGUF the server tokenizes.
    """
    chat = config.model is LmEvalModel.local_chat_completions
    arguments: dict[str, Any] = {
        "model": model,
        "base_url": f"{url}/v1/{'chat/completions' if chat else 'completions'}",
        "num_concurrent": config.concurrency,
        "max_retries": 3,
        "seed": config.seed,
    }
    if session.context is not None:
        arguments["max_length"] = session.context
    if session.model_format == "hf" and session.model_path is not None:
        arguments |= {"tokenizer": str(session.model_path), "tokenizer_backend": "huggingface"}
    else:
        arguments |= {"tokenizer_backend": None, "tokenized_requests": False}
    return arguments | dict(config.model_args)


def _own_arguments(config: LmEvalConfig, session: Session) -> dict[str, Any]:
    if session.model_path is None or session.model_format == "gguf":
        raise UsageError(
            "task.model=hf loads Hugging Face weights itself, and this variant is a GGUF or is served elsewhere: use "
            "task.model=local_completions or local_chat_completions"
        )
    return {"pretrained": str(session.model_path), "trust_remote_code": False} | dict(config.model_args)


def tag_of(task: str, metric: str, filtered: str) -> str:
    """The name of a figure: task, metric, and the filter where there is one."""
    parts = [task, metric, *([] if filtered == _NO_FILTER else [filtered])]
    return re.sub(r"[^a-z0-9]+", "_", "_".join(parts).lower()).strip("_")


def grade(config: LmEvalConfig, own: LmEvalRun, base: LmEvalRun | None, job: GradingJob) -> Outcome:
    """lm-eval's own figures, with its standard errors as intervals, and changes paired document by document."""
    found = [reason.value for reason in job.reasons]
    figures = Figures(margin=config.margin, same=job.same_model, found=found)
    metrics: dict[str, dict[str, Any]] = {}
    for task, values in own.results.items():
        for name, value in values.items():
            metric, comma, filtered = name.partition(",")
            if not comma or metric.endswith("_stderr") or isinstance(value, str | bool) or value is None:
                continue
            error = values.get(f"{metric}_stderr,{filtered}")
            interval = (value - _Z * error, value + _Z * error) if isinstance(error, int | float) else None
            tag = tag_of(task, metric, filtered)
            count = sum(each["task"] == task and each["filter"] == filtered for each in own.samples)
            if _paired(figures, tag, (task, metric, filtered), value=value, own=own, base=base):
                metrics |= figures.metrics
            metrics[tag] = value_metric("1", value, interval, found, n=count or None)
    return Outcome(
        metrics=metrics,
        items=_items(own, base),
        details={
            "protocol": {
                "harness": f"lm-eval {own.version}",
                "model": config.model.value,
                "tasks": list(config.tasks),
                "shots": dict(own.shots),
                "versions": dict(own.versions),
                "limit": config.limit,
            },
            "results": {task: dict(values) for task, values in own.results.items()},
            "comparisons": figures.comparisons,
            "usage": dict(own.usage),
        },
        errors={},
    )


def _paired(
    figures: Figures, tag: str, what: tuple[str, str, str], *, value: float, own: LmEvalRun, base: LmEvalRun | None
) -> bool:
    """Figures of a metric that is the mean over its documents; False where it is not, and cannot be paired so."""
    mine = _by_document(own, *what)
    if not mine or abs(float(np.mean(list(mine.values()))) - value) > 1e-6:
        return False
    others = {} if base is None else _by_document(base, *what)
    theirs = None if base is None else [others.get(document) for document in mine]
    values = list(mine.values())
    if all(each in (0, 1) for each in [*values, *(each for each in others.values())]):
        answers = None if theirs is None else [None if each is None else bool(each) for each in theirs]
        figures.share(tag, [bool(each) for each in values], answers, flips=False)
    else:
        figures.mean(tag, "1", values, theirs, margin=figures.margin, items="documents")
    return True


def _by_document(run: LmEvalRun, task: str, metric: str, filtered: str) -> dict[str, float]:
    """A metric's value for each document it has one of, numbers only."""
    rows = [each for each in run.samples if each["task"] == task and each["filter"] == filtered]
    values = {f"{row['doc_id']} {row['doc_hash']}": row["metrics"].get(metric) for row in rows}
    return {name: float(value) for name, value in values.items() if isinstance(value, int | float)}


def _items(own: LmEvalRun, base: LmEvalRun | None) -> dict[str, Any]:
    """One item a document and filter; metrics in columns of their own."""
    names = list(dict.fromkeys(name for row in own.samples for name in row["metrics"]))

    def columns(rows: Sequence[Mapping[str, Any] | None], before: str) -> dict[str, Any]:
        taken = {
            f"{before}{name}": column([None if row is None else row[name] for row in rows])
            for name in ("output", "response")
        }
        for name in names:
            values = [None if row is None else row["metrics"].get(name) for row in rows]
            taken[f"{before}{name}"] = column(
                [float(value) if isinstance(value, int | float) else None for value in values]
            )
        return taken

    items: dict[str, Any] = {
        name: column([row[name] for row in own.samples])
        for name in ("task", "doc_id", "filter", "doc_hash", "prompt_hash", "target")
    } | columns(own.samples, "")
    if base is not None:
        by_name = {(row["task"], row["doc_id"], row["filter"]): row for row in base.samples}
        matching = [by_name.get((row["task"], row["doc_id"], row["filter"])) for row in own.samples]
        items |= columns(matching, "base_")
    return items
