"""From a worker's recording to its requests and events. Runs in the worker at its end, or later from the files.

Leaves, beside the recording: `{stem}.requests.npy` (REQUEST_DTYPE), `{stem}.events.npy` (EVENT_DTYPE),
`{stem}.delays.npy` (int64 ns: user-space minus kernel time of every stamped event) and `{stem}.messages.jsonl` (slot
and message of every failed request); returns counts about the recording. Memory does not grow with the recording: rows
are spooled to files with raw stamps, which are mapped onto CLOCK_MONOTONIC in pieces once all clock pairs are known.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import orjson

from bench.load import segments
from bench.load.answer import Answer, EventLog
from bench.load.clockmap import ClockMap
from bench.load.columns import ERROR_KINDS, EVENT_DTYPE, MISSING, REQUEST_DTYPE, STATUSES, NpyWriter, Spool
from bench.load.outcome import ErrorKind

_REASON_LIMIT = 100
_HEADER = struct.Struct("<BIqqqI")
"""segments.HEADER with the stamp as two numbers."""
_STATUS = {value: number for number, value in enumerate(STATUSES)}
_ERROR = {value: number for number, value in enumerate(ERROR_KINDS)}

_PLAIN = (
    *("slot", "status", "error", "finish", "http_status", "prompt_tokens", "cached_tokens", "output_tokens", "events"),
    *("scheduled_ns", "taken_ns", "sent_ns"),
)
_STAMPED = ("first_token_ns", "first_answer_ns", "last_token_ns", "done_ns")
"""Times of the answer: a pair of columns each, kernel ns and user ns; (0, 0) is missing."""
_ROW_WIDTH = len(_PLAIN) + 2 * len(_STAMPED) + 2  # and the pair of sent_kernel_ns


class _Digest:
    """One pass over a recording, into spools of raw rows."""

    def __init__(self, requests: Spool, events: Spool, messages: BinaryIO, unfinished: str) -> None:
        self.unfinished = unfinished
        self.requests = requests
        self.events = events
        self.messages = messages
        self.log = EventLog(events.row)
        self.open: dict[int, Answer] = {}
        self.pairs: list[tuple[int, int, int]] = []
        self.finish_reasons: dict[str, int] = {}
        self.reads = 0
        self.unstamped = 0
        self.coalesced = 0
        self.token_reads = 0
        self.last_ns = 0

    def run(self, directory: Path, stem: str) -> None:
        for path in segments.segment_paths(directory, stem):
            self._segment(path.read_bytes())
            self.events.flush()
            self.requests.flush()
        for answer in list(self.open.values()):
            self.close(answer, self.unfinished, self.last_ns)

    def _segment(self, content: bytes) -> None:
        unpack_from, header, answers, ns = _HEADER.unpack_from, _HEADER.size, self.open, self.last_ns
        size = len(content)
        position, last, reads, unstamped = 0, size - header, 0, 0
        while position <= last:
            tag, slot, at_ns, first, second, length = unpack_from(content, position)
            start = position + header
            position = start + length
            if not tag or position > size:
                break
            ns = at_ns
            if tag == segments.DATA:
                kernel_ns = first * 1_000_000_000 + second
                reads += 1
                if not kernel_ns:
                    unstamped += 1
                answers[slot].feed(content[start:position], kernel_ns, ns)
            elif tag == segments.START:
                answer = answers[slot] = Answer(slot, self.log)
                answer.scheduled_ns, answer.taken_ns = first, ns
            elif tag == segments.SENT:
                answers[slot].sent_ns = ns
            elif tag == segments.LEFT:
                if slot in answers:  # of the request's last byte, in the end
                    answers[slot].left = (first * 1_000_000_000 + second, ns)
            elif tag == segments.END:
                self.close(answers.pop(slot), content[start:position].decode(), ns)
            elif tag == segments.CLOCK:
                self.pairs.append((ns, first, second))
        self.last_ns = ns
        self.reads += reads
        self.unstamped += unstamped

    def close(self, answer: Answer, end: str, ns: int) -> None:
        status, kind, message = answer.finish(end)
        self.coalesced += answer.coalesced_reads
        self.token_reads += answer.token_reads
        done = (answer.last_kernel_ns, answer.last_user_ns) if answer.last_user_ns else (0, ns)
        self.requests.row.extend(
            (
                answer.slot,
                _STATUS[status],
                MISSING if kind is None else _ERROR[kind],
                self._finish(answer.finish_reason),
                _known(answer.http_status),
                _known(answer.prompt_tokens),
                _known(answer.cached_tokens),
                _known(answer.output_tokens),
                answer.events,
                answer.scheduled_ns,
                answer.taken_ns,
                answer.sent_ns or MISSING,
                *answer.first_token,
                *answer.first_answer,
                *answer.last_token,
                *done,
                *answer.left,
            )
        )
        if message:
            self.messages.write(orjson.dumps([answer.slot, message], option=orjson.OPT_APPEND_NEWLINE))

    def _finish(self, reason: str | None) -> int:
        if reason is None:
            return MISSING
        return self.finish_reasons.setdefault(reason[:_REASON_LIMIT], len(self.finish_reasons))


def _known(value: int | None) -> int:
    return MISSING if value is None else value


class _Stamps:
    """Raw stamps on CLOCK_MONOTONIC: the kernel's time where there is a stamp to be trusted, else user space's."""

    def __init__(self, clock: ClockMap) -> None:
        self.clock = clock
        self.untrusted = 0

    def kernel(
        self, kernel_ns: npt.NDArray[np.int64], user_ns: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """(CLOCK_MONOTONIC ns, whether there was a stamp to be trusted)."""
        mapped, trusted = self.clock.monotonic_ns(kernel_ns, user_ns)
        stamped = kernel_ns != 0
        self.untrusted += int(np.count_nonzero(stamped & ~trusted))
        return mapped, stamped & trusted

    def best(self, kernel_ns: npt.NDArray[np.int64], user_ns: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """CLOCK_MONOTONIC ns; MISSING where there is neither."""
        mapped, usable = self.kernel(kernel_ns, user_ns)
        return np.where(usable, mapped, np.where(user_ns == 0, MISSING, user_ns))


def digest(directory: Path, stem: str, *, unfinished: str = ErrorKind.client.value) -> dict[str, Any]:
    """Parse the recording `stem` in `directory`; see the module's docstring.

    Requests without an end get `unfinished` (a value of End or ErrorKind).
    """
    requests = Spool(directory / f"{stem}.requests.tmp", _ROW_WIDTH)
    events = Spool(directory / f"{stem}.events.tmp", EventLog.WIDTH)
    with (directory / f"{stem}.messages.jsonl").open("wb") as messages:
        pass_ = _Digest(requests, events, messages, unfinished)
        pass_.run(directory, stem)
    stamps = _Stamps(ClockMap(pass_.pairs or [(0, 0, 0)]))
    _write_events(directory, stem, events, stamps)
    _write_requests(directory, stem, requests, stamps)
    return {
        "reads": pass_.reads,
        "unstamped_reads": pass_.unstamped,
        "token_reads": pass_.token_reads,
        "coalesced_reads": pass_.coalesced,
        "clock_stepped": stamps.clock.stepped,
        "clock_uncertainty_ns": stamps.clock.uncertainty_ns,
        "untrusted_stamps": stamps.untrusted,
        "finish_reasons": list(pass_.finish_reasons),
    }


def _write_events(directory: Path, stem: str, spool: Spool, stamps: _Stamps) -> None:
    spool.flush()
    writer = NpyWriter(directory / f"{stem}.events.npy", EVENT_DTYPE, spool.rows)
    stamped_delays = Spool(directory / f"{stem}.delays.tmp", 1)
    for raw in spool.chunks():
        kernel_ns, user_ns = raw[:, 1], raw[:, 2]
        mapped, usable = stamps.kernel(kernel_ns, user_ns)
        piece = np.empty(len(raw), dtype=EVENT_DTYPE)
        piece["slot"], piece["bytes"], piece["tokens"] = raw[:, 0], raw[:, 3], raw[:, 4]
        piece["ns"] = np.where(usable, mapped, user_ns)
        writer.write(piece)
        stamped_delays.row.frombytes((user_ns - mapped)[usable].tobytes())
        stamped_delays.flush()
    writer.close()
    spool.close()
    writer = NpyWriter(directory / f"{stem}.delays.npy", np.int64, stamped_delays.rows)
    for delays in stamped_delays.chunks():
        writer.write(delays)
    writer.close()
    stamped_delays.close()


def _write_requests(directory: Path, stem: str, spool: Spool, stamps: _Stamps) -> None:
    spool.flush()
    writer = NpyWriter(directory / f"{stem}.requests.npy", REQUEST_DTYPE, spool.rows)
    for raw in spool.chunks():
        piece = np.empty(len(raw), dtype=REQUEST_DTYPE)
        for number, name in enumerate(_PLAIN):
            piece[name] = raw[:, number]
        pairs = raw[:, len(_PLAIN) :]
        for number, name in enumerate(_STAMPED):
            piece[name] = stamps.best(pairs[:, 2 * number], pairs[:, 2 * number + 1])
        left, told = stamps.kernel(pairs[:, -2], pairs[:, -1])
        piece["sent_kernel_ns"] = np.where(told, left, MISSING)
        writer.write(piece)
    writer.close()
    spool.close()
