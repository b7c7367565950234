"""How full our client keeps an engine, and what it costs: against a server that works on SLOTS requests at once.

    python scripts/bench_generation.py [--slots 32] [--seconds 0.2] [--requests 2000] [--start 4]

Every answer takes SECONDS in one of the slots, more wait; the ideal is requests x seconds / slots. Printed: how long it
took against that, how far concurrency grew, and our processor time a request. The server runs in a process of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import multiprocessing.connection
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.base.progress import Progress
from bench.quality.generation.ask import Sampling, completion
from bench.quality.generation.cache import AnswerStore
from bench.quality.generation.client import Limits
from bench.quality.generation.session import AttachedServer, Session

ANSWER = json.dumps(
    {
        "choices": [{"index": 0, "text": "word " * 64, "finish_reason": "length"}],
        "usage": {"prompt_tokens": 64, "completion_tokens": 64},
    }
).encode()
REPLY = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(ANSWER), ANSWER)


def serve(slots: int, seconds: float, told: multiprocessing.connection.Connection, peak: Any) -> None:
    """The server: tells its port, and in `peak` the most requests that waited or ran at once."""

    async def run() -> None:
        free = asyncio.Semaphore(slots)
        held = most = 0

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal held, most
            while head := await reader.readuntil(b"\r\n\r\n"):
                lines = head.decode().lower().split("\r\n")
                length = next(int(line.split(":")[1]) for line in lines if line.startswith("content-length"))
                await reader.readexactly(length)
                held += 1
                most = max(most, held)
                async with free:
                    await asyncio.sleep(seconds)
                held -= 1
                writer.write(REPLY)
                peak.value = most

        async def until_closed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await answer(reader, writer)
            except (asyncio.IncompleteReadError, ConnectionError):
                writer.close()

        server = await asyncio.start_server(until_closed, "127.0.0.1", 0)
        told.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(run())


def main(arguments: list[str]) -> int:
    """Run it once; returns the exit code."""
    parser = argparse.ArgumentParser(description="How full our client keeps an engine.")
    parser.add_argument("--slots", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=0.2)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument(
        "--start", type=int, default=4, help="how many at once in the beginning (the engine's, where known)"
    )
    asked = parser.parse_args(arguments)
    ours, theirs = multiprocessing.Pipe()
    peak = multiprocessing.Value("i", 0)
    server = multiprocessing.Process(target=serve, args=(asked.slots, asked.seconds, theirs, peak), daemon=True)
    server.start()
    url = f"http://127.0.0.1:{ours.recv()}"
    with tempfile.TemporaryDirectory() as folder:
        session = Session(
            key="bench",
            label="bench",
            server=lambda: AttachedServer(url=url, model="m"),
            store=AnswerStore(Path(folder) / "answers.jsonl"),
            progress=Progress(),
            work_dir=Path(folder),
        )
        prompts = [completion(f"{number} " * 64, Sampling(max_tokens=64)) for number in range(asked.requests)]
        before, started = resource.getrusage(resource.RUSAGE_SELF), time.monotonic()
        answers = session.answers(prompts, Limits(start=asked.start, concurrency=256))
        wall = time.monotonic() - started
        used = resource.getrusage(resource.RUSAGE_SELF)
    server.terminate()
    cpu = used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime
    ideal = asked.requests * asked.seconds / asked.slots
    failed = sum(answer.error is not None for answer in answers)
    print(f"slots {asked.slots}, {asked.seconds} s an answer, {asked.requests} requests, {failed} failed")
    print(f"took {wall:.2f} s, ideal {ideal:.2f} s ({100 * (wall / ideal - 1):+.1f} %), most at once {peak.value}")
    print(f"our processor time {1e3 * cpu / asked.requests:.2f} ms a request")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
