"""Throws mutated streams at everything that reads an answer: the framing of the loop, the event splitter, the parser.

    python scripts/fuzz_stream.py --seconds 30
    python scripts/fuzz_stream.py --seed 12345 --cases 1      # one case again

What must hold for every input: nothing raises but BadHttp from the framing; every answer ends ok or with a kind of
error; wherever the bytes were cut into reads, the verdict, the tokens and the events are the same; and what was not
mutated is understood whole. Exit code 1 and the case's seed where one of these does not hold.
"""

from __future__ import annotations

import argparse
import json
import random
import secrets
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from bench.load.answer import Answer, EventLog
from bench.load.framing import BadHttp, Framing
from bench.load.outcome import End, ErrorKind, Status

BITES = (
    *(
        b"\r",
        b"\n",
        b"\r\n",
        b"\n\n",
        b"\r\n\r\n",
        b"0\r\n\r\n",
        b"data: ",
        b"data: [DONE]\n\n",
        b"event: error\n",
        b":",
    ),
    *(
        b"\xff",
        b"\xef\xbb\xbf",
        b"\xe2\x82",
        b"\x00",
        b"{",
        b"}",
        b'"',
        b"\\u",
        b"[]",
        b"null",
        b"-1",
        b"1e999",
        b"ffff\r\n",
    ),
    *(b"HTTP/1.1 200 OK\r\n\r\n", b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b" ", b";x", b"9" * 30),
    *(
        b'"usage":{"completion_tokens":3}',
        b'"error":{"message":"x"},',
        b'"finish_reason":"stop"',
        b'"token_ids":[1,2],',
    ),
)
TEXTS = ("a", " word", "", " zwölf €", "\n", '"', "\\", "data: x", "[DONE]", "😀", " x" * 40)


