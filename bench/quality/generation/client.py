"""Asking many requests at once, each until it has an answer or a typed reason why not."""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.base.clock import Clock, SystemClock
from bench.load.target import Target, parse_url
from bench.quality.generation.ask import Answer, Api, AskError, Request
from bench.quality.generation.concurrency import Concurrency

if TYPE_CHECKING:
    import httpx

_CONNECT_S = 10.0
_ATTEMPTS = 4
_PAUSE_S = 0.25
#: How often it is looked whether the server lives.
_LOOK_S = 0.5
#: Errors that another attempt may cure.
_PASSING = (AskError.CONNECTION, AskError.OVERLOADED, AskError.SERVER_ERROR)
_MESSAGE_CHARACTERS = 300


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How hard a server is asked: at most `concurrency` at once, from `start` on, each for at most `timeout_s`."""

    start: int = 4
    concurrency: int = 64
    timeout_s: float = 600.0


def ask_all(
    target: Target,
    requests: Sequence[Request],
    *,
    limits: Limits,
    answered: Callable[[int, Answer], None],
    alive: Callable[[], bool] = lambda: True,
    clock: Clock | None = None,
) -> None:
    """Ask every request; `answered` gets its place and its answer as soon as it is there.

    What is in flight when `alive` turns false is given up at once, and so is the rest: the caller knows why.
    """
    clock = clock or SystemClock()
    asyncio.run(_ask_all(target, requests, limits=limits, answered=answered, alive=alive, clock=clock))


async def _ask_all(
    target: Target,
    requests: Sequence[Request],
    *,
    limits: Limits,
    answered: Callable[[int, Answer], None],
    alive: Callable[[], bool],
    clock: Clock,
) -> None:
    control = Concurrency(limit=limits.start, bound=limits.concurrency)
    waiting = deque(enumerate(requests))
    lanes: set[asyncio.Task[None]] = set()

    async def lane() -> None:
        """One request after the other, as long as there may be so many beside each other.

        Each lane has a client of its own: a pool that all share looks at every connection for every request.
        """
        async with _client(target, tls, limits) as client:
            while waiting and len(lanes) <= control.limit:
                place, request = waiting.popleft()
                answer = await _ask(client, target.model, request, control, alive)
                if answer.error is None:
                    control.answered(clock.now_ns(), answer.output_tokens or 1)
                answered(place, answer)
                open_lanes()

    def open_lanes() -> None:
        while waiting and len(lanes) < control.limit:
            task = asyncio.create_task(lane())
            lanes.add(task)
            task.add_done_callback(lanes.discard)

    tls = (
        ssl.create_default_context(cafile=target.ca_file)
        if parse_url(target.url).tls
        else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    )
    open_lanes()
    try:
        while lanes and alive():
            done, _ = await asyncio.wait(set(lanes), timeout=_LOOK_S, return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                task.result()
    finally:
        left = list(lanes)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)


def _client(target: Target, tls: ssl.SSLContext, limits: Limits) -> httpx.AsyncClient:
    import httpx

    address = parse_url(target.url)
    return httpx.AsyncClient(
        transport=httpx.AsyncHTTPTransport(verify=tls, uds=address.unix),
        base_url=f"{'https' if address.tls else 'http'}://{address.authority}{address.path}",
        headers={"Authorization": f"Bearer {target.api_key}"} if target.api_key else {},
        timeout=httpx.Timeout(limits.timeout_s, connect=_CONNECT_S),
        trust_env=False,
    )


async def _ask(
    client: httpx.AsyncClient, model: str, request: Request, control: Concurrency, alive: Callable[[], bool]
) -> Answer:
    answer = Answer(text=None, error=AskError.CONNECTION)
    for attempt in range(_ATTEMPTS):
        if attempt:
            await asyncio.sleep(_PAUSE_S * 2**attempt)
        answer = await _attempt(client, model, request)
        if answer.error == AskError.OVERLOADED:
            control.overloaded()
        if answer.error not in _PASSING or not alive():
            break
    return answer


async def _attempt(client: httpx.AsyncClient, model: str, request: Request) -> Answer:
    import httpx

    try:
        reply = await client.post(request.api.path, json={"model": model, **request.body})
    except httpx.TimeoutException as error:
        return _failed(AskError.TIMEOUT, type(error).__name__)
    except httpx.HTTPError as error:
        return _failed(AskError.CONNECTION, str(error) or type(error).__name__)
    if reply.status_code != 200:
        return _failed(_refusal(reply.status_code), f"HTTP {reply.status_code}: {reply.text}")
    try:
        return read_answer(request.api, reply.json())
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        return _failed(AskError.MALFORMED, f"{type(error).__name__} in {reply.text}")


def _refusal(status: int) -> AskError:
    if status in (429, 503):
        return AskError.OVERLOADED
    return AskError.SERVER_ERROR if status >= 500 else AskError.REFUSED


def read_answer(api: Api, reply: Mapping[str, Any]) -> Answer:
    """An answer out of a reply's body; raises ValueError, KeyError, TypeError or IndexError when it holds none."""
    choice = reply["choices"][0]
    message = choice["message"] if api is Api.chat else {"content": choice["text"]}
    reasoning = message.get("reasoning_content") or message.get("reasoning")
    text = message.get("content")
    if text is None and reasoning is None:
        raise ValueError("no content")
    usage = reply.get("usage") or {}
    return Answer(
        text=_text(text or ""),
        reasoning=_text(reasoning),
        finish_reason=_text(choice.get("finish_reason")),
        prompt_tokens=_count(usage.get("prompt_tokens")),
        output_tokens=_count(usage.get("completion_tokens")),
    )


def _text(value: Any) -> str | None:
    """Text that can be written: half a character, which JSON can carry, becomes a question mark."""
    return None if value is None else str(value).encode("utf-8", "replace").decode("utf-8")


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _failed(error: AskError, message: str) -> Answer:
    return Answer(text=None, error=error.value, message=message[:_MESSAGE_CHARACTERS])
