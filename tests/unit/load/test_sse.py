"""The event splitter gives the same events however the bytes were cut."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.load.sse import Event, SseSplitter

STREAM = (
    ": a comment\n\n"
    'data: {"text":"zwölf €"}\n\n'
    'data:{"no":"space"}\r\n\r\n'
    "event: error\ndata: first\ndata: second\n\n"
    "id: 7\nretry: 10\n\n"
    "data: \n\n"
    "data: [DONE]\n\n"
).encode()

EXPECTED = [
    (b"", 'data: {"text":"zwölf €"}'.encode()[6:]),
    (b"", b'{"no":"space"}'),
    (b"error", b"first\nsecond"),
    (b"", b""),
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
    ends=st.lists(st.sampled_from([b"\n", b"\r\n"]), min_size=12, max_size=12),
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
    assert sum(size for _, _, size in split([b"data: a\n\n", b"data: b\r\n\r", b"\n"])) == len(
        b"data: a\n\ndata: b\r\n\r\n"
    )
