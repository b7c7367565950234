"""Splits a server-sent event stream into events, however the bytes were cut on the way.

After https://html.spec.whatwg.org/multipage/server-sent-events.html, with two differences: a lone carriage return ends
no line (no engine sends that, and a `\\r` at the end of a read would be ambiguous), and `close` gives the last event
even when the blank line behind it is missing.
"""

from __future__ import annotations

Event = tuple[bytes, bytes, int]
"""(event type, "" for most; data, lines joined with a newline; bytes on the wire, framing of HTTP not counted)"""


class SseSplitter:
    """Feed it the body in pieces; it gives the events that each piece completed."""

    __slots__ = ("_data", "_pending", "_size", "_type")

    def __init__(self) -> None:
        self._pending = bytearray()
        self._data: list[bytes] = []
        self._type = b""
        self._size = 0

    def feed(self, piece: bytes) -> list[Event]:
        """The events that `piece` completed, in order."""
        if (
            not self._pending
            and not self._size
            and piece.startswith(b"data: ")
            and piece.endswith(b"\n\n")
            and piece.count(b"\n") == 2
            and piece[-3:-2] != b"\r"
        ):
            return [(b"", piece[6:-2], len(piece))]  # one whole event in one piece, the usual case
        searched = len(self._pending)
        self._pending += piece
        if self._pending.find(b"\n", searched) < 0:
            return []
        *lines, rest = bytes(self._pending).split(b"\n")
        self._pending = bytearray(rest)
        events = []
        for line in lines:
            self._size += len(line) + 1
            event = self._line(line.removesuffix(b"\r"))
            if event is not None:
                events.append(event)
        return events

    def close(self) -> list[Event]:
        """The event that the end of the stream cut off from its blank line, if it had any data."""
        last = bytes(self._pending).removesuffix(b"\r")
        self._size += len(self._pending)
        self._pending.clear()
        if last:
            self._line(last)
        event = self._line(b"")
        return [] if event is None else [event]

    def _line(self, line: bytes) -> Event | None:
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
