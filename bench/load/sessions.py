"""Sessions during a run: answers become part of the bodies of later turns, understood beside the loop.

The loop hands over the reads of an ended answer and goes on; a thread makes its text, and a descriptor wakes the loop
when the next turn can leave. The thread gives the interpreter back within SWITCH_S whenever the loop wants it.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

import httptools
import orjson

from bench.load.config import Api
from bench.load.dialect import as_openai
from bench.load.outcome import End
from bench.load.payload import spoken
from bench.load.sse import SseSplitter

SWITCH_S = 100e-6

Heard = tuple[int, bytes | None]
"""(slot, what its session's later bodies get in addition; None: the answer cannot be used)"""


class Sessions:
    """What was said in the sessions that are under way. `own_part(slot)` is the turn's own part of its body.

    `descriptor` is readable when `heard` has something. Leave with `close`.
    """

    def __init__(self, api: Api, own_part: Callable[[int], bytes]) -> None:
        self._api = api
        self._own_part = own_part
        self._ended: SimpleQueue[tuple[int, list[bytes], str] | None] = SimpleQueue()
        self._understood: SimpleQueue[Heard] = SimpleQueue()
        self._said: dict[int, bytes] = {}
        self.descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        sys.setswitchinterval(SWITCH_S)
        self._thread = threading.Thread(target=self._understand, name="sessions", daemon=True)
        self._thread.start()

    def earlier(self, session: int) -> bytes:
        """What goes before the present turn of a session."""
        return self._said.get(session, b"")

    def ended(self, slot: int, reads: list[bytes], end: str) -> None:
        """The answer in `slot` is complete, or over."""
        self._ended.put((slot, reads, end))

    def heard(self) -> list[Heard]:
        """What was understood since the last call."""
        os.eventfd_read(self.descriptor)
        found = []
        while not self._understood.empty():
            found.append(self._understood.get())
        return found

    def keep(self, session: int, said: bytes) -> None:
        """Add to what was said in a session."""
        self._said[session] = self._said.get(session, b"") + said

    def forget(self, session: int) -> None:
        """The session is over."""
        self._said.pop(session, None)

    def close(self) -> None:
        self._ended.put(None)
        self._thread.join()
        os.close(self.descriptor)

    def _understand(self) -> None:
        while (item := self._ended.get()) is not None:
            slot, reads, end = item
            said = None
            # Whatever an answer holds, its session is over rather than the run: nothing else would wake the loop.
            with contextlib.suppress(Exception):
                text = answer_text(reads) if end in (End.complete.value, End.eof.value) else None
                said = None if text is None else spoken(self._api, self._own_part(slot), text)
            self._understood.put((slot, said))
            os.eventfd_write(self.descriptor, 1)


def answer_text(reads: list[bytes]) -> str | None:
    """The content of a streamed answer without its reasoning; None where it did not come to a proper end."""
    body = _Body()
    parser = httptools.HttpResponseParser(body)
    splitter = SseSplitter()
    texts: list[str] = []
    finished = False
    try:
        for read in reads:
            parser.feed_data(read)
        if parser.get_status_code() != 200:
            return None
        for kind, data, _ in [*splitter.feed(b"".join(body.parts)), *splitter.close()]:
            if data == b"[DONE]":
                continue
            value: Any = orjson.loads(data)
            if kind == b"error" or value.get("error") is not None:
                return None
            for choice in as_openai(value).get("choices", [])[:1]:
                delta = choice.get("delta") or {}
                texts.append(choice.get("text") or delta.get("content") or "")
                finished = finished or bool(choice.get("finish_reason"))
        return "".join(texts) if finished else None
    except (httptools.HttpParserError, ValueError, AttributeError, TypeError):
        return None


class _Body:
    def __init__(self) -> None:
        self.parts: list[bytes] = []

    def on_body(self, body: bytes) -> None:
        self.parts.append(body)
