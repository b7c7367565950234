"""What schemes take on this machine, and what our own code adds to the bare library in the same environment.

    .venv/bin/python scripts/bench_quantizers.py                            # every scheme once: time and memory
    .venv/bin/python scripts/bench_quantizers.py --overhead fp8_dynamic gptq_w4a16 --runs 3

The model is the packaged SmolLM2-135M. Toolchains and its source come from the user's cache, artefacts are made anew in
a temporary folder. For the overhead, `quantize` (fetching nothing, with the digests, headers and manifest of what is
written) and the library alone (scripts/bare_quantizers.py) take turns, on the same checkpoint, text and threads.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from bench.base.paths import cache_dir
from bench.base.progress import Progress
from bench.pipeline.schemas import register_all
from bench.plan.plan import plan
from quantize.models import LocalConfig, ModelConfig
from quantize.run import ConfiguredToolchains, quantize
from quantize.schemes.base import SchemeConfig

#: As the speed goals have them.
SCHEMES = {
    "bf16": (),
    "fp8_dynamic": (),
    "int8_rtn": (),
    "gptq_w4a16": ("scheme.calibration.samples=16", "scheme.calibration.length=512"),
    "awq_w4a16": ("scheme.calibration.samples=8", "scheme.calibration.length=256"),
    "nf4": (),
    **{f"gguf_{name}": () for name in ("f16", "q8_0", "q6_k", "q5_k_m", "q4_k_m", "q4_0", "q3_k_m", "iq4_xs")},
}
TEXT = Path(__file__).parents[1] / "quantize" / "texts" / "calibration.txt"
BARE = Path(__file__).with_name("bare_quantizers.py")


def configured(name: str) -> tuple[ModelConfig, SchemeConfig]:
    """The packaged model and a shipped scheme at the goals' settings."""
    (cell,) = plan([f"scheme={name}", *SCHEMES.get(name, ())]).cells
    if cell.config is None:
        raise SystemExit(cell.error)
    return cell.config.model, cell.config.scheme


def linked_cache(folder: Path) -> Path:
    """A cache whose toolchains and sources are the user's, and whose artefacts are new."""
    for part in ("toolchains", "sources"):
        (cache_dir() / part).mkdir(parents=True, exist_ok=True)
        if not (folder / part).exists():
            (folder / part).symlink_to(cache_dir() / part)
    return folder


def measure(names: list[str], folder: Path) -> None:
    """Make every scheme once; prints a row for each."""
    cache = linked_cache(folder)
    print(f"{'scheme':24}{'wall s':>10}{'CPU s':>10}{'peak MB':>10}{'size MB':>10}{'bits/weight':>13}")
    for name in names:
        model, scheme = configured(name)
        started = time.perf_counter()
        made = quantize(model, scheme, cache=cache, progress=Progress()).manifest
        wall = time.perf_counter() - started
        cpu, peak = made["cpu_s"] or 0.0, (made["peak_rss_bytes"] or 0) / 1e6
        print(
            f"{name:24}{wall:10.1f}{cpu:10.1f}{peak:10.0f}{made['size_bytes'] / 1e6:10.1f}"
            f"{made['effective_bits_per_weight']:13.3f}",
            flush=True,
        )


def overhead(name: str, runs: int, folder: Path) -> None:
    """Ours and the bare library in turns, each first every second time; prints both and the ratios' medians."""
    model, base_scheme = configured("bf16")
    base = quantize(model, base_scheme, cache=linked_cache(folder), progress=Progress()).directory
    rows = []
    for run in range(runs):
        order = [ours, bare] if run % 2 == 0 else [bare, ours]
        found = {side.__name__: side(name, base, folder / f"{name}-{run}") for side in order}
        rows.append((*found["ours"], *found["bare"]))
        print(f"{name:14} run {run + 1}: ours {found['ours']}, bare {found['bare']} (wall s, CPU s)", flush=True)
    walls, cpus = [row[0] / row[2] for row in rows], [row[1] / row[3] for row in rows]
    print(
        f"{name:14} overhead: wall {100 * (statistics.median(walls) - 1):+.1f} % "
        f"({', '.join(f'{100 * (ratio - 1):+.1f}' for ratio in walls)}), "
        f"CPU {100 * (statistics.median(cpus) - 1):+.1f} % ({', '.join(f'{100 * (ratio - 1):+.1f}' for ratio in cpus)})"
    )


def spent() -> float:
    """CPU seconds of this process and of all children that ended."""
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(entry.ru_utime + entry.ru_stime for entry in usage)


def ours(name: str, base: Path, work: Path) -> tuple[float, float]:
    """Wall and CPU seconds of `quantize`; prints what of the wall was outside the worker, which calls the library."""
    _, scheme = configured(name)
    started, before = time.perf_counter(), spent()
    made = quantize(LocalConfig(path=str(base)), scheme, cache=work / "ours", progress=Progress()).manifest
    wall = time.perf_counter() - started
    outside = wall - (made["wall_s"] or 0.0)
    print(f"{name:14} outside the worker: {outside:.2f} of {wall:.1f} s ({100 * outside / wall:.1f} %)", flush=True)
    return round(wall, 2), round(spent() - before, 2)


def bare(name: str, base: Path, work: Path) -> tuple[float, float]:
    """Wall and CPU seconds of the library alone."""
    toolchain = ConfiguredToolchains().ensure("llmcompressor", Progress())
    work.mkdir(parents=True, exist_ok=True)
    threads = str(len(os.sched_getaffinity(0)))
    command = [str(toolchain.python), "-I", str(BARE), name, str(base), str(work / "bare"), str(TEXT), threads]
    own = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    started, before = time.perf_counter(), spent()
    with (work / "bare.log").open("w") as log:
        subprocess.run(command, env={**os.environ, **toolchain.env, **own}, stdout=log, stderr=log, check=True)
    return round(time.perf_counter() - started, 2), round(spent() - before, 2)


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("schemes", nargs="*", metavar="SCHEME", help=f"of: {', '.join(SCHEMES)} (default: all)")
    parser.add_argument("--overhead", action="store_true", help="compare with the bare library instead")
    parser.add_argument("--runs", type=int, default=3, help="how often each side runs for the overhead")
    arguments = parser.parse_args()
    register_all()
    with tempfile.TemporaryDirectory(prefix="quantbench-bench-") as name:
        if arguments.overhead:
            for scheme in arguments.schemes or ["fp8_dynamic", "gptq_w4a16"]:
                overhead(scheme, arguments.runs, Path(name))
        else:
            measure(arguments.schemes or list(SCHEMES), Path(name))


if __name__ == "__main__":
    main()
