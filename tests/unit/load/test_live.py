"""The live sample is read from a growing recording: whole records only, newest answers, never a burden."""

from __future__ import annotations

import struct
from itertools import count
from pathlib import Path

import pytest

from bench.load import live, segments
from bench.load.live import Follower, LiveSampler, Sample

MS = 1_000_000
HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
FINISH = b'data: {"choices":[{"index":0,"text":"","finish_reason":"length"}]}\n\ndata: [DONE]\n\n'


def chunk(body: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(body), body)


TOKEN = chunk(b'data: {"choices":[{"index":0,"text":" word","finish_reason":null}]}\n\n')


class Recording:
    """A worker's recording on a clock of its own, in user time."""

    def __init__(self, folder: Path, **options: int) -> None:
        self.writer = segments.SegmentWriter(folder, "w", **options)

    def read(self, slot: int, ms: float, data: bytes) -> None:
        self.writer.mark(segments.DATA, slot, int(ms * MS), payload=data)
        self.writer.commit()

    def answer(self, slot: int, start_ms: float, tokens: int = 3) -> None:
        self.writer.mark(segments.START, slot, int(start_ms * MS), stamp=segments.PAIR.pack(int(start_ms * MS), 0))
        self.writer.mark(segments.SENT, slot, int(start_ms * MS))
        self.read(slot, start_ms + 5, HEAD)
        for token in range(tokens):
            self.read(slot, start_ms + 100 + 10 * token, TOKEN)
        self.end(slot, start_ms + 200, "complete", chunk(FINISH) + b"0\r\n\r\n")

    def end(self, slot: int, ms: float, end: str, data: bytes = b"") -> None:
        if data:
            self.read(slot, ms, data)
        self.writer.mark(segments.END, slot, int(ms * MS), payload=end.encode())
        self.writer.commit()


def test_newest_answers_give_the_figures_of_now(tmp_path: Path) -> None:
    recording = Recording(tmp_path)
    now_ms = 0
    sampler = LiveSampler(tmp_path, ["w", "not-there-yet"], now_ns=lambda: now_ms * MS)
    sampler.renew()
    assert sampler.reading.answers == 0
    assert sampler.reading.ttft_p50_ms is None
    recording.answer(0, 100)
    recording.answer(1, 150)
    recording.end(2, 360, "reset")
    sampler.renew()
    reading = sampler.reading
    assert (reading.answers, reading.ttft_p50_ms, reading.gap_p50_ms, reading.tokens_an_answer) == (2, 100, 10, 3)
    assert (reading.read_delay_p99_us, reading.slip_p99_us, reading.errors) == (None, 0, ("reset",))
    now_ms = 10_310  # the first one is old by now
    sampler.renew()
    assert sampler.reading.answers == 1


def test_a_record_that_is_being_written_waits(tmp_path: Path) -> None:
    recording = Recording(tmp_path)
    follower = Follower(tmp_path, "w")
    assert list(follower.records(99)) == []
    recording.end(7, 1, "complete")
    (path,) = segments.segment_paths(tmp_path, "w")
    whole = path.read_bytes()
    for cut in (1, 8, 20):
        path.write_bytes(whole[:-cut])
        assert list(follower.records(99)) == []
    path.write_bytes(whole)
    assert [found[:2] for found in follower.records(99)] == [(segments.END, 7)]
    assert list(follower.records(99)) == []
    follower.close()


def test_segments_are_followed_and_skipped_where_there_is_too_much(tmp_path: Path) -> None:
    recording = Recording(tmp_path, segment_bytes=6 * (segments.HEADER.size + 50))
    for slot in range(40):
        recording.read(slot, slot, b"x" * 50)
    follower = Follower(tmp_path, "w")
    whole = [found[1] for found in follower.records(1000)]
    assert whole == list(range(40))
    assert len(segments.segment_paths(tmp_path, "w")) > 5
    hurried = Follower(tmp_path, "w")
    assert [found[1] for found in hurried.records(2)] == [0, 1]
    newest = [found[1] for found in hurried.records(1000)]
    assert newest == whole[-len(newest) :]
    assert 1 <= len(newest) < 10
    follower.close()
    hurried.close()


def test_the_sample_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "_OPEN_AT_ONCE", 2)
    monkeypatch.setattr(live, "_READS_AN_ANSWER", 3)
    recording = Recording(tmp_path)
    for slot, _ in zip(count(), range(5), strict=False):
        recording.writer.mark(segments.START, slot, slot, stamp=segments.PAIR.pack(slot, 0))
    for _ in range(9):
        recording.read(0, 1, b"")
    sample = Sample(Follower(tmp_path, "w"))
    sample.take()
    assert set(sample._open) == {1}
    sample.close()


def test_damage_never_ends_a_run(tmp_path: Path) -> None:
    (tmp_path / "w-000.seg").write_bytes(struct.pack("<BIq16sI", 9, 0, 0, bytes(16), 2**31) + b"\xff" * 4096)
    sampler = LiveSampler(tmp_path, ["w"])
    sampler.renew()
    assert sampler.reading.answers == 0
