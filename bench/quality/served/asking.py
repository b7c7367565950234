"""Log-probabilities of a running server: many requests beside each other, each kept on disk as it is answered."""

from __future__ import annotations

import asyncio
import json
import math
import os
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from bench.base.clock import SystemClock
from bench.base.errors import CellFailure, FailureKind, UsageError
from bench.base.hashing import key_of
from bench.engines.served_logprobs import Asked, LogprobRoute, route_of
from bench.quality.generation.concurrency import Concurrency
from bench.quality.generation.session import Session

if TYPE_CHECKING:
    import httpx

    from bench.engines.running import Endpoint

#: Raised when the same request comes to mean something else; what was answered is then asked again.
_VERSION = 1
_ATTEMPTS, _PAUSE_S = 4, 0.25
Body = Mapping[str, Any]


class LogprobStore:
    """What one model on one engine told, as JSON lines by the digest of what was asked.

    Each line is one write to the end of the file: a killed process loses at most the one it was writing.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, Any] = {}
        try:
            lines = path.read_bytes().splitlines()
        except FileNotFoundError:
            lines = []
        for line in lines:
            try:
                entry = json.loads(line)
                self._known[entry["digest"]] = entry["found"]
            except (ValueError, KeyError, TypeError):
                continue

    def get(self, digest: str) -> Any | None:
        """What was told before."""
        return self._known.get(digest)

    def put(self, digest: str, found: Any) -> None:
        """Keep it."""
        self._known[digest] = found
        self._path.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps({"digest": digest, "found": found}).encode()
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            # A line that a killed process left unfinished must not swallow this one.
            os.write(descriptor, b"\n" + line + b"\n")
        finally:
            os.close(descriptor)


class Asking:
    """One served model that is asked for log-probabilities. `concurrency`: at most so many requests at once."""

    def __init__(self, session: Session, *, concurrency: int = 64) -> None:
        self._session = session
        self._bound = concurrency
        self._store = LogprobStore(session.store.path.with_suffix(".logprobs.jsonl"))

    @property
    def endpoint(self) -> Endpoint:
        """The server, started if it has to be."""
        return cast("Endpoint", self._session.server())

    @property
    def route(self) -> LogprobRoute:
        """How it is asked; raises UsageError where it gives no log-probabilities."""
        return route_of(self.endpoint)

    def tokenize(self, texts: Sequence[str], *, special: bool) -> list[list[int]]:
        """Each text's ids as the server makes them."""
        route, model = self.route, self.endpoint.model
        bodies = [route.tokenize_body(model, text, special=special) for text in texts]
        return self.ask([(route.tokenizer, body, route.tokens) for body in bodies], unit="texts")

    def all_asked(self, asked: Sequence[Asked], read: Callable[[Any], Any], *, unit: str) -> list[Any]:
        """What `read` makes of the answer to each request."""
        route = self.route
        return self.ask([(route.path, route.body(each), read) for each in asked], unit=unit)

    def ask(self, requests: Sequence[tuple[str, Body, Callable[[Any], Any]]], *, unit: str) -> list[Any]:
        """The answers in their order, each request being a path, a body and the reader of what comes back.

        Raises CellFailure where the server refuses one, dies, or answers in another form.
        """
        return self.chains([[request] for request in requests], unit=unit, flat=True)

    def chains(
        self, chains: Sequence[Sequence[tuple[str, Body, Callable[[Any], Any]]]], *, unit: str, flat: bool = False
    ) -> list[Any]:
        """The same of requests that follow each other: those of one chain go one after the other, chains beside each
        other. One list of answers a chain; `flat`: its only answer."""
        digests = [[_digest(path, body) for path, body, _ in chain] for chain in chains]
        found: list[list[Any]] = [[self._store.get(digest) for digest in own] for own in digests]
        left = [place for place, own in enumerate(found) if any(answer is None for answer in own)]
        if left:
            asyncio.run(self._run(chains, digests, found, left, unit))
        elif chains:
            self._session.progress.say(f"{self._session.label} was asked for these {len(chains)} {unit} before, reused")
        return [own[0] for own in found] if flat else found

    async def _run(
        self, chains: Sequence[Any], digests: list[list[str]], found: list[list[Any]], left: list[int], unit: str
    ) -> None:
        endpoint, progress = self.endpoint, self._session.progress
        progress.say(f"asking {self._session.label} for {len(left)} {unit}")
        bound = min(self._bound, 4 * self._session.concurrency) if self._session.concurrency else self._bound
        control = Concurrency(limit=4, bound=max(1, bound))
        clock = SystemClock()
        waiting = deque(left)
        running: set[asyncio.Task[None]] = set()
        done = len(chains) - len(left)

        async def one(place: int) -> None:
            for step, (path, body, read) in enumerate(chains[place]):
                if found[place][step] is None:
                    answer = await self._post(client, control, path, body, read)
                    found[place][step] = answer
                    self._store.put(digests[place][step], answer)
                    control.answered(clock.now_ns(), 1)

        async with _client(endpoint, bound) as client:
            try:
                while waiting or running:
                    while waiting and len(running) < control.limit:
                        running.add(asyncio.create_task(one(waiting.popleft())))
                    ended, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                    for task in ended:
                        task.result()
                        done += 1
                        progress.advance(done, len(chains), unit)
            finally:
                for task in running:
                    task.cancel()
                await asyncio.gather(*running, return_exceptions=True)

    async def _post(
        self,
        client: httpx.AsyncClient,
        control: Concurrency,
        path: str,
        body: Body,
        read: Callable[[Any], Any],
    ) -> Any:
        import httpx

        endpoint, said = self.endpoint, ""
        for attempt in range(_ATTEMPTS):
            await _pause(attempt)
            endpoint.raise_if_dead()
            try:
                reply = await client.post(path, json=body)
            except httpx.HTTPError as error:
                said = type(error).__name__
                continue
            if reply.status_code in (429, 503):
                control.overloaded()
            if reply.status_code != httpx.codes.OK:
                said = f"HTTP {reply.status_code}: {reply.text[:200]}"
                if reply.status_code < 500 and reply.status_code != httpx.codes.TOO_MANY_REQUESTS:
                    break
                continue
            try:
                return read(reply.json())
            except (KeyError, TypeError, IndexError, ValueError, StopIteration, AttributeError) as error:
                said = f"its answer has another form ({type(error).__name__}: {error})"
                break
        said = said.replace(endpoint.api_key, "***") if endpoint.api_key else said
        kind = endpoint.engine.kind
        raise CellFailure(FailureKind.EVALUATOR, f"{kind} gave no log-probabilities: {said}", log_tail=endpoint.said)


