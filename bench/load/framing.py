"""What the hot path must know of HTTP/1.1 (RFC 9112): the status, and where the body ends. The rest is parsed later."""

from __future__ import annotations

import functools
from typing import NamedTuple

_HEAD_LIMIT = 64 * 1024
_LINE_LIMIT = 8 * 1024
USUAL_BYTES = 4095
"""A read of so many bytes at most is one whole chunk when it begins with one of `SIZE_LINES[bytes]` and ends with CRLF,
provided that it follows a whole one."""


def _size_lines(whole: int) -> tuple[bytes, ...]:
    """How a chunk of `whole` bytes, its framing included, begins as servers write it: in lower or upper case."""
    for digits in (1, 2, 3):
        length = whole - digits - 4
        if length > 0 and len(b"%x" % length) == digits:
            return b"%x\r\n" % length, b"%X\r\n" % length
    return ()


SIZE_LINES = tuple(_size_lines(whole) for whole in range(USUAL_BYTES + 1))


class BadHttp(ValueError):
    """The bytes are no HTTP/1.1 answer."""


class _Head(NamedTuple):
    status: int
    chunked: bool
    length: int | None
    keep_alive: bool


@functools.lru_cache(maxsize=64)
def _read_head(head: bytes) -> _Head:
    """Cached: a server's answers begin alike for a second at least, and first tokens come in bursts. Raises BadHttp."""
    lines = head.split(b"\r\n")
    words = lines[0].split(None, 2)
    if len(words) < 2 or not words[0].startswith(b"HTTP/1.") or not words[1].isdigit():
        raise BadHttp(f"bad status line {lines[0][:60]!r}")
    status = int(words[1])
    chunked, length, keep_alive = False, None, words[0] != b"HTTP/1.0"
    for line in lines[1:]:
        name, _, value = line.partition(b":")
        name, value = name.strip().lower(), value.strip().lower()
        if name == b"content-length":
            if not value.isdigit():
                raise BadHttp(f"bad content-length {value[:60]!r}")
            length = int(value)
        elif name == b"transfer-encoding":
            chunked = value.rpartition(b",")[2].strip() == b"chunked"
        elif name == b"connection":
            keep_alive = value != b"close" and (keep_alive or value == b"keep-alive")
    if status in (204, 304):
        chunked, length = False, 0
    return _Head(status, chunked, length, keep_alive)


class Framing:
    """Follows one answer through its reads. `feed` says when the answer is whole; see the attributes meanwhile."""

    __slots__ = (
        *("_length", "_partial", "_remaining", "_trailer"),
        *("between", "body_bytes", "chunked", "keep_alive", "status"),
    )

    def __init__(self) -> None:
        self.status = 0
        """HTTP status, 0 before the head is whole."""
        self.body_bytes = 0
        """Bytes read behind the head, framing included."""
        self.chunked = False
        self.keep_alive = True
        self._partial = b""
        self._length: int | None = None
        self._remaining = 0
        self._trailer = False
        self.between = False
        """A chunk has just ended, and nothing of the next one has come."""

    @property
    def ends_with_connection(self) -> bool:
        """Neither a length nor chunks: the body ends when the peer closes."""
        return self.status > 0 and not self.chunked and self._length is None

    def feed(self, data: bytes) -> bool:
        """Take the bytes of one read; True when the answer is whole. Raises BadHttp."""
        size = len(data)
        if self.between and size <= USUAL_BYTES and data.startswith(SIZE_LINES[size]) and data.endswith(b"\r\n"):
            self.body_bytes += size  # one whole chunk in one read, the usual case
            return False
        if not self.status:
            body = self._feed_head(data)
            if body is None:
                return False
            data = body
            if self._length == 0:
                self.keep_alive &= not data
                return True
        self.body_bytes += len(data)
        if self.chunked:
            return self._feed_chunks(data)
        if self._length is None or self.body_bytes < self._length:
            return False
        self.keep_alive &= self.body_bytes == self._length  # what follows belongs to nothing
        return True

    def first_part(self, waiting: bytes) -> int:
        """How many bytes from the start of `waiting`, which are to be fed next, a server will have written at once: a
        head, a chunk (more than `waiting`, where it goes on), an event where there are no chunks. All of `waiting`
        where that cannot be told.
        """
        if not self.status:
            end = waiting.find(b"\r\n\r\n")
            return end + 4 if end >= 0 else len(waiting)
        if not self.chunked:
            end = waiting.find(b"\n\n")
            return end + 2 if end >= 0 else len(waiting)
        if self._remaining:
            return self._remaining
        line_end = waiting.find(b"\n", 0, _LINE_LIMIT)
        if not self.between or line_end < 0:
            return len(waiting)
        try:
            length = int(waiting[:line_end].partition(b";")[0], 16)
        except ValueError:
            return len(waiting)
        return line_end + 1 + length + 2 if length > 0 else len(waiting)

    def _feed_head(self, data: bytes) -> bytes | None:
        """What follows the head, or None while it is incomplete. Informational answers (1xx) are skipped."""
        data = self._partial + data
        while True:
            data = data.lstrip(b"\r\n")  # empty lines before a status line mean nothing
            end = data.find(b"\r\n\r\n")
            if end > _HEAD_LIMIT:
                raise BadHttp("endless head")
            if end < 0:
                if len(data) > _HEAD_LIMIT + 4 or not (data.startswith(b"HTTP/1.") or b"HTTP/1.".startswith(data[:7])):
                    raise BadHttp("no HTTP/1.1 head")
                self._partial = data
                return None
            head = _read_head(data[:end])
            data = data[end + 4 :]
            if head.status >= 200:
                self.status, self.chunked, self._length, self.keep_alive = head
                self._partial = b""
                return data

    def _feed_chunks(self, data: bytes) -> bool:
        """Walk the chunks; each byte is looked at once, and a whole chunk in one step."""
        position, size = 0, len(data)
        self.between = False
        while position < size:
            if self._remaining:
                step = min(self._remaining, size - position)
                self._remaining -= step
                position += step
                continue
            line_end = data.find(b"\n", position)
            if line_end < 0:
                self._partial += data[position:]
                if len(self._partial) > _LINE_LIMIT:
                    raise BadHttp("endless chunk size")
                return False
            line = self._partial + data[position:line_end]
            self._partial = b""
            position = line_end + 1
            if len(line) > _LINE_LIMIT:
                raise BadHttp("endless chunk size")
            if self._trailer:
                if line in (b"\r", b""):
                    self.keep_alive &= position == size
                    return True
                continue
            try:
                length = int(line.partition(b";")[0], 16)
            except ValueError:
                raise BadHttp(f"bad chunk size {line[:60]!r}") from None
            if length < 0:
                raise BadHttp(f"bad chunk size {line[:60]!r}")
            self._trailer = length == 0
            self._remaining = length + 2 if length else 0
        self.between = not (self._remaining or self._trailer)
        return False
