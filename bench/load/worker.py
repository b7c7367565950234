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
from array import array
from bisect import bisect_left
from pathlib import Path
from typing import Any

import numpy as np

from bench.base.clock import NS_PER_MS
from bench.base.files import write_json
from bench.load.client import Client, Deadlines
from bench.load.config import Api
from bench.load.connection import Dial
from bench.load.payload import RequestHead
from bench.load.schedule import Arrivals, ClosedArrivals, OpenArrivals, SessionArrivals
from bench.load.segments import SegmentWriter
from bench.load.sessions import Sessions
from bench.load.spec import API_KEY_VARIABLE, WorkerSpec, bodies_path, read_plan, read_spec
from bench.load.stamps import KernelReader, UserReader, stamping_keeper

_REPORT_NS = 250 * NS_PER_MS


class _Plan:
    """The worker's requests, looked up by slot in the mapped plan."""

    def __init__(self, spec: WorkerSpec) -> None:
        rows = read_plan(Path(spec.directory), spec.stem)
        self._slots = array("I", rows["slot"].tobytes())
        self._thinking = array("q", rows["think_ns"].tobytes())
        self._rows = rows

    def row(self, slot: int) -> Any:
        return self._rows[bisect_left(self._slots, slot)]

    def think_ns(self, slot: int) -> int:
        return self._thinking[bisect_left(self._slots, slot)]

    def first_turns(self, *, main: bool) -> tuple[array[int], array[int]]:
        """Slots and offsets of the requests that do not follow from another one."""
        chosen = np.flatnonzero((self._rows["main"] == main) & (self._rows["turn"] == 0))
        slots, offsets_ns = self._rows["slot"][chosen], self._rows["offset_ns"][chosen]
        return array("I", slots.tobytes()), array("q", offsets_ns.tobytes())

    def following(self) -> dict[int, int]:
        """The slot of the next turn, by slot."""
        later = self._rows["slot"][self._rows["turn"] > 0].tolist()
        return {slot - 1: slot for slot in later}


class _Bodies:
    """Request bodies straight from the file: a long prompt costs its bytes once, when it is sent."""

    def __init__(self, spec: WorkerSpec, plan: _Plan) -> None:
        self._plan = plan
        path = bodies_path(Path(spec.directory), spec.stem)
        with path.open("rb") as stream:
            content = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) if path.stat().st_size else b""
        self._view = memoryview(content)
        key = os.environ.pop(API_KEY_VARIABLE, None)
        self._head = RequestHead(authority=spec.authority, path=spec.path, api_key=key, name=spec.name)
        self.sessions: Sessions | None = None

    def __call__(self, slot: int) -> bytes:
        row = self._plan.row(slot)
        start, length = int(row["body_start"]), int(row["body_length"])
        if self.sessions is None or row["session"] < 0:
            return b"".join((self._head(slot, length), self._view[start : start + length]))
        earlier, at = self.sessions.earlier(int(row["session"])), start + int(row["insert_at"])
        head = self._head(slot, length + len(earlier))
        return b"".join((head, self._view[start:at], earlier, self._view[at : start + length]))

    def own_part(self, slot: int) -> bytes:
        """What a turn's body has of its own: later ones repeat it."""
        row = self._plan.row(slot)
        at = int(row["body_start"]) + int(row["insert_at"])
        return bytes(self._view[at : at + int(row["own_length"])])


class _Worker:
    def __init__(self, spec: WorkerSpec) -> None:
        self._spec = spec
        self._plan = _Plan(spec)
        self._following = self._plan.following() if spec.sessions else {}
        self._conversation: SessionArrivals | None = None
        self._commands = b""
        self._go_ns: int | None = None
        self._stopped = False
        self._next_report_ns = 0
        self._loop_cpu_s = 0.0
        self._keeper = stamping_keeper() if spec.kernel_stamps else None
        bodies = _Bodies(spec, self._plan)
        if spec.sessions:
            bodies.sessions = Sessions(Api.chat if spec.chat else Api.completions, bodies.own_part)
        self._sessions = bodies.sessions
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
            request_bytes=bodies,
            breaker=spec.breaker,
            on_tick=self._tick,
            keep=self._following.__contains__,
            on_kept=self._hear,
        )
        os.set_blocking(spec.commands_fd, False)
        self.client.watch(spec.commands_fd, self._read_commands)
        if self._sessions is not None:
            self.client.watch(self._sessions.descriptor, self._go_on)

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
        if self._sessions is not None:
            self._sessions.close()
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
        slots, _ = self._plan.first_turns(main=False)
        return ClosedArrivals(slots, self._spec.warmup_users, self._take_go())

    def _main(self) -> Arrivals:
        spec, start_ns, think_of = self._spec, self._take_go(), self._plan.think_ns
        slots, offsets_ns = self._plan.first_turns(main=True)
        first: Arrivals
        if spec.closed:
            first = ClosedArrivals(
                slots, spec.users, start_ns, think_of=think_of, duration_ns=spec.duration_ns, present=spec.present
            )
        else:
            first = OpenArrivals(slots, offsets_ns, start_ns)
        if self._sessions is None:
            return first
        self._conversation = SessionArrivals(
            first, self._following, start_ns, think_of=think_of, duration_ns=spec.duration_ns
        )
        return self._conversation

    def _hear(self, slot: int, reads: list[bytes], end: str) -> None:
        assert self._sessions is not None
        self._sessions.ended(slot, reads, end)

    def _go_on(self) -> None:
        """Answers have been understood: the turns after them can leave."""
        assert self._sessions is not None
        assert self._conversation is not None
        for slot, said in self._sessions.heard():
            session = int(self._plan.row(slot)["session"])
            if said is None:
                self._sessions.forget(session)
            else:
                self._sessions.keep(session, said)
            self._conversation.answered(slot, time.monotonic_ns(), usable=said is not None)

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
            cpu_ms = round(time.process_time() * 1000)
            self.report(done=tally.done, failed=tally.failed, in_flight=tally.in_flight, cpu_ms=cpu_ms)


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
