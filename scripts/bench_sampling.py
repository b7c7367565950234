"""What does watching a run cost? The share of one core that sampling metrics and telemetry takes, and parsing after it.

    python scripts/bench_sampling.py                          # 100 kB of exposition, 20 s at 1 Hz
    python scripts/bench_sampling.py --exposition FILE --seconds 60

A server in a process of its own answers with the exposition. The bound is 1 % of a core for all samplers together.
"""

from __future__ import annotations

import argparse
import http.server
import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bench.engines.metric_maps import VLLM
from bench.engines.metrics import Timing, read_sample
from bench.load.target import Target
from bench.telemetry.memory import MemoryWatch
from bench.telemetry.sampler import Sampler
from bench.telemetry.scrape import Scraper, read_scrapes
from bench.telemetry.watch import Telemetry

BOUND = 0.01


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--exposition", type=Path, help="what the server answers, instead of made-up vLLM metrics")
    return parser.parse_args()


def made_up(size_bytes: int = 100_000) -> str:
    """vLLM's histograms and as many others as fill `size_bytes`."""
    labels = 'engine="0",model_name="organisation/a-model-with-a-name-8b-instruct"'
    lines: list[str] = ["# TYPE vllm:num_requests_running gauge", f"vllm:num_requests_running{{{labels}}} 8.0"]
    names = [name for timing in Timing for name in VLLM.timings[timing]]
    filler = (f"vllm:other_{number}_seconds" for number in range(1000))
    for name in (*names, *filler):
        lines += [f"# HELP {name} Histogram of something in seconds.", f"# TYPE {name} histogram"]
        lines += [f'{name}_bucket{{{labels},le="{2.0**power}"}} {power + 8}.0' for power in range(-8, 13)]
        lines += [f'{name}_bucket{{{labels},le="+Inf"}} 21.0', f"{name}_count{{{labels}}} 21.0"]
        lines.append(f"{name}_sum{{{labels}}} 12.5")
        if sum(map(len, lines)) > size_bytes:
            break
    return "\n".join(lines) + "\n"


@contextmanager
def serving(text: str) -> Iterator[tuple[str, int]]:
    """A server that answers with `text`: its URL and process id."""
    body = text.encode()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            return

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    process = multiprocessing.get_context("fork").Process(target=server.serve_forever, daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", process.pid or os.getpid()
    finally:
        process.terminate()
        process.join()
        server.server_close()


def main() -> None:
    options = arguments()
    text = options.exposition.read_text(encoding="utf-8") if options.exposition else made_up()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        url, pid = stack.enter_context(serving(text))
        raw = folder / "raw.jsonl.gz"
        scraper = stack.enter_context(Scraper(Target(url=url, model="m", api_key="k"), ["/metrics"], raw))
        telemetry = stack.enter_context(Telemetry(pid))

        samplers = (Sampler(scraper.take, name="scrape"), Sampler(telemetry.take, name="telemetry"))
        with samplers[0] as metrics, samplers[1] as machine, MemoryWatch(pid) as memory:
            time.sleep(options.seconds)
        begin = time.process_time()
        scrapes = list(read_scrapes(raw))
        for found in scrapes:
            read_sample(VLLM, found.texts, buckets=False)
        parsing_ms = (time.process_time() - begin) / len(scrapes) * 1000
        size_kb = raw.stat().st_size / len(scrapes) / 1000
    watches = {"metrics": metrics.core_share, "telemetry": machine.core_share, "memory": memory.core_share}
    shares = {name: share or 0.0 for name, share in watches.items()}
    print(f"{len(text) / 1000:.0f} kB of exposition, {metrics.samples} and {machine.samples} samples")
    for name, share in shares.items():
        print(f"{name:10} {share:.3%} of a core")
    print(f"together   {sum(shares.values()):.3%} of a core (bound {BOUND:.0%})")
    print(f"after the run: {parsing_ms:.1f} ms to parse a sample, {size_kb:.1f} kB on disk each")
    raise SystemExit(sum(shares.values()) > BOUND)


if __name__ == "__main__":
    main()
