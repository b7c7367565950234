"""What drawing a load costs before it is sent, and what a long prompt costs when it is: CPU and memory.

    python scripts/bench_draw.py [--requests 1000000] [--tokens 100000]

Draws a Poisson load of short prompts into plan and body files in a process of its own, reads the plan as a worker does,
and compares handing over a long prompt's request with copying its bytes. Prints one line each.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.load.config import PoissonConfig, SyntheticConfig
from bench.load.plan import draw_plan
from bench.load.spec import bodies_path, read_plan
from bench.load.target import Target

_TARGET = Target(url="http://127.0.0.1:1", model="m")
_TIMES = 50


def draw(folder: Path, requests: int, tokens: int) -> dict[str, Any]:
    """Draw `requests` prompts of `tokens` words; costs of this process."""
    before_bytes, before_s = _peak_bytes(), time.process_time()
    scenario = PoissonConfig(rate_per_s=1000, requests=requests, warmup=0)
    workload = SyntheticConfig(input_tokens=tokens, tokenize=False)
    draw_plan(_TARGET, scenario, workload, folder, name="bench", repeat=0)
    return {
        "requests": requests,
        "cpu_us_per_request": round((time.process_time() - before_s) / requests * 1e6, 1),
        "peak_rss_bytes": _peak_bytes(),
        "more_rss_bytes": _peak_bytes() - before_bytes,
        "bodies_bytes": bodies_path(folder, "worker0").stat().st_size,
    }


def hand_over(folder: Path) -> dict[str, Any]:
    """Seconds of CPU to make the bytes of a request, and to copy as many; the smallest of some."""
    from bench.load.payload import RequestHead

    content = memoryview(bodies_path(folder, "worker0").read_bytes())
    row = read_plan(folder, "worker0")[0]
    start, length = int(row["body_start"]), int(row["body_length"])
    head = RequestHead(authority="localhost", path="/v1/completions", api_key=None, name="bench")
    made = min(_timed(lambda: b"".join((head(0, length), content[start : start + length]))) for _ in range(_TIMES))
    copied = min(_timed(lambda: bytearray(content[start : start + length])) for _ in range(_TIMES))
    return {"body_bytes": length, "request_us": round(made * 1e6, 1), "copy_us": round(copied * 1e6, 1)}


def _timed(call: Any) -> float:
    began = time.process_time()
    call()
    return time.process_time() - began


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--tokens", type=int, default=100_000)
    parser.add_argument("--draw", nargs=3, metavar=("FOLDER", "REQUESTS", "TOKENS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.draw:
        folder, requests, tokens = options.draw
        print(json.dumps(draw(Path(folder), int(requests), int(tokens))))
        return
    with tempfile.TemporaryDirectory() as folder:
        for name, requests, tokens in (("short prompts", options.requests, 32), ("long prompts", 20, options.tokens)):
            command = [sys.executable, __file__, "--draw", folder, str(requests), str(tokens)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            print(f"{name}: {done.stdout.strip()}")
        print(f"one long prompt: {json.dumps(hand_over(Path(folder)))}")


if __name__ == "__main__":
    main()
