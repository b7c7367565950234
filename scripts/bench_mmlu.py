"""MMLU on a running server: questions a second of ours beside lm-eval's `local-completions`, and answer by answer.

    quantbench serve scheme=hf_bf16 engine=vllm_cpu           # in another shell; it prints the URL and the key's file
    python scripts/bench_mmlu.py --url http://127.0.0.1:PORT --key-file FILE --data FOLDER --tokenizer CHECKPOINT

Both get the same prompts, to the character, few-shot examples included. lm-eval asks four requests a question, whose
prompt log-probabilities leave the engine's prefix cache aside; it is run at each of `--lm-eval-concurrency` and its
best counts. Ours is run twice, each on a fresh cache of answers, and the slower counts; and once more one request at a
time. How far letters move among ours, and among lm-eval's at its concurrencies, is the self-noise: an answer that
differs is a fault only where the two letters are further apart than twice that. The goal is 6 times.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.base.progress import Progress
from bench.engines.base import Command, Engine, discover, engine_of
from bench.engines.llama_cpp import LlamaCppConfig
from bench.engines.running import Endpoint
from bench.engines.sglang import SglangConfig
from bench.engines.vllm import VllmConfig
from bench.pipeline.schemas import register_all
from bench.quality.generation.cache import AnswerStore
from bench.quality.generation.session import Session
from bench.quality.mmlu import LETTERS, load_subjects, prompt_group
from bench.quality.served.config import ServedMultipleChoiceConfig
from bench.quality.served.letters import generate, picked
from quantize.run import ConfiguredToolchains

GOAL = 6.0
ENGINES = {"vllm": VllmConfig, "sglang": SglangConfig, "llama_cpp": LlamaCppConfig}
TASK = """
task: same_prompts
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
num_fewshot: 0
output_type: multiple_choice
doc_to_text: prompt
doc_to_choice: ["A", "B", "C", "D"]
doc_to_target: answer
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
metadata:
  version: 1.0
"""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Letters' log-probabilities, shape (questions, letters), and how long they took."""

    logprobs: NDArray[np.float64]
    seconds: float

    @property
    def rate(self) -> float:
        """Questions a second."""
        return len(self.logprobs) / self.seconds


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", required=True)
    parser.add_argument("--model", help="as the server calls it; the only one it names otherwise")
    parser.add_argument("--key-file", type=Path, help="holds the server's key")
    parser.add_argument("--engine", choices=sorted(ENGINES), default="vllm")
    parser.add_argument("--data", default="default", help="as task.data")
    parser.add_argument("--subjects", default="", help="separated by commas; all otherwise")
    parser.add_argument("--limit", type=int, default=10, help="questions of each subject; 0: all")
    parser.add_argument("--shots", type=int, default=5)
    parser.add_argument("--tokenizer", type=Path, help="the checkpoint's folder, which lm-eval tokenizes with")
    parser.add_argument("--lm-eval-concurrency", default="1,4,16", help="each is tried, the best counts")
    parser.add_argument("--ours-only", action="store_true")
    return parser.parse_args()


def endpoint(options: argparse.Namespace, engine: Engine, folder: Path) -> Endpoint:
    """The server, as the harness holds one that it was given."""
    key = options.key_file.read_text(encoding="utf-8").strip() if options.key_file else ""
    made = Endpoint(
        url=options.url.rstrip("/").removesuffix("/v1"),
        model=options.model or "",
        api_key=key,
        command=Command(argv=[]),
        process=None,
        log=folder / "none.log",
        ready_s=None,
        engine=engine,
    )
    if options.model:
        return made
    with made.client() as client:
        (name,) = [entry["id"] for entry in client.get("/v1/models").raise_for_status().json()["data"]]
    return Endpoint(**{**made.__dict__, "model": name})


def ours(task: ServedMultipleChoiceConfig, server: Endpoint, folder: Path) -> Measured:
    """Every question once, on a cache of its own."""
    session = Session(
        key="bench",
        label=server.model,
        server=lambda: server,
        store=AnswerStore(folder / "answers.jsonl"),
        progress=Progress(),
        work_dir=folder,
    )
    started = time.monotonic()
    told = generate(task, session)
    return Measured(logprobs=told.logprobs, seconds=time.monotonic() - started)


