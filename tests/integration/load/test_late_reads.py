"""A client that reads late keeps the stamps of events that wait together, as far as the kernel keeps them."""

from __future__ import annotations

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
from bench.load.schedule import ClosedArrivals, OpenArrivals
from bench.load.stamps import KernelReader, Stream, UserReader, stamping_keeper
from bench.load.truth.launch import TruthServer

STREAMS, REQUESTS, TOKENS = 8, 96, 40
CROWD = 500


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
    for attempt in ("first", "second"):  # the machine may have stood still in one of the two runs
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


class SlowRecord(segments.SegmentWriter):
    """Takes more time for every read than there is between two of them, so that the loop falls behind."""

    def append(self, parts: list[bytes]) -> None:
        time.sleep(0.0001 * len(parts) / 2)
        super().append(parts)


def test_first_tokens_do_not_queue_behind_others(tmp_path: Path) -> None:
    """Stamped by the read, with a core that has not time for all."""
    minute = Deadlines(connect_ns=60 * NS_PER_S, first_token_ns=60 * NS_PER_S, stall_ns=60 * NS_PER_S, total_ns=10**12)
    record = SlowRecord(tmp_path, "w")
    with TruthServer(ttft_ms=20, itl_ms=10) as truth:
        client = Client(
            dial=Dial(family=socket.AF_INET, address=("127.0.0.1", truth.port)),
            reader=UserReader(),
            record=record,
            deadlines=minute,
            request_bytes=request,
            breaker=3,
        )
        offsets_ns = range(0, CROWD * 4 * NS_PER_MS, 4 * NS_PER_MS)
        client.run(OpenArrivals(range(CROWD), offsets_ns, time.monotonic_ns()))
        client.close()
        record.close()
        log = truth.take_log()
    digest(tmp_path, "w")
    events = np.load(tmp_path / "w.events.npy")
    order = np.lexsort((events["ns"], events["slot"]))
    true = log[log["index"] > 0]
    late_ms = (events["ns"][order] - true["ns"][np.lexsort((true["index"], true["request"]))]).astype(float) / NS_PER_MS
    late_ms = late_ms.reshape(CROWD, TOKENS)[CROWD // 4 :]
    first, others = float(np.median(late_ms[:, 0])), float(np.median(late_ms[:, 1:]))
    print(f"read late, median: first tokens {first:.1f} ms, others {others:.1f} ms")
    assert others > 3
    assert first < 0.8 * others
