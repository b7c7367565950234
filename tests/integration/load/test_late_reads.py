"""A client that reads late keeps the stamps of events that wait together, as far as the kernel keeps them."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import time
from pathlib import Path

import numpy as np
import pytest

from bench.base.clock import NS_PER_MS, NS_PER_S
from bench.load import segments
from bench.load.client import Client, Deadlines
from bench.load.connection import Dial
from bench.load.digest import digest
from bench.load.schedule import ClosedArrivals
from bench.load.stamps import KernelReader, Stream, UserReader, stamping_keeper
from bench.load.truth.launch import TruthServer

STREAMS, REQUESTS, TOKENS = 8, 96, 40
CROWD = 100
CHUNK = b"4\r\n\n\n\n\n\r\n"
HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


class WholeReader(KernelReader):
    """Does not look before it reads."""

    def waiting(self, sock: Stream) -> bytes:
        return b""


def request(slot: int) -> bytes:
    body = json.dumps({"model": "truth", "prompt": "a", "max_tokens": TOKENS}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nX-Request-Id: {slot}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def errors_ms(reader: KernelReader, truth: TruthServer, folder: Path) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """By how much events' stamps are off when the loop sleeps 22 ms every 50; and that digesting counts them all."""
    folder.mkdir()
    record = segments.SegmentWriter(folder, "w")
    second = Deadlines(connect_ns=NS_PER_S, first_token_ns=9 * NS_PER_S, stall_ns=9 * NS_PER_S, total_ns=60 * NS_PER_S)
    truth.take_log()
    client = Client(
        dial=Dial(family=socket.AF_INET, address=("127.0.0.1", truth.port)),
        reader=reader,
        record=record,
        deadlines=second,
        request_bytes=request,
        breaker=3,
        on_tick=lambda _: time.sleep(0.022),
    )
    client.run(ClosedArrivals(range(REQUESTS), STREAMS, time.monotonic_ns()))
    client.close()
    record.close()
    counts = digest(folder, "w")
    assert counts["coalesced_reads"] <= counts["token_reads"] <= REQUESTS * TOKENS
    events = np.load(folder / "w.events.npy")
    log = truth.take_log()
    late = []
    for slot in range(5 * STREAMS, REQUESTS):  # a young connection acknowledges packet by packet
        true_ns = np.sort(log["ns"][(log["request"] == slot) & (log["index"] > 0)])
        stamped_ns = events["ns"][events["slot"] == slot]
        assert len(true_ns) == len(stamped_ns) == TOKENS
        late.append((stamped_ns - true_ns) / NS_PER_MS)
    return np.concatenate(late)


def test_events_that_wait_together_keep_their_times(tmp_path: Path) -> None:
    for attempt in range(3):  # the machine may have stood still in one of them
        with stamping_keeper(), TruthServer(ttft_ms=20, itl_ms=10) as truth:
            whole = errors_ms(WholeReader(), truth, tmp_path / f"{attempt}-whole")
            apart = errors_ms(KernelReader(), truth, tmp_path / f"{attempt}-apart")
        far_whole, far_apart = (float((errors > 5).mean()) for errors in (whole, apart))
        print(f"stamped over 5 ms late: {100 * far_whole:.1f} % read whole, {100 * far_apart:.1f} % read part by part")
        if far_whole > 0.02 and far_apart < far_whole / 2:
            return
    pytest.fail("reading part by part told no more about when events came")


def test_looking_first_does_not_swallow_a_reset() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as client:
        server, _ = listener.accept()
        server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        server.close()
        time.sleep(0.05)
        client.setblocking(False)
        with pytest.raises(ConnectionResetError):
            KernelReader().waiting(client)


class PausingRecord(segments.SegmentWriter):
    """Stands still for longer than the deadline, once, in the middle of the answers."""

    reads = 0

    def append(self, parts: list[bytes]) -> None:
        before, self.reads = self.reads, self.reads + len(parts) // 2
        if before < STREAMS * TOKENS // 2 <= self.reads:
            time.sleep(1.5)
        super().append(parts)


