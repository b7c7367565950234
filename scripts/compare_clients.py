"""Load generators side by side: ours, guidellm and `vllm bench serve`, each against the truth server, in one run.

    python scripts/compare_clients.py --streams 64 --seconds 60
    python scripts/compare_clients.py --streams 16 --seconds 10 --clients ours guidellm

The others run from their toolchains (`quantbench toolchain install guidellm`, `… vllm`); one that is not installed is
left out, and said so. Server and clients get one core each. All ask prompts of the same length in a closed loop; the
first two waves are left out of everybody's figures. TTFT stands beside the truth of the same requests, delivered load
is of what the server's log permits, CPU is what the client's processes used while requests were served (ours: its loop,
and the parsing that comes after it). Publish nothing from runs under 60 s.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow.parquet as pq

from bench.base.process import Supervised, clean_env, spawn
from bench.load.config import ClosedConfig
from bench.load.run import run_scenario
from bench.load.truth.compare import TrueTimes
from bench.load.truth.launch import TruthServer
from bench.load.workloads.config import JsonlConfig
from bench.pipeline.schemas import register_all
from bench.toolchains.config import load_toolchain_config
from bench.toolchains.ensure import implementation, lock_hash
from bench.toolchains.toolchain import Toolchain

DROPPED_WAVES = 2
WORDS = [f"w{number}" for number in range(1000)]
INPUT_WORDS = 32


@dataclass(frozen=True, kw_only=True)
class Work:
    """What all are asked. `folder` is the client's own, to write into."""

    url: str
    streams: int
    requests: int
    tokens: int
    prompts: Path
    tokenizer: Path
    folder: Path


@dataclass(frozen=True, kw_only=True)
class Reported:
    """What a client says, in common terms: one value a successful request in order of its start, ms; gaps flat, ms."""

    ttft_ms: list[float]
    gap_ms: list[float]
    failed: int
    cpu_us_per_token: float | None = None
    """Where it is known better than by watching its processes."""


# ---- the clients


def ours(work: Work) -> Reported:
    from bench.load.target import Target

    scenario = ClosedConfig(concurrency=work.streams, requests=work.requests, warmup=0, drop_waves=DROPPED_WAVES)
    workload = JsonlConfig(path=str(work.prompts), output_tokens=work.tokens)
    summary = run_scenario(Target(url=work.url, model="truth"), scenario, workload, work.folder)
    requests = pq.read_table(work.folder / "requests.parquet").to_pandas()
    good = requests[requests["status"] == "ok"].sort_values("sent_ns")
    events = pq.read_table(work.folder / "events.parquet").to_pandas()
    kept = events[events["request_id"].isin(good["request_id"][DROPPED_WAVES * work.streams :])]
    gaps = kept.groupby("request_id")["ns"].diff().dropna() / 1e6
    own = summary["own_error"]
    return Reported(
        ttft_ms=((good["first_token_ns"] - good["sent_ns"]) / 1e6).tolist(),
        gap_ms=gaps.tolist(),
        failed=summary["requests"]["failed"],
        cpu_us_per_token=own["cpu_us_per_token"] + own["parse_cpu_us_per_token"],
    )


def guidellm_command(program: Path, work: Work) -> list[str]:
    return [
        *(str(program), "run", "--disable-console"),
        *("--backend", f"kind=openai_http,target={work.url},model=truth"),
        *("--profile", f"kind=concurrent,streams={work.streams}"),
        *("--constraint", f"kind=max_requests,count={work.requests}"),
        *("--tokenizer", f"kind=huggingface_auto,model={work.tokenizer}"),
        *("--data", f"kind=json_file,path={work.prompts}"),
        *("--output", f"kind=json,path={work.folder / 'result.json'}"),
    ]


def read_guidellm(work: Work) -> Reported:
    (benchmark,) = json.loads((work.folder / "result.json").read_text())["benchmarks"]
    requests = benchmark["requests"]
    good = sorted(requests["successful"], key=lambda request: float(request["request_start_time"]))
    return Reported(
        ttft_ms=[request["time_to_first_token_ms"] for request in good],
        # It keeps the mean of each request only.
        gap_ms=[request["inter_token_latency_ms"] for request in good[DROPPED_WAVES * work.streams :]],
        failed=len(requests["errored"]) + len(requests["incomplete"]),
    )


