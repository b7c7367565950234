"""From recordings to columns and Parquet: what repeats is understood as if it had been parsed, pieces fit together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.load import columns, parquet
from bench.load.answer import Answer, EventLog
from bench.load.columns import ERROR_KINDS, MISSING, Spool
from bench.load.digest import digest
from bench.load.outcome import End, ErrorKind, Status
from bench.load.parquet import read_events, read_table, write_parquet
from bench.load.segments import CLOCK, DATA, END, NO_STAMP, PAIR, SENT, START, SegmentWriter
from bench.load.table import Table, make_events, make_table
from tests.unit.load.timelines import request, tables

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
END_OF_ANSWER = b"0\r\n\r\n"
OFFSET_NS = 1_700_000_000_000_000_000


def chunk(body: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(body), body)


def event(value: Any) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def text(word: str, finish: str | None = None, **more: Any) -> bytes:
    return event({"id": "x", "choices": [{"index": 0, "text": word, "finish_reason": finish}], "usage": None, **more})


def delta(finish: str | None = None, **content: Any) -> bytes:
    return event({"id": "x", "choices": [{"index": 0, "delta": content, "finish_reason": finish}]})


USAGE = event({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 40}})

STREAMS = {
    "words": [*(text(f" word{number}") for number in range(40)), text("", "stop"), USAGE],
    "escapes": [text(word) for word in (" a", ' "', "\n", "\\", " ü", " b", " c", "\t", " d", "]}", " e")],
    "reasoning": [
        delta(role="assistant", content=""),
        *(delta(reasoning_content=f" think{number}") for number in range(9)),
        *(delta(content=f" say{number}") for number in range(9)),
        delta("stop"),
    ],
    "clock": [text(f" w{number}", created=number // 3) for number in range(30)],
    "running usage": [text(" w", usage={"completion_tokens": number + 1}) for number in range(9)],
    "finish with text": [text(" a"), text(" b"), text(" c"), text(" d", "length"), text(" e")],
    "both": [delta(content=" a", reasoning=" b"), delta(content=" a"), delta(content=" c"), delta(content=" d")],
    "tool": [
        delta(content=" a"),
        delta(content=" b", tool_calls=[{"function": {"arguments": '"text": "x"'}}]),
        delta(content=" c"),
        delta(tool_calls=[{"function": {"arguments": "content"}}]),
    ],
    "error": [text(" a"), text(" b"), text(" c"), event({"error": {"message": "lost"}}), text(" d")],
    "not quite": [text(" a"), text(" b"), text(" c").replace(b'"text"', b'"test"'), text(" d"), text("")],
    "broken": [text(" a"), text(" b"), text(" c").replace(b"}]", b"]"), text(" d")],
}


def understood(reads: list[bytes], *, learns: bool, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, ...]:
    with monkeypatch.context() as patch:
        if not learns:
            patch.setattr(Answer, "_learn", lambda *_: None)
        log = EventLog()
        answer = Answer(9, log)
        for number, data in enumerate(reads, start=1):
            answer.feed(data, number, number * 10)
        verdict = answer.finish(End.complete)
    seen = (answer.events, answer.reasoning_events, answer.token_reads, answer.coalesced_reads, answer.finish_reason)
    stamps = (answer.first_token, answer.first_answer, answer.last_token)
    return (verdict, seen, stamps, answer.output_tokens, log.flat.tolist())


@pytest.mark.parametrize("name", STREAMS)
def test_what_repeats_is_understood_as_if_parsed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    chunks = [chunk(body) for body in STREAMS[name]]
    whole = HEAD + b"".join(chunks) + END_OF_ANSWER
    ways = [[HEAD, *chunks, END_OF_ANSWER]]
    ways += [[HEAD + chunks[0], *(b"".join(chunks[at : at + 2]) for at in range(1, len(chunks), 2)), END_OF_ANSWER]]
    ways += [[whole[start : start + size] for start in range(0, len(whole), size)] for size in (1, 7, 97, 150)]
    shifted = b"".join(chunks)
    step = len(chunks[1])
    ways += [
        [HEAD, shifted[:cut], *(shifted[at : at + step] for at in range(cut, len(shifted), step)), END_OF_ANSWER]
        for cut in range(1, len(chunks[0]) + 3)
    ]
    bad_size = chunk(STREAMS[name][2]).replace(b"\r\n", b"z\r\n", 1)
    ways += [[HEAD, *chunks[:2], bad_size, *chunks[2:]]]
    for reads in ways:
        assert understood(reads, learns=True, monkeypatch=monkeypatch) == understood(
            reads, learns=False, monkeypatch=monkeypatch
        )


def test_plain_words_are_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[bytes] = []
    plain = Answer._choices

    def noted(self: Answer, choices: Any, total: int | None, data: bytes, size: int) -> None:
        parsed.append(data)
        plain(self, choices, total, data, size)

    monkeypatch.setattr(Answer, "_choices", noted)
    understood([HEAD, *(chunk(body) for body in STREAMS["words"]), END_OF_ANSWER], learns=True, monkeypatch=monkeypatch)
    assert len(parsed) == 2, "the first, and the one with the finish reason"


def record(folder: Path, requests: int, tokens: int) -> None:
    """Requests one after another, 10 ms a token; the last one is cut off. Every third event has no stamp."""
    writer = SegmentWriter(folder, "worker0", segment_bytes=256 * 1024)
    ns = 1_000_000_000
    writer.mark(CLOCK, 0, ns, stamp=PAIR.pack(ns + OFFSET_NS, 100))
    for slot in range(requests):
        writer.mark(START, slot, ns, stamp=PAIR.pack(ns - 5, 0))
        writer.mark(SENT, slot, ns + 1)
        for number in range(tokens):
            ns += 10_000_000
            data = (HEAD if not number else b"") + chunk(text(f" w{number}"))
            stamp = NO_STAMP if number % 3 == 2 else PAIR.pack(*divmod(ns - 1000 + OFFSET_NS, 1_000_000_000))
            writer.mark(DATA, slot, ns, stamp=stamp, payload=data)
            writer.commit()
        if slot + 1 < requests:
            writer.mark(END, slot, ns + 7, payload=ErrorKind.reset.value.encode())
    writer.mark(CLOCK, 0, ns, stamp=PAIR.pack(ns + OFFSET_NS, 100))
    writer.close()


@pytest.mark.parametrize("rows", [1 << 17, 7])
def test_a_recording_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    monkeypatch.setattr(columns, "_CHUNK_ROWS", rows)
    record(tmp_path, 40, 50)
    assert len(list(tmp_path.glob("*.seg"))) > 1
    counts = digest(tmp_path, "worker0", unfinished=End.cancelled.value)
    assert (counts["reads"], counts["unstamped_reads"], counts["token_reads"]) == (2000, 640, 2000)
    found, events = (np.load(tmp_path / f"worker0.{name}.npy") for name in ("requests", "events"))
    assert found["slot"].tolist() == list(range(40))
    assert [columns.STATUSES[code] for code in found["status"][[0, 39]]] == [Status.error, Status.cancelled]
    assert ERROR_KINDS[found["error"][0]] == ErrorKind.reset
    assert (found["first_token_ns"] - found["taken_ns"] == 10_000_000 - 1000).all()
    assert (found["last_token_ns"] - found["first_token_ns"] == 49 * 10_000_000).all()
    assert (found["sent_kernel_ns"] == MISSING).all()
    assert events["slot"].tolist() == np.repeat(np.arange(40), 50).tolist()
    expected = 1_000_000_000 + 10_000_000 * np.arange(1, 2001)
    assert (expected - events["ns"]).tolist() == [0 if number % 50 % 3 == 2 else 1000 for number in range(2000)]
    assert np.load(tmp_path / "worker0.delays.npy").tolist() == [1000] * 1360
    assert not list(tmp_path.glob("*.tmp"))


def test_a_spool_gives_back_what_it_took(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "x", 2)
    spool.row.extend((1, 2, 3, 4))
    spool.flush()
    spool.row.extend((5, 6))
    assert np.concatenate(list(spool.chunks())).tolist() == [[1, 2], [3, 4], [5, 6]]
    spool.close()
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("group", [1 << 17, 3])
def test_parquet_gives_back_what_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group: int) -> None:
    monkeypatch.setattr(parquet, "_GROUP_ROWS", group)
    requests = [request(slot, 100 * slot, [50, 10, 10], token_counts=[1, -1, 2]) for slot in range(8)]
    requests[5] = request(5, 500, [], status="error", error_kind="reset", output_tokens=None, finish="stop")
    table, events = tables(requests, warmup=1)
    table = Table(**{**vars(table), "messages": {5: "gone"}})
    write_parquet(table, events, tmp_path, scenario="c1", repeat=0)
    again, events_again = read_table(tmp_path), read_events(tmp_path)
    for name in Table.__dataclass_fields__:
        if name not in ("finish", "finish_reasons", "messages"):
            np.testing.assert_array_equal(getattr(again, name), getattr(table, name), err_msg=name)
    for name in ("slot", "ns", "bytes", "tokens"):
        np.testing.assert_array_equal(getattr(events_again, name), getattr(events, name), err_msg=name)
    assert again.messages == {5: "gone"}
    assert [again.finish_reasons[code] for code in again.finish] == [
        table.finish_reasons[code] for code in table.finish
    ]


def test_workers_are_merged_by_slot() -> None:
    first, second = (np.zeros(2, dtype=columns.REQUEST_DTYPE) for _ in range(2))
    first["slot"], second["slot"] = (0, 2), (1, 3)
    first["finish"], second["finish"] = (0, MISSING), (1, 0)
    table = make_table([first, second], warmup=1, finish_reasons=[["stop"], ["length", "stop"]])
    assert (table.slot.tolist(), table.worker.tolist()) == ([0, 1, 2, 3], [0, 1, 0, 1])
    assert [None if code == MISSING else table.finish_reasons[code] for code in table.finish] == [
        *("stop", "stop", None, "length"),
    ]
    assert table.main.tolist() == [False, True, True, True]
    parts = [np.array([(2, 5, 1, 1), (0, 6, 1, 1), (2, 7, 1, 1)], dtype=columns.EVENT_DTYPE)]
    events = make_events([*parts, np.array([(1, 1, 1, 1)], dtype=columns.EVENT_DTYPE)])
    assert list(zip(events.slot.tolist(), events.ns.tolist(), strict=True)) == [(0, 6), (1, 1), (2, 5), (2, 7)]
