"""One answer, understood after the run: HTTP by httptools, JSON by orjson, events by SseSplitter, dialects here."""

from __future__ import annotations

from array import array
from typing import Any

import httptools
import orjson

from bench.load.outcome import End, ErrorKind, Status
from bench.load.sse import Event, SseSplitter

_MESSAGE_LIMIT = 300
_TEXT_DELTAS = ("content", "reasoning_content", "reasoning", "refusal")


class EventLog:
    """Token-bearing events of all answers of one worker as columns, in the order their last byte was read.

    `tokens` is -1 where the stream did not say how many tokens an event carried.
    """

    def __init__(self) -> None:
        self.slot = array("I")
        self.kernel_ns = array("q")
        """CLOCK_REALTIME stamp of the read that completed the event; 0: none."""
        self.user_ns = array("q")
        self.size = array("I")
        self.tokens = array("i")

    def add(self, slot: int, kernel_ns: int, user_ns: int, size: int, tokens: int) -> None:
        self.slot.append(slot)
        self.kernel_ns.append(kernel_ns)
        self.user_ns.append(user_ns)
        self.size.append(size)
        self.tokens.append(tokens)


class Answer:
    """Takes the reads of one exchange in order; `finish` says how it ended."""

    def __init__(self, slot: int, log: EventLog) -> None:
        self.slot = slot
        self.scheduled_ns = 0
        self.taken_ns = 0
        self.sent_ns = 0
        self.left = (0, 0)
        """When the kernel handed the request's last byte to the device, CLOCK_REALTIME ns (0: not told), and when that
        was asked for, CLOCK_MONOTONIC ns."""
        self.events = 0
        self.prompt_tokens: int | None = None
        self.cached_tokens: int | None = None
        self.output_tokens: int | None = None
        self.finish_reason: str | None = None
        self.http_status: int | None = None
        self.last_kernel_ns = 0
        self.last_user_ns = 0
        self.token_reads = 0
        self.coalesced_reads = 0
        self._log = log
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

    def feed(self, data: bytes, kernel_ns: int, user_ns: int) -> None:
        """The bytes of one read and when they came."""
        self.last_kernel_ns, self.last_user_ns = kernel_ns, user_ns
        before = self.events
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._blame(ErrorKind.bad_http, str(error))
        if self.events > before:
            self.token_reads += 1
            self.coalesced_reads += self.events > before + 1

    # ---- called by httptools

    def on_header(self, name: bytes, value: bytes) -> None:
        lowered = name.lower()
        if lowered == b"content-length" or (lowered == b"transfer-encoding" and b"chunked" in value.lower()):
            self._delimited = True

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status >= 200:
            self.http_status = status

    def on_body(self, body: bytes) -> None:
        if not self._any_event:
            self._opening += body[: 4 * _MESSAGE_LIMIT - len(self._opening)]
        if self.http_status is None or self.http_status >= 300:
            return
        for event in self._splitter.feed(body):
            self._event(event)

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
            return
        if kind == b"error" or value.get("error") is not None:
            self._blame(ErrorKind.stream_error, _error_text(value))
            return
        usage = value.get("usage")
        total = self._usage(usage) if isinstance(usage, dict) else None
        choices = value.get("choices")
        if not choices:
            return
        try:
            choice = choices[0]
            if choice.get("finish_reason"):
                self.finish_reason = str(choice["finish_reason"])
            carries = choice.get("text") or _carries(choice.get("delta"))
            ids = choice.get("token_ids")
        except (AttributeError, TypeError, KeyError, IndexError) as error:
            self._blame(ErrorKind.bad_json, f"unexpected shape ({error}): {data[:80]!r}")
            return
        if carries:
            self.events += 1
            tokens = len(ids) if ids else self._fresh_tokens(total)
            self._log.add(self.slot, self.last_kernel_ns, self.last_user_ns, size, tokens)

    def _usage(self, usage: dict[str, Any]) -> int | None:
        """Note the usage so far; the completion tokens in it."""
        self.prompt_tokens = _count(usage.get("prompt_tokens"), self.prompt_tokens)
        details = usage.get("prompt_tokens_details")
        if isinstance(details, dict):
            self.cached_tokens = _count(details.get("cached_tokens"), self.cached_tokens)
        total = _count(usage.get("completion_tokens"), None)
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


def _carries(delta: Any) -> bool:
    """Whether a chat delta carries content, reasoning, a refusal or a tool call; the opening role delta does not."""
    if not delta:
        return False
    return any(delta.get(name) for name in _TEXT_DELTAS) or bool(delta.get("tool_calls"))


def _count(value: Any, otherwise: int | None) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else otherwise


def _error_text(value: dict[str, Any]) -> str:
    error = value.get("error", value)
    message = error.get("message") if isinstance(error, dict) else error
    return str(message if message is not None else error)


def _explain(kind: ErrorKind, body: bytes) -> str:
    return body.decode(errors="replace").strip()[:_MESSAGE_LIMIT] if kind is ErrorKind.not_a_stream else ""
