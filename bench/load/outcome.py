"""How a request can end: closed enumerations shared by the hot path, the parser and the record."""

from __future__ import annotations

from enum import StrEnum


class Phase(StrEnum):
    """Requests of the warm-up and of the cool-down are recorded and never measured."""

    warmup = "warmup"
    main = "main"
    cooldown = "cooldown"


class Status(StrEnum):
    """`cancelled`: the harness was told to stop while the request was in flight."""

    ok = "ok"
    error = "error"
    cancelled = "cancelled"


class ErrorKind(StrEnum):
    """Why a request failed. Closed: a new kind of fault gets a new name here."""

    refused = "refused"
    """No connection: refused, unreachable, or no such socket."""
    connect_timeout = "connect_timeout"
    tls = "tls"
    first_token_timeout = "first_token_timeout"  # noqa: S105 - an error kind
    stall_timeout = "stall_timeout"
    total_timeout = "total_timeout"
    reset = "reset"
    """The peer reset the connection, or closed it before any byte of an answer."""
    truncated = "truncated"
    """The answer ended before its framing or its finish reason said so."""
    early_done = "early_done"
    """`[DONE]` came before any finish reason."""
    http_error = "http_error"
    """A status of 300 or above (redirects are not followed)."""
    stream_error = "stream_error"
    """An error event inside a stream that began with status 200."""
    not_a_stream = "not_a_stream"
    """Status 200, but not one event in the body."""
    bad_http = "bad_http"
    """Bytes that are no HTTP/1.1 answer, or broken chunking."""
    bad_json = "bad_json"
    """An event whose data is no JSON object, or no UTF-8."""
    too_large = "too_large"
    """An event of more than 16 MiB, or an answer of more than 256 MiB."""
    client = "client"
    """The worker that sent the request died."""


class End(StrEnum):
    """What the hot path knows about the end of an exchange; every value of ErrorKind is also one."""

    complete = "complete"
    """The body ended as its framing said."""
    eof = "eof"
    """The peer closed the connection after the head: the end of a close-delimited body, else a truncation."""
    cancelled = "cancelled"


GONE = frozenset(
    {
        ErrorKind.refused,
        ErrorKind.connect_timeout,
        ErrorKind.first_token_timeout,
        ErrorKind.stall_timeout,
        ErrorKind.total_timeout,
        ErrorKind.reset,
    }
)
"""Endings that count towards the circuit breaker."""