def test_a_pause_of_our_own_is_nobodys_stall(tmp_path: Path) -> None:
    second = Deadlines(connect_ns=NS_PER_S, first_token_ns=NS_PER_S, stall_ns=NS_PER_S, total_ns=60 * NS_PER_S)
    record = PausingRecord(tmp_path, "w")
    with TruthServer(ttft_ms=5, itl_ms=5) as truth:
        client = Client(
            dial=Dial(family=socket.AF_INET, address=("127.0.0.1", truth.port)),
            reader=KernelReader(),
            record=record,
            deadlines=second,
            request_bytes=request,
            breaker=3,
        )
        client.run(ClosedArrivals(range(2 * STREAMS), STREAMS, time.monotonic_ns()))
        client.close()
    record.close()
    endings = [payload for tag, *_, payload in segments.read_records(tmp_path, "w") if tag == segments.END]
    assert endings == [b"complete"] * 2 * STREAMS


class Staged:
    """A server in the client's own thread: it answers all requests but the last with two chunks, then a third one all
    at once, and begins its last answer as soon as a quarter of those has been read."""

    def __init__(self, listener: socket.socket) -> None:
        listener.setblocking(False)
        self.listener = listener
        self.peers: list[socket.socket] = []
        self.asked: dict[int, socket.socket] = {}
        self.stage = self.recorded = 0

    def on_tick(self, _: int) -> None:
        if self.stage == 0:
            with contextlib.suppress(BlockingIOError):
                while True:
                    self.peers.append(self.listener.accept()[0])
            with contextlib.suppress(BlockingIOError):
                while len(self.asked) < len(self.peers):
                    asked = self.peers[len(self.asked)].recv(4096, socket.MSG_DONTWAIT)
                    self.asked[int(asked.partition(b"X-Request-Id: ")[2].split()[0])] = self.peers[len(self.asked)]
            if len(self.asked) < CROWD:
                return
            self.send(HEAD + CHUNK)
        elif self.stage in (1, 2):
            self.send(CHUNK)
        elif self.stage == 4:
            self.send(b"0\r\n\r\n")
            self.asked[CROWD - 1].sendall(b"0\r\n\r\n")

    def were_recorded(self, records: int) -> None:
        self.recorded += records
        if self.stage == 3 and self.recorded >= CROWD // 4:
            self.stage = 4
            self.asked[CROWD - 1].sendall(HEAD + CHUNK)

    def send(self, data: bytes) -> None:
        self.stage += 1
        self.recorded = 0
        for slot in range(CROWD - 1):
            self.asked[slot].sendall(data)


class WatchedRecord(segments.SegmentWriter):
    """Tells `server` when reads are recorded."""

    server: Staged

    def append(self, parts: list[bytes]) -> None:
        super().append(parts)
        self.server.were_recorded(len(parts) // 2)


@pytest.mark.parametrize("reader", [KernelReader(), UserReader()], ids=["kernel", "user"])
def test_first_tokens_do_not_queue_behind_others(tmp_path: Path, reader: KernelReader | UserReader) -> None:
    minute = Deadlines(connect_ns=60 * NS_PER_S, first_token_ns=60 * NS_PER_S, stall_ns=60 * NS_PER_S, total_ns=10**12)
    record = WatchedRecord(tmp_path, "w")
    with stamping_keeper(), socket.create_server(("127.0.0.1", 0), backlog=CROWD) as listener:
        record.server = server = Staged(listener)
        client = Client(
            dial=Dial(family=socket.AF_INET, address=listener.getsockname()),
            reader=reader,
            record=record,
            deadlines=minute,
            request_bytes=request,
            breaker=3,
            on_tick=server.on_tick,
        )
        client.run(ClosedArrivals(range(CROWD), CROWD, time.monotonic_ns()))
        client.close()
        for peer in server.asked.values():
            peer.close()
    record.close()
    read = [(slot, payload) for tag, slot, *_, payload in segments.read_records(tmp_path, "w") if tag == segments.DATA]
    place = next(number for number, (slot, _) in enumerate(read) if slot == CROWD - 1)
    before = sum(payload.count(CHUNK) for _, payload in read[:place]) - 2 * (CROWD - 1)
    assert 0 < before < CROWD / 2