def letter_ids(asking: Asking, prompt: str, texts: Sequence[str]) -> list[int]:
    """The one token that each of `texts` adds to a prompt; raises UsageError where it is none of its own."""
    before, *whole = asking.tokenize([prompt, *(prompt + text for text in texts)], special=True)
    ids = [tokens[-1] for tokens in whole if tokens[:-1] == before]
    if len(set(ids)) != len(texts):
        raise UsageError(f"{list(texts)} are not one different token each after a prompt in this vocabulary")
    return ids


def finite(value: float | None) -> float:
    """A log-probability; NaN where there is none."""
    return math.nan if value is None or not math.isfinite(value) else value


def _pause(attempt: int) -> Awaitable[None]:
    return asyncio.sleep(_PAUSE_S * 2**attempt if attempt else 0)


def _digest(path: str, body: Body) -> str:
    return key_of(
        {"version": _VERSION, "path": path, "body": {name: value for name, value in body.items() if name != "model"}}
    )


def _client(endpoint: Endpoint, connections: int) -> httpx.AsyncClient:
    import httpx

    return httpx.AsyncClient(
        base_url=endpoint.url,
        headers={"Authorization": f"Bearer {endpoint.api_key}"} if endpoint.api_key else {},
        limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
        timeout=httpx.Timeout(600.0, connect=10.0),
        trust_env=False,
    )
