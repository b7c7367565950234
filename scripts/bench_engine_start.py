"""What the harness adds to an engine's own start, and how long stopping takes.

    .venv/bin/python scripts/bench_engine_start.py --runs 5                       # llama.cpp
    .venv/bin/python scripts/bench_engine_start.py --runs 3 engine=vllm_cpu scheme=bf16

The same command line is started bare, and asked for a token every 10 ms until one is generated, and by the harness,
which is ready when it has seen one; they take turns. Toolchain and variant come from the user's cache.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from bench.base.paths import cache_dir
from bench.base.process import free_port, spawn
from bench.base.progress import Progress
from bench.engines.base import Launch, engine_of
from bench.engines.launch import HOST, launched
from bench.pipeline.cell import served_model
from bench.pipeline.schemas import register_all
from bench.plan.config import RunConfig
from bench.plan.plan import plan
from quantize.run import ConfiguredToolchains, quantize


def bare(config: RunConfig, folder: Path) -> tuple[float, float]:
    """Seconds until the bare server generates, and until it has ended."""
    import httpx

    engine, toolchain = engine_of(config.engine), ConfiguredToolchains().ensure(config.engine.toolchain, Progress())
    model = served_model(quantize(config.model, config.scheme, cache=cache_dir(), progress=Progress()))
    launch = Launch(host=HOST, port=free_port(HOST), api_key="bare")
    command = engine.command(config.engine, model, launch, toolchain)
    asked = {"model": model.name, "prompt": "The", "max_tokens": 1, "temperature": 0}
    started = time.perf_counter()
    environ = toolchain.environ({**command.env, **command.secret_env})
    with (folder / "bare.log").open("ab") as log, spawn(command.argv, output=log, env=environ) as process:
        headers = {"Authorization": "Bearer bare"}
        with httpx.Client(base_url=f"http://{HOST}:{launch.port}", headers=headers, trust_env=False) as client:
            while True:
                try:
                    if client.post("/v1/completions", json=asked, timeout=60).status_code == httpx.codes.OK:
                        break
                except httpx.HTTPError:
                    pass
                time.sleep(0.01)
        ready = time.perf_counter() - started
        stopping = time.perf_counter()
        process.stop(config.engine.stop_grace_s)
    return ready, time.perf_counter() - stopping


def ours(config: RunConfig, folder: Path) -> tuple[float, float]:
    """Seconds until the harness says it is ready, and until leaving has ended it."""
    engine, toolchain = engine_of(config.engine), ConfiguredToolchains().ensure(config.engine.toolchain, Progress())
    model = served_model(quantize(config.model, config.scheme, cache=cache_dir(), progress=Progress()))
    started = time.perf_counter()
    log = folder / "ours.log"
    with launched(engine, config.engine, model, toolchain=toolchain, log=log, progress=Progress()):
        ready = time.perf_counter() - started
        stopping = time.perf_counter()
    return ready, time.perf_counter() - stopping


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", default=["scheme=gguf_q8_0", "engine.threads=1"])
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    register_all()
    (cell,) = plan(arguments.overrides).cells
    if cell.config is None:
        raise SystemExit(cell.error)
    found: dict[str, list[tuple[float, float]]] = {"bare": [], "ours": []}
    with tempfile.TemporaryDirectory(prefix="quantbench-start-") as name:
        for run in range(arguments.runs):
            for side in (bare, ours) if run % 2 == 0 else (ours, bare):
                found[side.__name__].append(side(cell.config, Path(name)))
    ready, stop = ({side: statistics.median(row[at] for row in rows) for side, rows in found.items()} for at in (0, 1))
    print(
        f"{cell.label}, median of {arguments.runs}: ready after {ready['ours']:.2f} s, bare {ready['bare']:.2f} s: ",
        end="",
    )
    print(
        f"{1e3 * (ready['ours'] - ready['bare']):+.0f} ms; stopped in {stop['ours']:.2f} s, bare {stop['bare']:.2f} s"
    )


if __name__ == "__main__":
    main()
