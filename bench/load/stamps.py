"""Reading a socket into the recording, with the time the bytes arrived.

The kernel's stamp (SO_TIMESTAMPNS, see socket(7)) is taken when a packet reaches the host, however late the read comes.
Where it cannot be had, the stamp of the read itself must do, and the client's own delay is in every figure.
"""

from __future__ import annotations

import socket
import ssl
import sys
from typing import Protocol

from bench.load.segments import HEADER, NO_STAMP, READ_BYTES, SegmentWriter

SO_TIMESTAMPNS = 35
_ANCILLARY_BYTES = 64


class Reader(Protocol):
    """Reads what has arrived on a socket, stamps and records it."""

    name: str

    def prepare(self, sock: socket.socket) -> None:
        """Called once on a fresh socket."""
        ...

    def read(self, sock: socket.socket, slot: int, record: SegmentWriter) -> bytes | None:
        """One read: the bytes (recorded), b"" at the end of the stream, None when there is nothing to read.

        Raises OSError when the connection is lost.
        """
        ...


class KernelReader:
    """Plain sockets with receive stamps from the kernel, CLOCK_REALTIME."""

    name = "kernel"

    def prepare(self, sock: socket.socket) -> None:
        sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)

    def read(self, sock: socket.socket, slot: int, record: SegmentWriter) -> bytes | None:
        record.make_room()
        start = record.position + HEADER.size
        try:
            length, ancillary, _, _ = sock.recvmsg_into((record.view[start : start + READ_BYTES],), _ANCILLARY_BYTES)
        except BlockingIOError:
            return None
        if not length:
            return b""
        return record.data(slot, ancillary[0][2] if ancillary else NO_STAMP, length)


class UserReader:
    """Plain sockets or TLS, stamped when the read returns."""

    name = "user"

    def prepare(self, sock: socket.socket) -> None:
        """Nothing to ask of the kernel."""

    def read(self, sock: socket.socket, slot: int, record: SegmentWriter) -> bytes | None:
        record.make_room()
        start = record.position + HEADER.size
        try:
            length = sock.recv_into(record.view[start : start + READ_BYTES])
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return None
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            return b""
        if not length:
            return b""
        return record.data(slot, NO_STAMP, length)


def kernel_stamps_available(*, tls: bool, family: int) -> bool:
    """Whether this system stamps receives on such sockets: 64-bit Linux, TCP, no TLS above it."""
    return sys.platform == "linux" and sys.maxsize > 2**32 and not tls and family in (socket.AF_INET, socket.AF_INET6)


def stamping_keeper() -> socket.socket:
    """A socket that keeps receive stamping switched on in the kernel while it is open.

    The first socket to ask switches it on for the whole host, a moment later; without this the first reads had none.
    """
    keeper = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    keeper.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    return keeper
