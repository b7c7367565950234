"""Base URLs: what is understood, and what is refused with a sentence."""

from __future__ import annotations

import socket

import pytest

from bench.base.errors import UsageError
from bench.load.target import Address, Target, parse_url


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://127.0.0.1:8000", Address(tls=False, host="127.0.0.1", port=8000, path="")),
        ("http://127.0.0.1:8000/v1/", Address(tls=False, host="127.0.0.1", port=8000, path="")),
        ("https://example.org/llm/v1", Address(tls=True, host="example.org", port=443, path="/llm")),
        ("http://[::1]:81", Address(tls=False, host="::1", port=81, path="")),
        ("unix:/run/e.sock", Address(tls=False, host="localhost", port=80, path="", unix="/run/e.sock")),
    ],
)
def test_understood(url: str, expected: Address) -> None:
    assert parse_url(url) == expected


def test_authority() -> None:
    assert parse_url("http://[::1]:81").authority == "[::1]:81"
    assert parse_url("https://example.org").authority == "example.org"


@pytest.mark.parametrize(
    "url", ["127.0.0.1:8000", "ftp://x", "http://", "http://x:port", "http://u:p@x", "http://x/?a=1", "unix:"]
)
def test_refused(url: str) -> None:
    with pytest.raises(UsageError, match=r"endpoint\.url"):
        parse_url(url)


def test_nothing_listening_is_said() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        with pytest.raises(UsageError, match=f"nothing answers at 127.0.0.1 port {port}"):
            parse_url(f"http://127.0.0.1:{port}").connect(1.0)


def test_the_key_is_not_in_the_repr() -> None:
    assert "hush" not in repr(Target(url="http://x", model="m", api_key="hush"))
