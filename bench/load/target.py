"""Where requests go: the base URL of an endpoint, taken apart once before the run."""

from __future__ import annotations

import socket
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from bench.base.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Target:
    """An OpenAI-speaking endpoint. `url` is its base without `/v1`; the key never enters a repr, a file or an argv."""

    url: str
    model: str
    api_key: str | None = field(default=None, repr=False)
    ca_file: str | None = None


@dataclass(frozen=True, kw_only=True)
class Address:
    """A URL taken apart. `path` is the base path ("" or "/prefix"); `unix` a socket's path instead of host and port."""

    tls: bool
    host: str
    port: int
    path: str
    unix: str | None = None

    @property
    def authority(self) -> str:
        """The Host header's value."""
        if self.unix is not None:
            return "localhost"
        name = f"[{self.host}]" if ":" in self.host else self.host
        return name if self.port == (443 if self.tls else 80) else f"{name}:{self.port}"

    def connect(self, timeout_s: float) -> tuple[int, Any]:
        """Find the address family and socket address that accept a connection.

        Raises UsageError when the name does not resolve or nothing listens there.
        """
        if self.unix is not None:
            found: list[tuple[int, Any]] = [(socket.AF_UNIX, self.unix)]
        else:
            try:
                answers = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
            except OSError as error:
                raise UsageError(f"endpoint.url: the host '{self.host}' cannot be resolved ({error})") from error
            found = list(dict.fromkeys((int(family), address) for family, _, _, _, address in answers))
        reason = ""
        for family, address in found:
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.settimeout(timeout_s)
                try:
                    probe.connect(address)
                except OSError as error:
                    reason = error.strerror or str(error)
                    continue
                return family, address
        where = self.unix or f"{self.host} port {self.port}"
        raise UsageError(f"endpoint.url: nothing answers at {where} ({reason}); is the server running?")


def parse_url(url: str) -> Address:
    """Take a base URL apart: `http://host:port[/prefix]`, `https://…` or `unix:/path`; a trailing `/v1` is dropped.

    Raises UsageError for anything else.
    """
    if url.startswith("unix:"):
        path = "/" + url.removeprefix("unix:").lstrip("/")
        if path == "/":
            raise UsageError(f"endpoint.url '{url}': name the socket, unix:/run/engine.sock")
        return Address(tls=False, host="localhost", port=80, path="", unix=path)
    expected = "write it like http://127.0.0.1:8000"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise UsageError(f"endpoint.url '{url}': {error}; {expected}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"endpoint.url '{url}' is not an http or https URL; {expected}")
    if parts.username or parts.password:
        raise UsageError("endpoint.url: credentials do not belong in a URL; use endpoint.api_key_env")
    if parts.query or parts.fragment:
        raise UsageError(f"endpoint.url '{url}' has a query or a fragment; {expected}")
    tls = parts.scheme == "https"
    path = parts.path.rstrip("/").removesuffix("/v1")
    return Address(tls=tls, host=parts.hostname, port=port or (443 if tls else 80), path=path)