def lm_eval(
    prompts: list[str], right: list[int], server: Endpoint, *, tokenizer: Path, concurrency: int, folder: Path
) -> Measured:
    """The same prompts through lm-eval's own command line; timed by its own clock."""
    folder.mkdir(parents=True)
    rows = folder / "rows.jsonl"
    pairs = zip(prompts, right, strict=True)
    rows.write_text("".join(json.dumps({"prompt": prompt, "answer": answer}) + "\n" for prompt, answer in pairs))
    (folder / "same_prompts.yaml").write_text(TASK.format(data=rows))
    toolchain = ConfiguredToolchains().ensure("lm_eval", Progress())
    model = f"model={server.model},base_url={server.url}/v1/completions,num_concurrent={concurrency}"
    model += f",tokenizer={tokenizer},tokenized_requests=True,max_retries=3"
    argv = [str(toolchain.python), "-m", "lm_eval", "--model", "local-completions", "--model_args", model]
    argv += ["--tasks", "same_prompts", "--include_path", str(folder), "--log_samples", "--output_path", str(folder)]
    env = toolchain.environ({"OPENAI_API_KEY": server.api_key or "none", "HF_DATASETS_CACHE": str(folder / "datasets")})
    with (folder / "lm_eval.log").open("w+", encoding="utf-8") as log:
        code = subprocess.run(argv, env=env, stdout=log, stderr=subprocess.STDOUT, check=False).returncode
        log.seek(0)
        said = log.read()
    if code:
        raise SystemExit(f"lm-eval ended with {code}:\n{said[-3000:]}")
    samples = next(folder.rglob("samples_*.jsonl"))
    found = sorted((json.loads(line) for line in samples.read_text().splitlines()), key=lambda row: row["doc_id"])
    logprobs = np.array([[float(answer[0][0]) for answer in row["resps"]] for row in found])
    results = json.loads(next(folder.rglob("results_*.json")).read_text())
    return Measured(logprobs=logprobs, seconds=float(results["total_evaluation_time_seconds"]))


def spread(runs: list[Measured]) -> float:
    """How far a letter's log-probability moves between runs of the same, nat."""
    return max(float(np.nanmax(np.abs(run.logprobs - runs[0].logprobs))) for run in runs)


def compared(own: list[Measured], others: list[Measured]) -> dict[str, Any]:
    """Answers that differ, the self-noise (nat), and how many differences it does not explain."""
    one, again, other = own[0], own[1], others[0]
    noise = max(spread(own), spread(others))
    mine, theirs = one.logprobs.argmax(axis=1), other.logprobs.argmax(axis=1)
    rows = np.flatnonzero(mine != theirs)
    apart = np.abs(other.logprobs[rows, mine[rows]] - other.logprobs[rows, theirs[rows]])
    return {
        "questions": len(mine),
        "different": len(rows),
        "self_noise": noise,
        "self_flips": int((mine != again.logprobs.argmax(axis=1)).sum()),
        "largest_gap": float(np.nanmax(np.abs(one.logprobs - other.logprobs))),
        "beyond_noise": int((apart > 2 * noise).sum()),
    }


def main() -> int:
    options = arguments()
    register_all()
    discover()
    engine = engine_of(ENGINES[options.engine]())
    task = ServedMultipleChoiceConfig(
        data=options.data,
        subjects=[name for name in options.subjects.split(",") if name],
        shots=options.shots,
        limit=options.limit,
    )
    with tempfile.TemporaryDirectory(prefix="bench-mmlu-") as name:
        folder = Path(name)
        server = endpoint(options, engine, folder)
        subjects = load_subjects(task.questions())
        right = [LETTERS.index(question.answer) for subject in subjects for question in subject.questions]
        prompts = [group.prefix + end for group in map(prompt_group, subjects) for end in group.endings]
        with server.client() as client:  # what an engine compiles at its first request is no one's time
            warm = {"model": server.model, "prompt": "Once upon a time", "max_tokens": 4}
            client.post("/v1/completions", json=warm, timeout=600.0).raise_for_status()
        runs = [ours(task, server, folder / f"ours-{number}") for number in range(2)]
        for number, run in enumerate(runs):
            hits = int((picked_right(run, right)).sum())
            print(f"ours {number + 1}: {run.rate:.2f} questions/s, {hits} of {len(right)} right")
        if options.ours_only:
            return 0
        single = ours(dataclasses.replace(task, max_concurrency=1), server, folder / "ours-single")
        if options.tokenizer is None:
            raise SystemExit("--tokenizer: give the checkpoint's folder, lm-eval tokenizes for itself")
        others: list[Measured] = []
        for concurrency in map(int, options.lm_eval_concurrency.split(",")):
            found = lm_eval(
                prompts,
                right,
                server,
                tokenizer=options.tokenizer,
                concurrency=concurrency,
                folder=folder / f"lm-eval-{concurrency}",
            )
            print(f"lm-eval, {concurrency} at once: {found.rate:.2f} questions/s")
            others.append(found)
        times = min(run.rate for run in runs) / max(run.rate for run in others)
        told = compared([*runs, single], others)
        print(f"{times:.1f} times lm-eval's best (goal: {GOAL:g})")
        print(", ".join(f"{name} {value:.4g}" for name, value in told.items()))
        return 0 if times >= GOAL and not told["beyond_noise"] else 1


def picked_right(run: Measured, right: list[int]) -> NDArray[np.bool_]:
    """Which answers are right."""
    from bench.quality.served.letters import Told

    return picked(Told(logprobs=run.logprobs, asked_by=""), np.array(right)).correct


if __name__ == "__main__":
    sys.exit(main())
