"""One connection of the client and the exchange that is on it."""

from __future__ import annotations

import errno
import select
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from bench.load.framing import Framing
from bench.load.stamps import Stream
from bench.load.tls import TlsStream


class State(IntEnum):
    """Where a connection is."""

    connecting = 0
    handshaking = 1
    sending = 2
    receiving = 3
    idle = 4


@dataclass(frozen=True, kw_only=True)
class Dial:
    """How to reach the endpoint: a resolved socket address, and TLS when `context` is there."""

    family: int
    address: Any
    context: ssl.SSLContext | None = None
    server_name: str = ""


class Connection:
    """A non-blocking socket, at most one exchange at a time. Times are CLOCK_MONOTONIC ns."""

    __slots__ = (
        "answered",
        "awaited",
        "body_reads",
        "fd",
        "flowing",
        "framing",
        "in_chunks",
        "kept",
        "last_ns",
        "layered",
        "outgoing",
        "poller",
        "sent_ns",
        "slot",
        "sock",
        "state",
        "taken_ns",
        "used",
    )

    def __init__(self, dial: Dial, prepare: Callable[[socket.socket], None]) -> None:
        sock = socket.socket(dial.family, socket.SOCK_STREAM)
        sock.setblocking(False)
        if dial.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        prepare(sock)
        self.sock: Stream = sock
        self.fd = sock.fileno()
        self.state = State.connecting
        self.awaited = 0
        """The epoll events it is registered for,"""
        self.poller: select.epoll | None = None
        """and with whom."""
        self.slot = -1
        self.framing = Framing()
        self.flowing: socket.socket | None = None
        """The socket itself where the next read may be made without more ado."""
        self.in_chunks = False
        """That read will most likely give one whole chunk, in the middle of an answer."""
        self.kept: list[bytes] | None = None
        """The reads of the present answer, where it is to be understood during the run."""
        self.outgoing = memoryview(b"")
        self.taken_ns = 0
        self.sent_ns = 0
        self.last_ns = 0
        self.layered = False
        """TLS is between the socket and the answer."""
        self.used = False
        """An exchange has ended on it, and it was kept alive."""
        self.answered = False
        """At least one byte of the present exchange's answer has come."""
        self.body_reads = 0
        """How many reads gave something of its body, or followed one that did."""

    def begin(self, slot: int, outgoing: bytes, taken_ns: int, *, keep: bool = False) -> None:
        """Give the connection the exchange in `slot`; nothing is sent yet."""
        self.slot = slot
        self.outgoing = memoryview(outgoing)
        self.framing = Framing()
        self.kept = [] if keep else None
        self.taken_ns = self.last_ns = taken_ns
        self.sent_ns = 0
        self.flowing = None
        self.in_chunks = False
        self.answered = False
        self.body_reads = 0

    def flow(self) -> None:
        """Note that the next read needs no care, unless it has to be decrypted or kept."""
        if self.kept is None and isinstance(self.sock, socket.socket):
            self.flowing = self.sock

    def connect(self, dial: Dial) -> None:
        """Start connecting. Raises OSError when that fails at once."""
        assert isinstance(self.sock, socket.socket)
        code = self.sock.connect_ex(dial.address)
        if code not in (0, errno.EINPROGRESS):
            raise OSError(code, errno.errorcode.get(code, "?"))

    def finish_connect(self, dial: Dial) -> None:
        """After the socket became writable: raises OSError when the connection failed; begins TLS if there is any."""
        assert isinstance(self.sock, socket.socket)
        code = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, errno.errorcode.get(code, "?"))
        if dial.context is None:
            self.state = State.sending
            return
        self.sock = TlsStream(self.sock, dial.context, dial.server_name)
        self.layered = True
        self.state = State.handshaking

    def handshake(self) -> int | None:
        """One step of the TLS handshake: the epoll events to wait for, or None when it is done.

        Raises ssl.SSLError, OSError.
        """
        assert isinstance(self.sock, TlsStream)
        wanted = self.sock.handshake()
        if wanted is None:
            self.state = State.sending
        return wanted

    def send(self) -> bool:
        """Hand as much as possible to the kernel; True when everything is. Raises OSError."""
        try:
            while self.outgoing:
                self.outgoing = self.outgoing[self.sock.send(self.outgoing) :]
            if isinstance(self.sock, TlsStream):
                self.sock.flush()
        except BlockingIOError:
            return False
        self.state = State.receiving
        return True

    def buffered(self) -> bool:
        """Whether TLS holds decrypted bytes that epoll does not know of."""
        return isinstance(self.sock, TlsStream) and self.sock.pending()

    def close(self) -> None:
        self.sock.close()
