"""How much memory and time does it take to make a result of a long recording?

    python scripts/bench_recording.py                              # 1,000,000 requests of 4 tokens
    python scripts/bench_recording.py --requests 2048 --tokens 128

Writes a made-up recording as a worker leaves it, with --streams requests in flight, then digests it and makes the
result of it, each in a process of its own. Prints seconds of processor time and the peak of resident memory of each,
beside that of the same process before it began.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.base.files import write_json
from bench.load.config import ClosedConfig, SyntheticConfig
from bench.load.digest import digest
from bench.load.outcome import End
from bench.load.prompts import Prompts
from bench.load.record import Asked, write_result
from bench.load.segments import CLOCK, DATA, END, NO_STAMP, PAIR, SENT, START, SegmentWriter
from bench.load.spec import WorkerSpec

_STEM = "worker0"
_STEP_NS = 1_000_000
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
_WORDS = (" the", " of", " measure", " load", " and", " a", " stream", " token")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--tokens", type=int, default=4)
    parser.add_argument("--streams", type=int, default=512)
    return parser.parse_args()


def chunk(body: bytes) -> bytes:
    """One HTTP chunk."""
    return b"%x\r\n%b\r\n" % (len(body), body)


def event(slot: int, word: str) -> bytes:
    """A token-bearing event, as vLLM writes it."""
    return (
        b'data: {"id":"cmpl-%08x","object":"text_completion","created":1700000000,"model":"m","choices":[{"index":0,'
        b'"text":"%b","logprobs":null,"finish_reason":null,"stop_reason":null}],"usage":null}\n\n'
        % (slot, word.encode())
    )


def last_read(slot: int, tokens: int) -> bytes:
    """What ends an answer: finish reason, usage, [DONE], the empty chunk."""
    finish = b'data: {"id":"cmpl-%08x","choices":[{"index":0,"text":"","finish_reason":"length"}]}\n\n' % slot
    usage = b'data: {"choices":[],"usage":{"prompt_tokens":32,"completion_tokens":%d}}\n\n' % tokens
    return chunk(finish) + chunk(usage) + chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"


def record(folder: Path, requests: int, tokens: int, streams: int) -> None:
    """A recording in which `streams` requests at a time send and receive in lock step, a token a millisecond."""
    writer = SegmentWriter(folder, _STEM)
    now_ns, offset_ns = 1_000_000_000, 1_700_000_000_000_000_000
    stamp = PAIR.pack(0, 0)

    def read(slot: int, data: bytes) -> None:
        writer.mark(DATA, slot, now_ns + 20_000, stamp=stamp, payload=data)

    for first in range(0, requests, streams):
        slots = range(first, min(first + streams, requests))
        writer.mark(CLOCK, 0, now_ns, stamp=PAIR.pack(now_ns + offset_ns, 100))
        for slot in slots:
            writer.mark(START, slot, now_ns, stamp=PAIR.pack(now_ns, 0))
            writer.mark(SENT, slot, now_ns, stamp=NO_STAMP)
        for token in range(tokens):
            now_ns += _STEP_NS
            stamp = PAIR.pack(*divmod(now_ns + offset_ns, 1_000_000_000))
            for slot in slots:
                body = chunk(event(slot, _WORDS[(slot + token) % len(_WORDS)]))
                read(slot, body if token else _HEAD + body)
            writer.commit()
        for slot in slots:
            read(slot, last_read(slot, tokens))
            writer.mark(END, slot, now_ns + 50_000, payload=End.complete.value.encode())
    writer.mark(CLOCK, 0, now_ns, stamp=PAIR.pack(now_ns + offset_ns, 100))
    writer.close()


def digest_it(folder: Path, _: argparse.Namespace) -> None:
    """What a worker does when it is done."""
    costs = {"loop_cpu_s": 0.0, "loop_wall_s": 0.0, "digest_cpu_s": 0.0, "stale_connections": 0, "peak_rss_bytes": 0}
    write_json(folder / f"{_STEM}.own.json", digest(folder, _STEM) | costs | {"worker": 0, "broken": False})


def make_result(folder: Path, options: argparse.Namespace) -> None:
    """What the harness does with what its workers left."""
    out = folder / "out"
    out.mkdir()
    asked = Asked(
        name="recording",
        repeat=0,
        scenario=ClosedConfig(requests=options.requests, concurrency=options.streams, warmup=0),
        workload=SyntheticConfig(output_tokens=options.tokens),
        url="http://127.0.0.1:1",
        model="m",
        kernel_stamps=True,
        prompts=Prompts(exact=True, how="made up"),
        started="",
        context={},
    )
    values: dict[str, Any] = dict.fromkeys(WorkerSpec.__dataclass_fields__)
    spec = WorkerSpec(**{**values, "directory": str(folder), "stem": _STEM, "worker": 0})
    write_result(asked, out, [spec], interrupted=False)


def measured(work: Callable[[Path, argparse.Namespace], None], folder: Path, options: argparse.Namespace) -> None:
    """Run `work` and print what it cost; in a process of its own, because a peak never falls."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began_s = time.process_time()
    work(folder, options)
    spent_s = time.process_time() - began_s
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tokens = options.requests * options.tokens
    print(
        f"{work.__name__}: {spent_s:.1f} s of processor time, {spent_s * 1e6 / tokens:.1f} µs a token, "
        f"peak {peak / 1024:.0f} MiB ({before / 1024:.0f} before)",
        flush=True,
    )


def main() -> None:
    options = arguments()
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        record(folder, options.requests, options.tokens, options.streams)
        size = sum(path.stat().st_size for path in folder.glob("*.seg"))
        print(f"{options.requests} requests of {options.tokens} tokens, {size / 2**20:.0f} MiB recorded", flush=True)
        for work in (digest_it, make_result):
            process = context.Process(target=measured, args=(work, folder, options))
            process.start()
            process.join()
            if process.exitcode:
                raise SystemExit(f"{work.__name__} failed")


if __name__ == "__main__":
    main()
