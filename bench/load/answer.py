"""One answer, understood after the run: HTTP by httptools, JSON by orjson, events by SseSplitter, dialects here."""

from __future__ import annotations

import re
from array import array
from typing import Any

import httptools
import orjson

from bench.load.dialect import Carried, as_openai, carried, count, error_text
from bench.load.outcome import End, ErrorKind, Status
from bench.load.sse import Event, SseSplitter

_MESSAGE_LIMIT = 300
_DATA = b"data: "
_OTHER_TEXT = b"another text"
#: Printable ASCII without the quote and the backslash: what a JSON string may hold as it is.
_PLAIN = re.compile(rb"[ !#-\[\]-~]+").fullmatch
_HEX = re.compile(rb"[0-9a-fA-F]+").fullmatch
_TEXT = re.compile(rb'"(?:text|content|refusal|reasoning_content|reasoning)" ?: ?"([ !#-\[\]-~]+)"')


def _texts(data: bytes) -> list[tuple[int, int]]:
    return [match.span(1) for match in _TEXT.finditer(data)]


class EventLog:
    """Token-bearing events of all answers of one worker, in the order their last byte was read: a flat array of rows
    (slot, kernel ns, user ns, bytes, tokens).

    kernel ns is the CLOCK_REALTIME stamp of the read that completed the event (0: none), user ns when that read
    returned. tokens is -1 where the stream did not say how many tokens an event carried.
    """

    WIDTH = 5

    def __init__(self, flat: array[int] | None = None) -> None:
        self.flat: array[int] = array("q") if flat is None else flat

    def column(self, number: int) -> list[int]:
        """One column of what the array holds at the moment."""
        return self.flat[number :: self.WIDTH].tolist()


