"""TLS over memory buffers: the plain socket stays in our hands, so what it receives carries the kernel's stamps."""

from __future__ import annotations

import socket
import ssl
from select import EPOLLIN, EPOLLOUT
from typing import Any

_WIRE_BYTES = 64 * 1024
_PIECE_BYTES = 16 * 1024

Ancillary = list[tuple[int, int, bytes]]


class TlsStream:
    """A connected non-blocking socket with TLS above it, used as a socket: `send`, `recvmsg`, `recv`.

    One read of the wire gives one read here, all its records together, with the stamp of the wire's read. An orderly
    close and a cut connection both read as the end; where a body ended early its framing tells. Raises BlockingIOError
    and OSError as sockets do, ssl.SSLError (an OSError) for a broken record.
    """

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, server_name: str) -> None:
        self._sock = sock
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=server_name)
        self._unsent = memoryview(b"")
        self._ancillary: Ancillary = []
        self._ended = False

    def fileno(self) -> int:
        return self._sock.fileno()

    def close(self) -> None:
        self._sock.close()

    def handshake(self) -> int | None:
        """One step: the epoll events to wait for, or None when it is done. Raises ssl.SSLError, OSError."""
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                if not self._flush():
                    return EPOLLIN | EPOLLOUT
                try:
                    if not self._fill(0):
                        raise ssl.SSLEOFError("the peer closed the connection during the handshake")
                except BlockingIOError:
                    return EPOLLIN
                continue
            return None if self._flush() else EPOLLOUT

    def send(self, data: memoryview) -> int:
        """Encrypt and hand to the kernel; how much of `data` was taken. Raises BlockingIOError while it takes none."""
        self.flush()
        taken = self._tls.write(data[:_PIECE_BYTES])
        self._flush()
        return taken

    def flush(self) -> None:
        """Hand on what was encrypted. Raises BlockingIOError when the kernel does not take all of it."""
        if not self._flush():
            raise BlockingIOError

    def recvmsg(self, size: int, ancillary_bytes: int, flags: int = 0) -> tuple[bytes, Ancillary, int, Any]:
        """As socket.recvmsg; the ancillary data are those of the read of the wire. With flags, of the plain socket: for
        its error queue.
        """
        if flags:
            return self._sock.recvmsg(size, ancillary_bytes, flags)
        while True:
            data = self._decrypt(size)
            if data or self._ended:
                return data, self._ancillary, 0, None
            if not self._fill(ancillary_bytes):
                return b"", [], 0, None

    def recv(self, size: int) -> bytes:
        """As socket.recv."""
        return self.recvmsg(size, 0)[0]

    def pending(self) -> bool:
        """Whether received bytes wait here that epoll does not know of."""
        return bool(self._tls.pending() or self._incoming.pending)

    def _decrypt(self, size: int) -> bytes:
        parts = []
        while size:
            try:
                part = self._tls.read(size)
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                break
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                part = b""
            if not part:
                self._ended = True
                break
            parts.append(part)
            size -= len(part)
        if self._outgoing.pending:
            self._flush()
        return b"".join(parts)

    def _fill(self, ancillary_bytes: int) -> bool:
        """Read the wire; whether it goes on. Raises BlockingIOError when nothing has come."""
        data, self._ancillary, _, _ = self._sock.recvmsg(_WIRE_BYTES, ancillary_bytes)
        if not data:
            self._incoming.write_eof()
            return False
        self._incoming.write(data)
        return True

    def _flush(self) -> bool:
        """Hand encrypted bytes to the kernel; whether it took all."""
        if self._outgoing.pending:
            self._unsent = memoryview(bytes(self._unsent) + self._outgoing.read())
        try:
            while self._unsent:
                self._unsent = self._unsent[self._sock.send(self._unsent) :]
        except BlockingIOError:
            return False
        return True
