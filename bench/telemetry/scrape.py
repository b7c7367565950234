"""What a server answers at its metrics routes, kept as it is: it is parsed after the run, where it disturbs nothing."""

from __future__ import annotations

import gzip
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

import orjson

from bench.load.preflight import open_client
from bench.load.target import Target

if TYPE_CHECKING:
    import httpx

TIMEOUT_S = 5.0
#: The fastest level: a tenth of a second of processor time for 100 expositions of 100 kB.
_LEVEL = 1


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One route's answer: `text`, or why there is none. `took_ns` from asking to the last byte."""

    took_ns: int
    text: str | None
    error: str | None = None


@dataclass(frozen=True, kw_only=True)
class Scrape:
    """All routes at one time (CLOCK_MONOTONIC ns), by path."""

    t_ns: int
    answers: Mapping[str, Answer]

    @property
    def texts(self) -> dict[str, str]:
        """The routes that answered."""
        return {path: answer.text for path, answer in self.answers.items() if answer.text is not None}


class Scraper:
    """Asks `paths` of a server and appends what they answer to `out`. A context manager; used by one thread.

    Every scrape is a gzip member of its own, so that a killed run loses none that was written.
    """

    def __init__(self, target: Target, paths: Sequence[str], out: Path) -> None:
        self._target = target
        self._paths = tuple(paths)
        self._out = out
        self._client: httpx.Client | None = None
        self._file: IO[bytes] | None = None
        self.failed = 0

    def __enter__(self) -> Scraper:
        self._client = open_client(self._target)
        self._client.timeout = TIMEOUT_S
        self._file = self._out.open("ab")
        return self

    def __exit__(self, *_: object) -> None:
        assert self._client is not None
        assert self._file is not None
        self._client.close()
        self._file.close()

    def take(self, t_ns: int) -> Scrape:
        """Ask every route once; a server that does not answer is recorded as that. Raises OSError on a full disk."""
        assert self._file is not None
        scrape = Scrape(t_ns=t_ns, answers={path: self._ask(path) for path in self._paths})
        self.failed += not scrape.texts
        plain = {path: vars(answer) for path, answer in scrape.answers.items()}
        line = orjson.dumps({"t_ns": t_ns, "answers": plain}) + b"\n"
        self._file.write(gzip.compress(line, compresslevel=_LEVEL))
        self._file.flush()
        return scrape

    def _ask(self, path: str) -> Answer:
        import httpx

        assert self._client is not None
        begin_ns = time.monotonic_ns()
        text = None
        try:
            try:
                response = self._client.get(path, follow_redirects=True)
            except httpx.RemoteProtocolError:  # a kept-alive connection that the server had closed
                response = self._client.get(path, follow_redirects=True)
            error = None if response.is_success else f"HTTP {response.status_code}"
            if error is None:
                text = response.content.decode(errors="replace")
        except (httpx.HTTPError, ValueError) as failure:
            error = f"{type(failure).__name__}: {failure}"[:200]
        return Answer(took_ns=time.monotonic_ns() - begin_ns, text=text, error=error)


def read_scrapes(path: Path) -> Iterator[Scrape]:
    """The scrapes of a file; one that was cut off by a kill ends it."""
    try:
        with gzip.open(path, "rb") as stream:
            for line in stream:
                entry = orjson.loads(line)
                answers = {name: Answer(**answer) for name, answer in entry["answers"].items()}
                yield Scrape(t_ns=entry["t_ns"], answers=answers)
    except (EOFError, OSError, zlib.error, orjson.JSONDecodeError):
        return
