"""A load worker: `python -m bench.load.worker SPEC.json`. Sends its share, records, digests the recording when done.

It reports JSON lines: {"state": "ready"}, {"state": "warm"}, counts while it runs, and last {"state": "done", …}.
Its own costs are left in `{stem}.own.json`, written last.
"""

from __future__ import annotations

import contextlib
import gc
import json
import mmap
import os
import resource
import ssl
import sys
import time
from pathlib import Path
from typing import Any

from bench.base.clock import NS_PER_MS
from bench.base.files import write_json
from bench.load.client import Client, Deadlines
from bench.load.connection import Dial
from bench.load.payload import RequestHead
from bench.load.schedule import Arrivals, ClosedArrivals, OpenArrivals
from bench.load.segments import SegmentWriter
from bench.load.spec import API_KEY_VARIABLE, PlannedRequest, WorkerSpec, read_plan, read_spec
from bench.load.stamps import KernelReader, UserReader, stamping_keeper

_REPORT_NS = 250 * NS_PER_MS


class _Bodies:
    """Request bodies straight from the file: a long prompt costs its bytes once, when it is sent."""

    def __init__(self, spec: WorkerSpec, requests: list[PlannedRequest]) -> None:
        self._where = {request.slot: (request.body_start, request.body_length) for request in requests}
        with spec.bodies_file.open("rb") as stream:
            self._map = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        key = os.environ.pop(API_KEY_VARIABLE, None)
        self._head = RequestHead(authority=spec.authority, path=spec.path, api_key=key, name=spec.name)

    def __call__(self, slot: int) -> bytes:
        start, length = self._where[slot]
        return self._head(slot, length) + self._map[start : start + length]


class _Worker:
    def __init__(self, spec: WorkerSpec) -> None:
        self._spec = spec
        self._requests = list(read_plan(spec))
        self._commands = b""
        self._go_ns: int | None = None
        self._stopped = False
        self._next_report_ns = 0
        self._loop_cpu_s = 0.0
        self._keeper = stamping_keeper() if spec.kernel_stamps else None
        self._record = SegmentWriter(Path(spec.directory), spec.stem)
        self.client = Client(
            dial=_dial(spec),
            reader=KernelReader() if spec.kernel_stamps else UserReader(),
            record=self._record,
            deadlines=Deadlines(
                connect_ns=spec.connect_ns,
                first_token_ns=spec.first_token_ns,
                stall_ns=spec.stall_ns,
                total_ns=spec.total_ns,
            ),
            request_bytes=_Bodies(spec, self._requests),
            breaker=spec.breaker,
            on_tick=self._tick,
        )
        os.set_blocking(spec.commands_fd, False)
        self.client.watch(spec.commands_fd, self._read_commands)

    def run(self) -> dict[str, Any]:
        """Both phases, then the digest; returns the worker's own figures."""
        import bench.load.digest  # imported before anything is measured

        started_s, cpu_s = time.monotonic(), time.process_time()
        gc.collect()
        gc.freeze()
        gc.disable()
        self.report(state="ready")
        if self._wait_for_go():
            self.client.run(self._warmup())
        self.report(state="warm")
        main_cpu_s = time.process_time()
        main_s = time.monotonic()
        if self._wait_for_go():
            main_s = time.monotonic()
            self.client.run(self._main())
        self._loop_cpu_s = time.process_time() - main_cpu_s
        main_s = time.monotonic() - main_s
        self.client.close()
        self._record.close()
        gc.enable()
        before_digest_s = time.process_time()
        counts = bench.load.digest.digest(Path(self._spec.directory), self._spec.stem)
        own = counts | {
            "worker": self._spec.worker,
            "broken": self.client.broken,
            "stopped": self._stopped,
            "loop_cpu_s": self._loop_cpu_s,
            "loop_wall_s": main_s,
            "digest_cpu_s": time.process_time() - before_digest_s,
            "total_cpu_s": time.process_time() - cpu_s,
            "total_wall_s": time.monotonic() - started_s,
            "stale_connections": self.client.tally.stale,
            "busiest_round_ns": self.client.tally.busiest_ns,
            "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        }
        write_json(Path(self._spec.directory) / f"{self._spec.stem}.own.json", own)
        return own

    def report(self, **values: Any) -> None:
        """One line to the harness; a harness that is gone will be noticed on the command pipe."""
        with contextlib.suppress(OSError):
            os.write(self._spec.reports_fd, json.dumps(values).encode() + b"\n")

    def _wait_for_go(self) -> bool:
        while self._go_ns is None and not self._stopped:
            self.client.wait()
        return not self._stopped

    def _take_go(self) -> int:
        assert self._go_ns is not None
        start_ns, self._go_ns = self._go_ns, None
        return start_ns

    def _warmup(self) -> Arrivals:
        slots = [request.slot for request in self._requests if not request.main]
        return ClosedArrivals(slots, self._spec.warmup_users, self._take_go())

    def _main(self) -> Arrivals:
        requests = [request for request in self._requests if request.main]
        slots = [request.slot for request in requests]
        spec = self._spec
        if spec.closed:
            return ClosedArrivals(
                slots, spec.users, self._take_go(), think_ns=spec.think_ns, duration_ns=spec.duration_ns
            )
        return OpenArrivals(slots, [request.offset_ns for request in requests], self._take_go())

    def _read_commands(self) -> None:
        try:
            read = os.read(self._spec.commands_fd, 4096)
        except BlockingIOError:
            return
        *lines, self._commands = (self._commands + read).split(b"\n")
        if not read or b"stop" in lines:
            self._stopped = True
            self.client.stop()
        for line in lines:
            if line.startswith(b"go "):
                self._go_ns = int(line[3:])

    def _tick(self, now_ns: int) -> None:
        if now_ns >= self._next_report_ns:
            self._next_report_ns = now_ns + _REPORT_NS
            tally = self.client.tally
            self.report(done=tally.done, failed=tally.failed, in_flight=tally.in_flight)


def _dial(spec: WorkerSpec) -> Dial:
    context = ssl.create_default_context(cafile=spec.ca_file) if spec.tls else None
    return Dial(family=spec.family, address=spec.address, context=context, server_name=spec.server_name)


def main(arguments: list[str]) -> int:
    """Run the worker that the spec file `arguments[0]` describes."""
    worker = _Worker(read_spec(Path(arguments[0])))
    own = worker.run()
    worker.report(state="done", broken=own["broken"])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
