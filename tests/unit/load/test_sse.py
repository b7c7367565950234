"""The event splitter gives the same events however the bytes were cut."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.load.sse import EVENT_LIMIT, Event, SseSplitter

STREAM = (
    ": a comment\n\n"
    'data: {"text":"zwölf €"}\n\n'
    'data:{"no":"space"}\r\n\r\n'
    "event: error\ndata: first\ndata: second\n\n"
    "id: 7\nretry: 10\n\n"
    "data: \n\n"
    "data: old\rdata: mac\r\r"
    "data: [DONE]\n\n"
).encode()

EXPECTED = [
    (b"", 'data: {"text":"zwölf €"}'.encode()[6:]),
    (b"", b'{"no":"space"}'),
    (b"error", b"first\nsecond"),
    (b"", b""),
    (b"", b"old\nmac"),
    (b"", b"[DONE]"),
]


def split(pieces: list[bytes]) -> list[Event]:
    splitter = SseSplitter()
    events = [event for piece in pieces for event in splitter.feed(piece)]
    return events + splitter.close()


def contents(events: list[Event]) -> list[tuple[bytes, bytes]]:
    return [(kind, data) for kind, data, _ in events]


def test_whole_stream() -> None:
    assert contents(split([STREAM])) == EXPECTED


@pytest.mark.parametrize("cut", range(len(STREAM) + 1))
def test_cut_at_every_byte(cut: int) -> None:
    assert split([STREAM[:cut], STREAM[cut:]]) == split([STREAM])


def test_byte_by_byte() -> None:
    assert split([STREAM[i : i + 1] for i in range(len(STREAM))]) == split([STREAM])


_lines = st.sampled_from(
    [b"data: x", b"data: y z", b": c", b"", b"event: error", b"junk", b"data", b"error: e", b"data:  "]
)


@given(
    lines=st.lists(_lines, max_size=12),
    ends=st.lists(st.sampled_from([b"\n", b"\r\n", b"\r"]), min_size=12, max_size=12),
    cuts=st.sets(st.integers(0, 150)),
)
def test_any_stream_in_any_pieces(lines: list[bytes], ends: list[bytes], cuts: set[int]) -> None:
    stream = b"".join(line + end for line, end in zip(lines, ends, strict=False))
    edges = [0, *sorted(cut for cut in cuts if cut < len(stream)), len(stream)]
    pieces = [stream[start:end] for start, end in pairwise(edges)]
    assert split(pieces) == split([stream])


@given(st.binary(max_size=400))
def test_garbage_is_survived(garbage: bytes) -> None:
    assert all(isinstance(data, bytes) for _, data, _ in split([garbage]))


def test_last_event_without_blank_line_is_given() -> None:
    assert contents(split([b"data: a\n\ndata: [DONE]"])) == [(b"", b"a"), (b"", b"[DONE]")]


def test_sizes_add_up_to_the_stream() -> None:
    """The line feed behind a carriage return counts to the next event: here there is none for the last one."""
    assert [size for _, _, size in split([b"data: a\n\n", b"data: b\r\n\r", b"\ndata: c\r\n\r\n"])] == [9, 10, 11]


def test_a_lone_carriage_return_completes_an_event_at_once() -> None:
    splitter = SseSplitter()
    assert contents(splitter.feed(b"data: a\r\r")) == [(b"", b"a")]
    assert splitter.feed(b"\n") == []
    assert contents(splitter.feed(b"data: b\n\n")) == [(b"", b"b")]


def test_a_byte_order_mark_opens_a_stream() -> None:
    assert contents(split([b"\xef\xbb", b"\xbfdata: a\n\n"])) == [(b"", b"a")]


@pytest.mark.parametrize("line", [b"data: ", b"", b"data: x\ndata: y"])
def test_an_endless_event_is_given_up(line: bytes) -> None:
    splitter = SseSplitter()
    assert contents(splitter.feed(b"data: a\n\n" + line)) == [(b"", b"a")]
    piece = line + b"x" * 65536 if b"\n" not in line else b"data: " + b"x" * 65536 + b"\n"
    for _ in range(EVENT_LIMIT // 65536 + 1):
        assert splitter.feed(piece) == []
    assert splitter.too_large
    assert splitter.feed(b"\n\n") == []
    assert splitter.feed(b"data: b\n\n") == []
    assert splitter.close() == []
