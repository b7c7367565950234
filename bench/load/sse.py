"""Splits a server-sent event stream into events, however the bytes were cut on the way.

After https://html.spec.whatwg.org/multipage/server-sent-events.html, with one difference: `close` gives the last event
even when the blank line behind it is missing.
"""

from __future__ import annotations

Event = tuple[bytes, bytes, int]
"""(event type, "" for most; data, lines joined with a newline; bytes on the wire, framing of HTTP not counted)"""

EVENT_LIMIT = 16 * 1024 * 1024
"""No engine says so much at once; what does is not kept."""
_BOM = b"\xef\xbb\xbf"


class SseSplitter:
    r"""Feed it the body in pieces; it gives the events that each piece completed.

    A carriage return ends a line at once, and a line feed behind it counts to what follows: which of the two ends a
    read must not matter. After an event of more than EVENT_LIMIT bytes `too_large` is set and nothing more comes.
    """

    __slots__ = ("_after_return", "_data", "_first", "_pending", "_size", "_type", "too_large")

    def __init__(self) -> None:
        self.too_large = False
        self._pending = bytearray()
        self._data: list[bytes] = []
        self._type = b""
        self._size = 0
        self._first = True
        self._after_return = False

    @property
    def idle(self) -> bool:
        """Whether nothing of the next event has been seen."""
        return not self._pending and not self._size and not self._after_return

    def feed(self, piece: bytes) -> list[Event]:
        """The events that `piece` completed, in order."""
        if (
            not self._pending
            and not self._size
            and not self._after_return
            and piece.startswith(b"data: ")
            and piece.endswith(b"\n\n")
            and piece.count(b"\n") == 2
            and b"\r" not in piece
        ):
            self._first = False
            return [(b"", piece[6:-2], len(piece))]  # one whole event in one piece, the usual case
        if self.too_large or not piece:
            return []
        if self._after_return:
            self._after_return = False
            if piece.startswith(b"\n"):
                self._size += 1
                piece = piece[1:]
        searched = len(self._pending)
        self._pending += piece
        if self._pending.find(b"\n", searched) < 0 and self._pending.find(b"\r", searched) < 0:
            self._check(len(self._pending))
            return []
        return self._take_lines()

    def close(self) -> list[Event]:
        """The event that the end of the stream cut off from its blank line, if it had any data."""
        last = bytes(self._pending)
        self._pending.clear()
        self._size += len(last)
        if last:
            self._line(last)
        event = self._line(b"")
        return [] if event is None else [event]

    def _take_lines(self) -> list[Event]:
        lines = bytes(self._pending).splitlines(keepends=True)
        self._pending.clear()
        last = lines[-1]
        if last.endswith(b"\r"):
            self._after_return = True
        elif not last.endswith(b"\n"):
            self._pending += lines.pop()
        events: list[Event] = []
        for line in lines:
            returned = line.endswith(b"\r\n")
            self._size += len(line) - returned
            if self._check(0):
                return events
            event = self._line(line.rstrip(b"\r\n"))
            self._size += returned
            if event is not None:
                events.append(event)
        self._check(len(self._pending))
        return events

    def _check(self, more: int) -> bool:
        """Whether the event at hand, with `more` bytes that are not a line yet, is too large."""
        if self._size + more > EVENT_LIMIT:
            self.too_large = True
            self._size = EVENT_LIMIT + 1
            self._pending.clear()
            self._data.clear()
        return self.too_large

    def _line(self, line: bytes) -> Event | None:
        if self._first:
            self._first = False
            line = line.removeprefix(_BOM)
        if not line:
            event = (self._type, b"\n".join(self._data), self._size) if self._data else None
            self._data, self._type, self._size = [], b"", 0
            return event
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            self._data.append(value)
        elif field == b"event":
            self._type = value
        elif field == b"error":  # older llama.cpp wrote its errors as a field of this name
            self._type = b"error"
            self._data.append(value)
        return None