class Answer:
    """Takes the reads of one exchange in order; `finish` says how it ended.

    A stream repeats itself: most HTTP chunks are one event that differs from an earlier one in its text alone. From an
    event that was parsed, what stands before and behind its text is kept; a chunk that begins and ends so, with plain
    text between, needs no parser to be understood. Everything else goes through httptools and orjson.
    """

    def __init__(self, slot: int, log: EventLog) -> None:
        self.slot = slot
        self.scheduled_ns = 0
        self.taken_ns = 0
        self.sent_ns = 0
        self.left = (0, 0)
        """When the kernel handed the request's last byte to the device, CLOCK_REALTIME ns (0: not told), and when that
        was asked for, CLOCK_MONOTONIC ns."""
        self.events = 0
        self.first_token = self.first_answer = self.last_token = (0, 0)
        """(kernel ns, user ns) of the reads that brought the first event with tokens, the first that is no reasoning,
        and the last; (0, 0) where there is none."""
        self.reasoning_events = 0
        self.prompt_tokens: int | None = None
        self.cached_tokens: int | None = None
        self.output_tokens: int | None = None
        self.finish_reason: str | None = None
        self.http_status: int | None = None
        self.last_kernel_ns = 0
        self.last_user_ns = 0
        self.token_reads = 0
        """Stamps that came with tokens (reads, those of one packet counted once); those that several events share."""
        self.coalesced_reads = 0
        self._stamp = 0
        self._shared = False
        """Whether several events share the last stamp."""
        self._add = log.flat.extend
        self._parser = httptools.HttpResponseParser(self)
        self._splitter = SseSplitter()
        self._tokens_seen = 0
        self._usage_runs_along = True
        self._delimited = False
        self._done_marker = False
        self._any_event = False
        self._fault: ErrorKind | None = None
        self._message = ""
        self._opening = b""
        self._between_chunks = False
        self._whole = False
        """The answer's framing has ended: what follows is not of it."""
        self._learnt = b""
        """What stands before the text of an event, from `data: ` on."""
        self._before = b""
        """The same while between two chunks and two events, else empty."""
        self._behind = b""
        self._reasons = False
        self._patience = 1
        self._learn_at = 1

    def feed(self, data: bytes, kernel_ns: int, user_ns: int) -> None:
        """The bytes of one read and when they came."""
        self.last_kernel_ns = kernel_ns
        self.last_user_ns = user_ns
        events, before, position = self.events, self._before, 0
        if before:
            behind, skipped, cut, length = self._behind, len(before), len(self._behind), len(data)
            while True:  # a chunk a round, mostly the only one
                start = data.find(b"\n", position + 1, position + 8) + 1
                size = data[position : start - 2]
                if not data.startswith(before, start) or _HEX(size) is None:
                    break
                body = int(size, 16)
                end = start + body + 2
                if not data.endswith(behind, start, end) or not _PLAIN(data, start + skipped, end - cut):
                    break
                self.events += 1
                self._add((self.slot, kernel_ns, user_ns, body, -1))
                position = end
                if end == length:
                    break
            if position:
                self.reasoning_events += self._reasons * (self.events - events)
                self._usage_runs_along = False
                self._patience = 1
                self.last_token = (kernel_ns, user_ns)
        if not position:
            self._feed_parsers(data)
        elif position < len(data):
            self._feed_parsers(data[position:])
        if self.events > events:
            if kernel_ns and kernel_ns == self._stamp:  # of one packet, read in parts
                self.coalesced_reads += not self._shared
                self._shared = True
            else:
                self.token_reads += 1
                self._stamp, self._shared = kernel_ns, self.events > events + 1
                self.coalesced_reads += self._shared

    def _feed_parsers(self, data: bytes) -> None:
        self._before = b""
        if self._whole:
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._between_chunks = False
            if not self._whole:
                self._blame(ErrorKind.bad_http, str(error))
        if self._learnt and self._between_chunks and self._splitter.idle:
            self._before = self._learnt

    # ---- called by httptools

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._whole:
            return
        lowered = name.lower()
        if lowered == b"content-length" or (lowered == b"transfer-encoding" and b"chunked" in value.lower()):
            self._delimited = True

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status >= 200 and not self._whole:
            self.http_status = status

    def on_chunk_header(self) -> None:
        self._between_chunks = False

    def on_chunk_complete(self) -> None:
        self._between_chunks = True

    def on_message_complete(self) -> None:
        self._between_chunks = False
        self._whole = self.http_status is not None

    def on_body(self, body: bytes) -> None:
        if self._whole:
            return
        if not self._any_event:
            self._opening += body[: 4 * _MESSAGE_LIMIT - len(self._opening)]
        if self.http_status is None or self.http_status >= 300:
            return
        for event in self._splitter.feed(body):
            self._event(event)
        if self._splitter.too_large:
            self._blame(ErrorKind.too_large, "an event of more than 16 MiB")

    # ---- the dialects

    def _event(self, event: Event) -> None:
        kind, data, size = event
        self._any_event = True
        if data == b"[DONE]":
            self._done_marker = True
            return
        try:
            value = orjson.loads(data)
        except orjson.JSONDecodeError as error:
            if kind == b"error":
                self._blame(ErrorKind.stream_error, data.decode(errors="replace"))
            else:
                self._blame(ErrorKind.bad_json, f"{error}: {data[:80]!r}")
            return
        if not isinstance(value, dict):
            self._blame(ErrorKind.bad_json, f"not an object: {data[:80]!r}")
        elif kind == b"error" or value.get("error") is not None:
            self._blame(ErrorKind.stream_error, error_text(value))
        else:
            value = as_openai(value)
            usage = value.get("usage")
            total = self._usage(usage) if isinstance(usage, dict) else None
            if value.get("choices"):
                self._choices(value["choices"], total, data, size)

    def _choices(self, choices: Any, total: int | None, data: bytes, size: int) -> None:
        """An event with choices; `total` are the completion tokens of its usage."""
        try:
            choice = choices[0]
            finish = choice.get("finish_reason")
            carries = carried(choice)
            ids = choice.get("token_ids")
        except (AttributeError, TypeError, KeyError, IndexError) as error:
            self._blame(ErrorKind.bad_json, f"unexpected shape ({error}): {data[:80]!r}")
            return
        if finish:
            self.finish_reason = str(finish)
        if carries is None:
            return
        at = (self.last_kernel_ns, self.last_user_ns)
        if not self.events:
            self.first_token = at
        if carries.reasoning:
            self.reasoning_events += 1
        elif self.reasoning_events == self.events:
            self.first_answer = at
        self.events += 1
        self.last_token = at
        tokens = len(ids) if ids else self._fresh_tokens(total)
        self._add((self.slot, *at, size, tokens))
        if self.events >= self._learn_at and tokens == -1 and total is None and not finish:
            self._learn(data, size, carries)

    def _learn(self, data: bytes, size: int, carries: Carried) -> None:
        """Keep what stands around the text of an event, if another text there would mean another text and no more.

        Where that did not help for the last one, wait twice as long before the next attempt.
        """
        if self._learnt and data.startswith(self._learnt[len(_DATA) :]):
            return
        self._learn_at = self.events + self._patience
        self._patience *= 2
        found = _texts(data)
        if size != len(_DATA) + len(data) + 2 or len(found) != 1 or carries.text is None:
            return
        start, end = found[0]
        before, behind = data[:start], data[end:]
        other = carried(orjson.loads(before + _OTHER_TEXT + behind)["choices"][0])
        if other is not None and other.text == _OTHER_TEXT.decode() and other.reasoning == carries.reasoning:
            self._learnt, self._behind = _DATA + before, behind + b"\n\n\r\n"
            self._reasons = carries.reasoning

    def _usage(self, usage: dict[str, Any]) -> int | None:
        """Note the usage so far; the completion tokens in it."""
        self.prompt_tokens = count(usage.get("prompt_tokens"), self.prompt_tokens)
        details = usage.get("prompt_tokens_details")
        if isinstance(details, dict):
            self.cached_tokens = count(details.get("cached_tokens"), self.cached_tokens)
        total = count(usage.get("completion_tokens"), None)
        if total is not None:
            self.output_tokens = total
        return total

    def _fresh_tokens(self, total: int | None) -> int:
        """Tokens since the last event, when every event so far came with a running usage; else -1."""
        if total is None:
            self._usage_runs_along = False
            return -1
        fresh, self._tokens_seen = total - self._tokens_seen, total
        return fresh if self._usage_runs_along and fresh > 0 else -1

    def _blame(self, kind: ErrorKind, message: str) -> None:
        if self._fault is None:
            self._fault = kind
            self._message = message[:_MESSAGE_LIMIT]

    # ---- the verdict

    def finish(self, end: str) -> tuple[Status, ErrorKind | None, str]:
        """(status, error kind, message), given what the hot path saw. A fault told in the bytes goes before."""
        for event in self._splitter.close():
            self._event(event)
        del self._parser  # it refers back to this object
        if end == End.cancelled:
            return Status.cancelled, None, ""
        if self.http_status is not None and self.http_status >= 300:
            text = self._opening.decode(errors="replace").strip()
            return Status.error, ErrorKind.http_error, f"HTTP {self.http_status} {text}"[:_MESSAGE_LIMIT]
        if self._fault is not None:
            return Status.error, self._fault, self._message
        kind = self._kind(end)
        return (Status.ok, None, "") if kind is None else (Status.error, kind, _explain(kind, self._opening))

    def _kind(self, end: str) -> ErrorKind | None:
        if end not in (End.complete, End.eof):
            kind = ErrorKind(end)
            return ErrorKind.first_token_timeout if kind is ErrorKind.stall_timeout and not self.events else kind
        if self.http_status is None:
            return ErrorKind.bad_http
        if end == End.eof and self._delimited:
            return ErrorKind.truncated
        if not self._any_event:
            return ErrorKind.not_a_stream
        if self.finish_reason is None:
            return ErrorKind.early_done if self._done_marker else ErrorKind.truncated
        return None


def _explain(kind: ErrorKind, body: bytes) -> str:
    return body.decode(errors="replace").strip()[:_MESSAGE_LIMIT] if kind is ErrorKind.not_a_stream else ""