def vllm_command(program: Path, work: Work) -> list[str]:
    return [
        *(str(program), "bench", "serve", "--backend", "openai", "--base-url", work.url),
        *("--endpoint", "/v1/completions", "--model", "truth", "--tokenizer", str(work.tokenizer)),
        # It reads files with pandas, which its own environment lacks: prompts of the same length instead.
        *("--dataset-name", "random", "--random-input-len", str(INPUT_WORDS), "--random-output-len", str(work.tokens)),
        *("--num-prompts", str(work.requests), "--max-concurrency", str(work.streams), "--ignore-eos"),
        *("--disable-tqdm", "--save-result", "--save-detailed", "--ready-check-timeout-sec", "0"),
        *("--result-dir", str(work.folder), "--result-filename", "result.json"),
    ]


def read_vllm(work: Work) -> Reported:
    result = json.loads((work.folder / "result.json").read_text())
    good = [number for number, error in enumerate(result["errors"]) if not error]
    good.sort(key=lambda number: float(result["start_times"][number]))
    kept = good[DROPPED_WAVES * work.streams :]
    return Reported(
        ttft_ms=[1000 * result["ttfts"][number] for number in good],
        gap_ms=[1000 * gap for number in kept for gap in result["itls"][number]],
        failed=len(result["errors"]) - len(good),
    )


@dataclass(frozen=True, kw_only=True)
class Rival:
    """A load generator in a toolchain."""

    toolchain: str
    program: str
    command: Callable[[Path, Work], list[str]]
    read: Callable[[Work], Reported]


RIVALS = {
    "guidellm": Rival(toolchain="guidellm", program="guidellm", command=guidellm_command, read=read_guidellm),
    "vllm": Rival(toolchain="vllm", program="vllm", command=vllm_command, read=read_vllm),
}


def installed(name: str) -> Toolchain | None:
    """A toolchain that is there already; nothing is made."""
    config = load_toolchain_config(name)
    return implementation(config).find(config, lock_hash(config))


class CpuWatch:
    """While inside, notes ten times a second how much CPU a process tree has used."""

    def __init__(self, process: Supervised) -> None:
        self._root = psutil.Process(process.supervisor_pid)
        self._seen: dict[int, float] = {}
        self.series: list[tuple[int, float]] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> CpuWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(0.1):
            try:
                tree = [self._root, *self._root.children(recursive=True)]
            except psutil.Error:
                continue
            for process in tree:
                try:
                    used = process.cpu_times()
                except psutil.Error:
                    continue
                self._seen[process.pid] = used.user + used.system
            self.series.append((time.monotonic_ns(), sum(self._seen.values())))

    def between_s(self, start_ns: int, end_ns: int) -> float:
        """CPU seconds between two CLOCK_MONOTONIC times."""
        at, used = np.array([at for at, _ in self.series]), np.array([used for _, used in self.series])
        return float(np.interp(end_ns, at, used) - np.interp(start_ns, at, used))


def ask_rival(rival: Rival, work: Work) -> tuple[Reported, CpuWatch]:
    toolchain = installed(rival.toolchain)
    assert toolchain is not None, "checked before"
    log = work.folder / "log"
    with log.open("wb") as output:
        env = clean_env(extra=toolchain.env)
        process = spawn(
            rival.command(toolchain.executable(rival.program), work), output=output, env=env, cwd=work.folder
        )
        with process, CpuWatch(process) as watch:
            code = process.wait()
    if code:
        raise SystemExit(f"{rival.program} ended with {code}:\n{log.read_text(errors='replace')[-3000:]}")
    return rival.read(work), watch


# ---- the table


def compare(name: str, options: argparse.Namespace, streams: int) -> list[str]:
    """The row of one client at one number of streams."""
    cores = sorted(os.sched_getaffinity(0))
    wave_s = (options.ttft_ms + (options.tokens - 1) * options.itl_ms) / 1000
    with tempfile.TemporaryDirectory() as folder:
        requests = streams * max(DROPPED_WAVES + 2, math.ceil(options.seconds / wave_s))
        prompts, tokenizer = write_inputs(Path(folder), requests, options.tokens)
        (Path(folder) / "out").mkdir()
        truth = TruthServer(
            ttft_ms=options.ttft_ms, itl_ms=options.itl_ms, tokens=options.tokens, cpu=cores[0], by_arrival=True
        )
        with truth:
            os.sched_setaffinity(0, {cores[-1]})
            try:
                work = Work(
                    url=truth.url,
                    streams=streams,
                    requests=requests,
                    tokens=options.tokens,
                    prompts=prompts,
                    tokenizer=tokenizer,
                    folder=Path(folder) / "out",
                )
                reported, watch = (ours(work), None) if name == "ours" else ask_rival(RIVALS[name], work)
                true = TrueTimes.of(truth.take_log(), options.tokens)
            finally:
                os.sched_setaffinity(0, set(cores))
    cpu_us = reported.cpu_us_per_token
    if watch is not None:
        used_s = watch.between_s(int(true.received_ns.min()), int(true.events_ns.max()))
        cpu_us = 1e6 * used_s / true.events_ns.size
    return row(name, streams, reported, true, cpu_us)


