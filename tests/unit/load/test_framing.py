"""The hot path finds the end of a body by its framing, wherever the reads were cut."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.load.framing import BadHttp, Framing

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
# A body whose events themselves look like the end of a chunked body.
CHUNKED = (
    HEAD
    + b"a\r\ndata: 0\r\n\r\n"[:3]
    + b"data: 0\r\n\r"
    + b"\r\n"
    + b"1F;x=y\r\n"
    + b"0\r\n\r\n" * 6
    + b"0"
    + b"\r\n"
    + b"0\r\n\r\n"
)
LENGTH = b"HTTP/1.1 500 No\r\ncontent-length: 5\r\nConnection: close\r\n\r\nhello"
INFORMED = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + LENGTH


def feed(pieces: list[bytes]) -> tuple[Framing, list[bool]]:
    framing = Framing()
    return framing, [framing.feed(piece) for piece in pieces if piece]


@pytest.mark.parametrize("message", [CHUNKED, LENGTH, INFORMED])
def test_ends_exactly_at_the_last_byte_whatever_the_cut(message: bytes) -> None:
    for cut in range(1, len(message)):
        _, ended = feed([message[:cut], message[cut:]])
        assert ended == [False, True], cut


@given(cuts=st.sets(st.integers(1, len(CHUNKED) - 1)))
def test_any_cuts(cuts: set[int]) -> None:
    edges = [0, *sorted(cuts), len(CHUNKED)]
    _, ended = feed([CHUNKED[start:end] for start, end in pairwise(edges)])
    assert ended == [False] * len(cuts) + [True]


@given(cuts=st.sets(st.integers(1, len(CHUNKED) - 1)), room=st.integers(1, 2 * len(CHUNKED)))
def test_read_part_by_part_it_ends_at_the_same_byte(cuts: set[int], room: int) -> None:
    framing, edges = Framing(), [0, *sorted(cuts), len(CHUNKED)]
    position = 0
    for end in edges[1:]:  # what has come when it is looked at, `room` bytes at most
        while position < end:
            length = framing.first_part(CHUNKED[position : min(end, position + room)])
            assert length > 0
            taken = CHUNKED[position : min(end, position + length)]
            position += len(taken)
            assert framing.feed(taken) == (position == len(CHUNKED))


def test_parts_are_what_servers_write_at_once() -> None:
    def parts(pieces: list[bytes]) -> list[bytes]:
        framing, waiting, found = Framing(), b"".join(pieces), []
        while waiting:
            length = framing.first_part(waiting)
            found.append(waiting[:length])
            framing.feed(found[-1])
            waiting = waiting[length:]
        return found

    event = b"data: {}\n\n"
    chunked = [HEAD, *(b"%x;x=y\r\n%b\r\n" % (len(event), event) for _ in range(3)), b"0\r\n\r\n"]
    assert parts(chunked) == chunked
    plain = [b"HTTP/1.1 200 OK\r\n\r\n", event, event, b"data"]
    assert parts(plain) == plain
    framing, _ = feed([HEAD, b"a\r\nhalf"])
    assert framing.first_part(b"-here\r\n" + event) == len(b"-here?\r\n")
    framing, _ = feed([HEAD])
    assert [framing.first_part(nonsense) for nonsense in (b"zz\r\n", b"-5\r\n", b"1", b"7f\r\nx")] == [
        4,
        4,
        1,
        4 + 127 + 2,
    ]


def test_what_is_known_online() -> None:
    framing, _ = feed([LENGTH])
    assert (framing.status, framing.keep_alive, framing.body_bytes) == (500, False, 5)
    framing, _ = feed([CHUNKED])
    assert (framing.status, framing.keep_alive, framing.chunked) == (200, True, True)


def test_no_length_means_until_the_connection_closes() -> None:
    framing, ended = feed([b"HTTP/1.0 200 OK\r\n\r\n", b"data: x\n\n"])
    assert ended == [False, False]
    assert framing.ends_with_connection
    assert not framing.keep_alive


def test_trailers_and_empty_bodies() -> None:
    assert feed([HEAD + b"1\r\nx\r\n0\r\nChecksum: 1\r\n", b"\r\n"])[1] == [False, True]
    assert feed([b"HTTP/1.1 204 No Content\r\n\r\n"])[1] == [True]
    assert feed([b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"])[1] == [True]


@pytest.mark.parametrize(
    "message",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        HEAD + b"zz\r\n",
        HEAD + b"-5\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 20_000,
    ],
)
def test_nonsense_is_refused(message: bytes) -> None:
    with pytest.raises(BadHttp):
        Framing().feed(message)


@given(st.binary(max_size=200))
def test_garbage_ends_or_is_refused(garbage: bytes) -> None:
    framing = Framing()
    try:
        framing.feed(HEAD + garbage)
    except BadHttp:
        return
    assert framing.status == 200


@pytest.mark.parametrize("surplus", [b"\r\n", b"HTTP/1.1 200 OK\r\n"])
@pytest.mark.parametrize("message", [CHUNKED, LENGTH.replace(b"close", b"keep-alive")])
def test_what_follows_an_answer_is_not_of_it_and_spoils_the_connection(message: bytes, surplus: bytes) -> None:
    framing, ended = feed([message + surplus])
    assert ended == [True]
    assert not framing.keep_alive
    assert feed([message])[0].keep_alive


def test_empty_lines_before_a_head_and_transfer_codings_that_only_look_chunked() -> None:
    framing, ended = feed([b"\r\n\r", b"\n" + CHUNKED])
    assert ended == [False, True]
    assert framing.status == 200
    framing, _ = feed([HEAD.replace(b"chunked", b"not-chunked") + b"data: a\n\n"])
    assert framing.ends_with_connection
