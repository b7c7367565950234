"""Answers in the dialects of the field: tokens, finish, faults, and the same verdict however the bytes were cut."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bench.load.answer import Answer, EventLog
from bench.load.outcome import End, ErrorKind, Status

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def event(value: Any) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def text(value: str, finish: str | None = None, **more: Any) -> bytes:
    return event({"choices": [{"index": 0, "text": value, "finish_reason": finish}], **more})


def delta(value: dict[str, Any], finish: str | None = None) -> bytes:
    return event({"choices": [{"index": 0, "delta": value, "finish_reason": finish}]})


def usage(prompt: int, completion: int, cached: int | None = None) -> dict[str, Any]:
    details = {} if cached is None else {"prompt_tokens_details": {"cached_tokens": cached}}
    return {"usage": {"prompt_tokens": prompt, "completion_tokens": completion, **details}}


DONE = b"data: [DONE]\n\n"
WHOLE = [text("a"), text(" b"), text("", "length"), event({"choices": [], **usage(5, 2, 1)}), DONE]


def chunk(body: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(body), body)


def answer_of(
    reads: list[bytes], end: str = End.complete
) -> tuple[Answer, EventLog, tuple[Status, ErrorKind | None, str]]:
    log = EventLog()
    answer = Answer(9, log)
    for number, data in enumerate(reads, start=1):
        answer.feed(data, 0, number * 10)
    return answer, log, answer.finish(end)


def streamed(
    events: list[bytes], end: str = End.complete
) -> tuple[Answer, EventLog, tuple[Status, ErrorKind | None, str]]:
    return answer_of([HEAD, *(chunk(body) for body in events), b"0\r\n\r\n"], end)


def test_completion_with_usage_in_its_own_event() -> None:
    answer, log, verdict = streamed(WHOLE)
    assert verdict == (Status.ok, None, "")
    assert (answer.prompt_tokens, answer.output_tokens, answer.cached_tokens) == (5, 2, 1)
    assert (answer.events, answer.finish_reason, answer.http_status) == (2, "length", 200)
    assert log.column(2) == [20, 30]
    assert log.column(4) == [-1, -1]


def test_cutting_anywhere_changes_nothing() -> None:
    message = HEAD + b"".join(chunk(body) for body in WHOLE) + b"0\r\n\r\n"
    for cut in range(1, len(message)):
        answer, _, verdict = answer_of([message[:cut], message[cut:]])
        assert verdict[0] is Status.ok
        assert (answer.events, answer.output_tokens) == (2, 2)


def test_usage_on_the_last_chunk_and_no_done() -> None:
    answer, _, verdict = streamed([text("a"), text("b", "stop", **usage(3, 4))])
    assert verdict[0] is Status.ok
    assert (answer.events, answer.output_tokens) == (2, 4)


def test_chat_deltas_that_count() -> None:
    events = [
        delta({"role": "assistant", "content": ""}),
        delta({"reasoning_content": "hm"}),
        delta({"tool_calls": [{"index": 0}]}),
        delta({"content": "yes"}),
        delta({}, "stop"),
    ]
    answer, log, verdict = streamed([*events, DONE])
    assert verdict[0] is Status.ok
    assert answer.events == 3
    assert log.column(2) == [30, 40, 50]


def test_running_usage_tells_tokens_of_every_event() -> None:
    _, log, _ = streamed([text("a", **usage(3, 1)), text("bcd", **usage(3, 4)), text("", "stop", **usage(3, 4)), DONE])
    assert log.column(4) == [1, 3]


def test_token_ids_tell_tokens_of_an_event() -> None:
    body = event({"choices": [{"text": "ab", "token_ids": [4, 5], "finish_reason": "stop"}]})
    assert streamed([body, DONE])[1].column(4) == [2]


def test_missing_usage_stays_missing() -> None:
    answer, _, verdict = streamed([text("a"), text("", "stop"), DONE])
    assert verdict[0] is Status.ok
    assert (answer.output_tokens, answer.prompt_tokens, answer.cached_tokens) == (None, None, None)


def test_coalesced_events_share_a_stamp_and_are_counted() -> None:
    answer, log, _ = answer_of([HEAD + chunk(text("a") + text("b")), chunk(text("", "stop")) + b"0\r\n\r\n"])
    assert log.column(2) == [10, 10]
    assert (answer.token_reads, answer.coalesced_reads) == (1, 1)


def test_a_packet_that_was_read_in_parts_is_one_stamp() -> None:
    answer = Answer(9, EventLog())
    stamps = [5, 5, 6, 7, 7, 7, 0, 0]  # the kernel merged the first two and three in a row; the last have no stamp
    for number, stamp in enumerate(stamps):
        answer.feed((b"" if number else HEAD) + chunk(text("a")), stamp, 100 + number)
    assert (answer.events, answer.token_reads, answer.coalesced_reads) == (8, 5, 2)


@pytest.mark.parametrize(
    ("events", "end", "kind"),
    [
        ([text("a"), event({"error": {"message": "out of luck"}}), DONE], End.complete, ErrorKind.stream_error),
        ([text("a"), b'event: error\ndata: {"message":"out of luck"}\n\n'], End.complete, ErrorKind.stream_error),
        ([text("a"), b'error: {"message":"out of luck"}\n\n'], End.complete, ErrorKind.stream_error),
        ([text("a"), event({"error": {"message": "out of luck"}})], ErrorKind.reset, ErrorKind.stream_error),
        ([text("a"), DONE], End.complete, ErrorKind.early_done),
        ([text("a")], End.complete, ErrorKind.truncated),
        ([text("a"), b"data: {broken\n\n", text("", "stop"), DONE], End.complete, ErrorKind.bad_json),
        (
            [text("a"), b'data: {"choices":[{"text":"\xff"}]}\n\n', text("", "stop"), DONE],
            End.complete,
            ErrorKind.bad_json,
        ),
        ([text("a"), b"data: 17\n\n", text("", "stop"), DONE], End.complete, ErrorKind.bad_json),
        ([text("a"), b'data: {"choices":[3]}\n\n', DONE], End.complete, ErrorKind.bad_json),
        ([text("a")], End.eof, ErrorKind.truncated),
        ([text("a")], ErrorKind.stall_timeout.value, ErrorKind.stall_timeout),
        ([b": ping\n\n"], ErrorKind.stall_timeout.value, ErrorKind.first_token_timeout),
        ([text("a")], ErrorKind.total_timeout.value, ErrorKind.total_timeout),
        ([b"hello"], End.complete, ErrorKind.not_a_stream),
    ],
)
def test_faults_have_their_own_kinds(events: list[bytes], end: str, kind: ErrorKind) -> None:
    reads = [HEAD, *(chunk(body) for body in events)] + ([b"0\r\n\r\n"] if end == End.complete else [])
    status, found, message = answer_of(reads, end)[2]
    assert (status, found) == (Status.error, kind)
    if kind is ErrorKind.stream_error:
        assert "out of luck" in message


def test_http_errors_carry_status_and_body() -> None:
    body = b'{"error":"busy"}'
    reads = [b"HTTP/1.1 503 Busy\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)]
    assert answer_of(reads)[2] == (Status.error, ErrorKind.http_error, 'HTTP 503 {"error":"busy"}')


def test_close_delimited_body_ends_with_the_connection() -> None:
    reads = [b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", text("a"), text("", "stop"), DONE]
    assert answer_of(reads, End.eof)[2][0] is Status.ok
    assert answer_of(reads[:2], End.eof)[2][1] is ErrorKind.truncated


def test_cancelled_is_no_error() -> None:
    assert streamed([text("a")], End.cancelled)[2][0] is Status.cancelled


@pytest.mark.parametrize("surplus", [b"\r\n", b"junk", HEAD + chunk(text("more")) + b"0\r\n\r\n"])
def test_what_follows_an_answer_is_not_of_it(surplus: bytes) -> None:
    for reads in ([b"0\r\n\r\n" + surplus], [b"0\r\n\r\n", surplus]):
        answer, _, verdict = answer_of([HEAD, *(chunk(body) for body in WHOLE), *reads])
        assert verdict[0] is Status.ok
        assert (answer.events, answer.output_tokens) == (2, 2)
