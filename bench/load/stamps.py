"""Reading a socket, with the time the bytes arrived.

The kernel's stamps (SO_TIMESTAMPING, see Documentation/networking/timestamping.rst of Linux) are taken when a packet
reaches the host, however late the read comes, and when a request is handed to the network device. Where they cannot be
had, the stamp of the read itself must do, and the client's own delay is in every figure.

A read that spans several packets carries the stamp of the last. Packets that wait keep their own stamps until the
kernel merges them, which it does not while their sender holds a copy for want of an acknowledgement (skb_try_coalesce
in net/core/skbuff.c): on loopback, mostly, the first two that came in the time of a late read. So what may have
waited is looked at first and read packet by packet.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from typing import Protocol

from bench.load.segments import NO_STAMP
from bench.load.tls import TlsStream

SO_TIMESTAMPING = 37
TX_SOFTWARE, RX_SOFTWARE, REPORT_SOFTWARE, STAMP_ONLY = 1 << 1, 1 << 3, 1 << 4, 1 << 11
_FLAGS = TX_SOFTWARE | RX_SOFTWARE | REPORT_SOFTWARE | STAMP_ONLY
ANCILLARY_BYTES = 64
"""Room for one `struct scm_timestamping`: three timespecs, the software stamp first."""
_ERROR_BYTES = 256
STAMP_BYTES = 16
_PEEK_BYTES = 4096

Stream = socket.socket | TlsStream


class Reader(Protocol):
    """Reads what has arrived on a socket, with its stamp. (In the middle of a body the client's loop reads for itself,
    as `stamped` says.)"""

    name: str
    stamped: bool
    """Whether the kernel stamps what a prepared socket receives, so that the time does not depend on when it is read,
    and leaves stamps of what was sent in its error queue."""

    def prepare(self, sock: socket.socket) -> None:
        """Called once on a fresh socket."""
        ...

    def read(self, sock: Stream, limit: int) -> tuple[bytes, bytes] | None:
        """One read: at most `limit` bytes (b"" at the end of the stream) and the kernel's stamp, or NO_STAMP; None when
        there is nothing to read. Raises OSError when the connection is lost.
        """
        ...

    def waiting(self, sock: Stream) -> bytes:
        """The first bytes that wait to be read, left where they are; b"" where reading them in parts would tell no
        more about when they came. Raises OSError when the connection is lost, which is told only once.
        """
        ...


class KernelReader:
    """Stamps from the kernel, CLOCK_REALTIME; of TLS those of the encrypted bytes."""

    name = "kernel"
    stamped = True

    def prepare(self, sock: socket.socket) -> None:
        sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPING, _FLAGS)

    def read(self, sock: Stream, limit: int) -> tuple[bytes, bytes] | None:
        try:
            data, ancillary, _, _ = sock.recvmsg(limit, ANCILLARY_BYTES)
        except BlockingIOError:
            return None
        return data, ancillary[0][2][:STAMP_BYTES] if ancillary else NO_STAMP

    def waiting(self, sock: Stream) -> bytes:
        if isinstance(sock, TlsStream):
            return b""
        try:
            return sock.recv(_PEEK_BYTES, socket.MSG_PEEK)
        except BlockingIOError:
            return b""


class UserReader:
    """Stamped when the read returns."""

    name = "user"
    stamped = False

    def prepare(self, sock: socket.socket) -> None:
        """Nothing to ask of the kernel."""

    def read(self, sock: Stream, limit: int) -> tuple[bytes, bytes] | None:
        try:
            return sock.recv(limit), NO_STAMP
        except BlockingIOError:
            return None

    def waiting(self, sock: Stream) -> bytes:
        return b""


def transmit_stamps(sock: Stream) -> Iterator[bytes]:
    """The stamps (struct timespec) of what the device was handed since the last call, emptying the error queue."""
    while True:
        try:
            _, ancillary, _, _ = sock.recvmsg(0, _ERROR_BYTES, socket.MSG_ERRQUEUE)
        except OSError:  # empty, or the socket is broken: the next read tells
            return
        if not ancillary:  # a socket that has no such queue
            return
        for level, kind, value in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, SO_TIMESTAMPING):
                yield value[:STAMP_BYTES]


def kernel_stamps_available(*, family: int) -> bool:
    """Whether this system stamps receives on such sockets: 64-bit Linux, TCP."""
    return sys.platform == "linux" and sys.maxsize > 2**32 and family in (socket.AF_INET, socket.AF_INET6)


def stamping_keeper() -> socket.socket:
    """A socket that keeps receive stamping switched on in the kernel while it is open.

    The first socket to ask switches it on for the whole host, a moment later; without this the first reads had none.
    """
    keeper = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    keeper.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPING, _FLAGS)
    return keeper