@dataclass(frozen=True, kw_only=True)
class Stream:
    """An answer as a server would send it. `tokens` is what a reader must count; None after a mutation."""

    wire: bytes
    tokens: int | None


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What was made of an answer."""

    status: Status
    kind: ErrorKind | None
    tokens: int | None
    finish: str | None
    events: tuple[tuple[int, int], ...]
    """(bytes, tokens) of each token-bearing event."""


# ---- streams as engines send them


def completion(text: str, finish: str | None, dice: random.Random) -> dict[str, Any]:
    extra: dict[str, Any] = dice.choice([{}, {"logprobs": None}, {"stop_reason": None}])
    return {
        "id": "cmpl-7",
        "object": "text_completion",
        "choices": [{"index": 0, "text": text, **extra, "finish_reason": finish}],
    }


def chat(text: str, finish: str | None, dice: random.Random) -> dict[str, Any]:
    name = dice.choice(["content", "content", "reasoning_content", "reasoning", "tool_calls"])
    value: Any = [{"index": 0, "function": {"arguments": text}}] if name == "tool_calls" else text
    return {
        "id": "chatcmpl-7",
        "object": "chat.completion.chunk",
        "choices": [{"index": 0, "delta": {name: value} if text else {}, "finish_reason": finish}],
    }


def events_of(dice: random.Random) -> tuple[list[bytes], int]:
    """The events of a whole answer, and how many tokens its usage reports."""
    make: Callable[[str, str | None, random.Random], dict[str, Any]] = dice.choice([completion, chat])
    texts = [dice.choice(TEXTS) for _ in range(dice.randrange(1, 12))]
    running = dice.random() < 0.2
    values: list[dict[str, Any]] = []
    counted = 0
    if make is chat:
        values.append({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]})
    for text in texts:
        value = make(text, None, dice)
        counted += 1
        if running:
            value["usage"] = {"prompt_tokens": 4, "completion_tokens": counted}
        values.append(value)
    usage = {"prompt_tokens": 4, "completion_tokens": counted}
    last = make("", "length", dice)
    if dice.random() < 0.5:
        values.append({**last, "usage": usage})
    else:
        values += [last, {"choices": [], "usage": usage}]
    ascii_only = dice.random() < 0.5
    datas = [
        json.dumps(value, ensure_ascii=ascii_only, separators=dice.choice([(",", ":"), (", ", ": ")]))
        for value in values
    ]
    if dice.random() < 0.8:
        datas.append("[DONE]")
    return [b"data: " + data.encode() + b"\n\n" for data in datas], counted


def head_of(dice: random.Random, *headers: bytes) -> bytes:
    early = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" if dice.random() < 0.1 else b""
    return early + b"\r\n".join([b"HTTP/1.1 200 OK", b"Content-Type: text/event-stream", *headers]) + b"\r\n\r\n"


def pieces_of(body: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted({cut for cut in cuts if 0 < cut < len(body)}), len(body)]
    return [body[start:end] for start, end in pairwise(edges)]


def chunked(bodies: list[bytes], dice: random.Random) -> bytes:
    ending = dice.choice([b"0\r\n\r\n", b"0\r\n\r\n", b"0;last\r\nX-Trailer: 1\r\n\r\n"])
    form = dice.choice(["%x\r\n", "%x\r\n", "%X\r\n", "%04x\r\n", "%x;ext=1\r\n"])
    return b"".join((form % len(body)).encode() + body + b"\r\n" for body in bodies if body) + ending


def stream_of(dice: random.Random) -> Stream:
    """A valid answer in some dialect, framed in some way."""
    events, counted = events_of(dice)
    line_end = dice.choice([b"\n", b"\n", b"\n", b"\r\n", b"\r"])
    if line_end != b"\n":
        events = [event.replace(b"\n", line_end) for event in events]
    if dice.random() < 0.2:
        events.insert(dice.randrange(len(events)), b": keep-alive" + 2 * line_end)
    whole = b"".join(events)
    framing = dice.randrange(4)
    if framing == 0:
        wire = head_of(dice, b"Content-Length: %d" % len(whole)) + whole
    elif framing == 1:
        wire = head_of(dice, b"Connection: close") + whole
    elif framing == 2:
        cuts = [dice.randrange(len(whole)) for _ in range(dice.randrange(6))]
        wire = head_of(dice, b"Transfer-Encoding: chunked") + chunked(pieces_of(whole, cuts), dice)
    else:
        wire = head_of(dice, b"transfer-encoding: Chunked") + chunked(events, dice)
    return Stream(wire=wire, tokens=counted)


# ---- what goes wrong with them


def mutated(stream: Stream, dice: random.Random) -> Stream:
    data = bytearray(stream.wire)
    for _ in range(dice.randrange(1, 5)):
        if not data:
            break
        at = dice.randrange(len(data))
        span = dice.randrange(1, 1 + min(60, len(data)))
        action = dice.randrange(6)
        if action == 0:
            data[at] = dice.randrange(256)
        elif action == 1:
            data[at:at] = dice.choice(BITES)
        elif action == 2:
            bite = dice.choice(BITES)
            data[at : at + len(bite)] = bite
        elif action == 3:
            del data[at : at + span]
        elif action == 4:
            data[at:at] = data[max(0, at - span) : at]
        else:
            del data[at:]
    return Stream(wire=bytes(data), tokens=None)


# ---- what the client does with them


def seen(reads: list[bytes]) -> Seen:
    """As the loop and the digest do it: follow the framing to the end, then parse what was recorded."""
    framing, recorded = Framing(), []
    end: str = ""
    for data in reads:
        recorded.append(data)
        try:
            whole = framing.feed(data)
        except BadHttp:
            end = ErrorKind.bad_http
            break
        if whole:
            end = End.complete
            break
    end = end or (End.eof if framing.status else ErrorKind.reset)
    log = EventLog()
    answer = Answer(1, log)
    for number, data in enumerate(recorded):
        answer.feed(data, 0, number + 1)
    status, kind, message = answer.finish(end)
    assert (kind is None) == (status is Status.ok), (status, kind, message)
    assert isinstance(message, str)
    events = tuple(zip(log.column(3), log.column(4), strict=True))
    assert len(events) == answer.events
    return Seen(status=status, kind=kind, tokens=answer.output_tokens, finish=answer.finish_reason, events=events)


def check(seed: int) -> ErrorKind | None:
    """One case. Raises AssertionError, or whatever the readers raised, when something does not hold."""
    dice = random.Random(seed)
    stream = stream_of(dice)
    if dice.random() < 0.8:
        stream = mutated(stream, dice)
    wire = stream.wire
    whole = seen([wire] if wire else [])
    if stream.tokens is not None:
        assert (whole.status, whole.tokens, whole.finish) == (Status.ok, stream.tokens, "length"), whole
    ways = [[dice.randrange(1 + len(wire)) for _ in range(dice.randrange(1, 9))] for _ in range(3)]
    ways += [[at for at in range(1, len(wire)) if wire[at - 1 : at] == b"\n"], list(range(len(wire)))]
    for cuts in ways:
        again = seen(pieces_of(wire, cuts) if wire else [])
        if whole.kind is ErrorKind.bad_http:
            assert again.kind is ErrorKind.bad_http, (whole, again)
        else:
            assert again == whole, (whole, again)
    return whole.kind


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--seed", type=int, help="of the first case; each case has the next one (default: drawn)")
    parser.add_argument("--cases", type=int, help="stop after so many")
    options = parser.parse_args()
    first = secrets.randbelow(2**40) if options.seed is None else options.seed
    print(f"first seed {first}", flush=True)
    kinds: Counter[str] = Counter()
    until, cases = time.monotonic() + options.seconds, 0
    while time.monotonic() < until and cases != options.cases:
        try:
            kinds[check(first + cases) or "ok"] += 1
        except Exception as error:
            print(f"seed {first + cases}: {type(error).__name__}: {error}", file=sys.stderr)
            print(f"again: python scripts/fuzz_stream.py --seed {first + cases} --cases 1", file=sys.stderr)
            raise
        cases += 1
    print(f"{cases} cases: " + ", ".join(f"{count} {kind}" for kind, count in kinds.most_common()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
