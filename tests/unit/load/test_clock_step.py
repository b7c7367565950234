"""A wall clock that is set while a recording grows: it is noticed, and no stamp from around it is believed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bench.load.digest import digest
from bench.load.segments import CLOCK, DATA, END, LEFT, PAIR, SENT, START, SegmentWriter

S = 1_000_000_000
EPOCH = 1_800_000_000 * S
LATE = 40_000_000
HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
EVENT = b'data: {"choices":[{"index":0,"text":" word","finish_reason":"length"}]}\n\n'
CHUNK = b"%x\r\n%b\r\n" % (len(EVENT), EVENT)


def timespec(ns: int) -> bytes:
    return PAIR.pack(*divmod(ns, S))


@pytest.mark.parametrize("step_ns", [0, -3600 * S, 500_000_000])
def test_latencies_around_a_step_are_in_user_time(tmp_path: Path, step_ns: int) -> None:
    record = SegmentWriter(tmp_path, "w")

    def read(ns: int, data: bytes, offset: int) -> None:
        record.mark(DATA, 0, ns + LATE, stamp=timespec(ns + offset), payload=data)

    for second in (1, 2):
        record.mark(CLOCK, 0, second * S, stamp=PAIR.pack(second * S + EPOCH, 50))
    record.mark(START, 0, 2 * S, stamp=PAIR.pack(2 * S, 0))
    record.mark(SENT, 0, 2 * S)
    record.mark(LEFT, 0, 2 * S + 9, stamp=timespec(2 * S + 5 + EPOCH))
    arrived = 2 * S + S // 2  # the clock is set before the next pair is sampled
    read(arrived, HEAD + CHUNK, EPOCH + step_ns)
    read(arrived + 1000, b"0\r\n\r\n", EPOCH + step_ns)
    record.mark(END, 0, arrived + LATE, payload=b"complete")
    record.mark(CLOCK, 0, 3 * S, stamp=PAIR.pack(3 * S + EPOCH + step_ns, 50))
    record.close()
    counts = digest(tmp_path, "w")
    assert counts["clock_stepped"] == bool(step_ns)
    assert (counts["untrusted_stamps"] > 0) == bool(step_ns)
    (event,) = np.load(tmp_path / "w.events.npy")
    assert event["ns"] == (arrived + LATE if step_ns else arrived)
    (request,) = np.load(tmp_path / "w.requests.npy")
    assert request["first_token_ns"] == event["ns"]
    assert request["sent_kernel_ns"] == (-1 if step_ns else 2 * S + 5)
