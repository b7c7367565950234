"""Worker of the lm_eval toolchain: runs tasks of lm-evaluation-harness and writes results and samples to a file.

The server's key is in OPENAI_API_KEY, never in the request.

request  {"model", "model_args", "tasks", "num_fewshot", "limit", "include_path", "apply_chat_template", "seed",
         "gen_kwargs", "unsafe_code", "cache": a file for model answers, or null, "out": a JSON file}
result   {"version": of lm-eval, "samples": how many}
out      {"results": {task: {"metric,filter": value}}, "shots": {task: n}, "versions": {task: version},
          "samples": [{"task", "doc_id", "doc_hash", "prompt_hash", "filter", "target", "output", "response",
                       "metrics"}]}
"""

from __future__ import annotations

import importlib.metadata
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any


class UsageFault(Exception):
    """What was asked for cannot be done."""

    kind = "usage"


def run(request: dict[str, Any], progress: Callable[..., None]) -> dict[str, Any]:
    """The worker's entry."""
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=request["include_path"])
    unknown = [name for name in request["tasks"] if not manager.match_tasks([name])]
    if unknown:
        raise UsageFault(f"lm-eval has no task '{unknown[0]}'; give task files of your own with task.include_path")
    progress(0, None, "requests", f"lm-eval {importlib.metadata.version('lm-eval')}")
    try:
        found = simple_evaluate(
            model=request["model"],
            model_args=request["model_args"],
            device=device(request["model"]),
            tasks=request["tasks"],
            num_fewshot=request["num_fewshot"],
            limit=request["limit"] or None,
            apply_chat_template=request["apply_chat_template"],
            task_manager=manager,
            use_cache=request["cache"],
            log_samples=True,
            gen_kwargs=request["gen_kwargs"] or None,
            random_seed=request["seed"],
            numpy_random_seed=request["seed"],
            torch_random_seed=request["seed"],
            fewshot_random_seed=request["seed"],
            confirm_run_unsafe_code=request["unsafe_code"],
            verbosity=None,
        )
    except (NotImplementedError, ConnectionError, FileNotFoundError) as error:
        raise UsageFault(f"{type(error).__name__}: {error}") from error
    assert found is not None
    samples = [flat(name, sample) for name, entries in found["samples"].items() for sample in entries]
    out = {
        "results": {name: plain(values) for name, values in found["results"].items()},
        "shots": plain(found.get("n-shot", {})),
        "versions": plain(found.get("versions", {})),
        "samples": samples,
    }
    Path(request["out"]).write_text(json.dumps(out, allow_nan=False), encoding="utf-8")
    return {"version": importlib.metadata.version("lm-eval"), "samples": len(samples)}


def device(model: str) -> str | None:
    """What a model in process computes on; lm-eval would ask for a GPU that is not there."""
    if model != "hf":
        return None
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def flat(task: str, sample: dict[str, Any]) -> dict[str, Any]:
    """A sample without the document and the prompt, which their hashes stand for."""
    metrics = {name: plain(sample.get(name)) for name in sample.get("metrics", [])}
    return {
        "task": task,
        "doc_id": sample["doc_id"],
        "doc_hash": sample.get("doc_hash"),
        "prompt_hash": sample.get("prompt_hash"),
        "filter": sample.get("filter", "none"),
        "target": str(sample.get("target")),
        "output": json.dumps(plain(sample.get("filtered_resps")), ensure_ascii=False),
        "response": json.dumps(plain(sample.get("resps")), ensure_ascii=False),
        "metrics": metrics,
    }


def plain(value: Any) -> Any:
    """JSON-able: numbers of numpy as Python's, what is not finite as null, the rest as text."""
    if isinstance(value, dict):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if hasattr(value, "item") and not isinstance(value, str | bytes):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)