def row(name: str, streams: int, reported: Reported, true: TrueTimes, cpu_us: float | None) -> list[str]:
    first = DROPPED_WAVES * streams
    kept = true.among(np.sort(true.request[np.argsort(true.received_ns)][first:]))
    delivered = true.busy_share(streams, first=int(kept.request.min()))
    true_gaps = np.diff(kept.events_ns, axis=1).ravel() / 1e6
    return [
        name,
        str(streams),
        str(len(reported.ttft_ms)),
        str(reported.failed),
        *pair(reported.ttft_ms[first:], kept.ttft_ns / 1e6),
        *pair(reported.gap_ms, true_gaps),
        "-" if delivered is None else f"{100 * delivered:.1f} %",
        "-" if cpu_us is None else f"{cpu_us:.1f}",
    ]


def pair(values: Sequence[float], truth: Any) -> list[str]:
    """p50 and p99, each `reported (true)`."""
    return [f"{np.quantile(values, share):.1f} ({np.quantile(truth, share):.1f})" for share in (0.5, 0.99)]


def write_inputs(folder: Path, requests: int, tokens: int) -> tuple[Path, Path]:
    """Prompts, one JSON object a line, and a tokenizer of whole words, so that no client needs a hub."""
    dice = random.Random(0)
    prompts, tokenizer = folder / "prompts.jsonl", folder / "tokenizer"
    with prompts.open("w") as stream:
        for _ in range(requests):
            prompt = " ".join(dice.choices(WORDS, k=INPUT_WORDS))
            stream.write(json.dumps({"prompt": prompt, "output_tokens_count": tokens}) + "\n")
    tokenizer.mkdir()
    vocabulary = {word: number for number, word in enumerate([*WORDS, "word", "[UNK]"])}
    model = {"type": "WordLevel", "vocab": vocabulary, "unk_token": "[UNK]"}
    whole = {"version": "1.0", "added_tokens": [], "pre_tokenizer": {"type": "WhitespaceSplit"}, "model": model}
    (tokenizer / "tokenizer.json").write_text(json.dumps(whole))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "[UNK]", "model_max_length": 100_000}
    (tokenizer / "tokenizer_config.json").write_text(json.dumps(settings))
    (tokenizer / "config.json").write_text(json.dumps({"model_type": "llama"}))
    return prompts, tokenizer


COLUMNS = (
    *("client", "streams", "answers", "failed", "TTFT ms p50 (true)", "p99 (true)", "gap ms p50 (true)", "p99 (true)"),
    *("delivered", "CPU µs/token"),
)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", nargs="+", choices=["ours", *RIVALS], default=["ours", *RIVALS])
    parser.add_argument("--streams", type=int, nargs="+", default=[64, 256, 1024])
    parser.add_argument("--seconds", type=float, default=60.0, help="about how long each is asked")
    parser.add_argument("--ttft-ms", type=float, default=100.0)
    parser.add_argument("--itl-ms", type=float, default=10.0)
    parser.add_argument("--tokens", type=int, default=128)
    return parser.parse_args()


def main() -> int:
    options = arguments()
    register_all()
    names = []
    for name in options.clients:
        if name == "ours" or installed(RIVALS[name].toolchain) is not None:
            names.append(name)
        else:
            print(f"{name} is left out: quantbench toolchain install {RIVALS[name].toolchain}", file=sys.stderr)
    print(f"truth: TTFT {options.ttft_ms:g} ms, ITL {options.itl_ms:g} ms, {options.tokens} tokens; one core each;")
    print(f"about {options.seconds:g} s each, the first two waves left out; load average {os.getloadavg()[0]:.1f}")
    print(" | ".join(COLUMNS))
    for streams in options.streams:
        for name in names:
            cells = compare(name, options, streams)
            print(" | ".join(cell.ljust(len(title)) for cell, title in zip(cells, COLUMNS, strict=True)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
