"""From a worker's recording to its requests and events. Runs in the worker at its end, or later from the files.

Leaves, beside the recording: `{stem}.requests.jsonl` (one object a request), `{stem}.events.npy` (EVENT_DTYPE) and
`{stem}.delays.npy` (int64 ns: user-space minus kernel time of every stamped read); returns counts about the recording.
"""

from __future__ import annotations

from array import array
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from bench.load import segments
from bench.load.answer import Answer, EventLog
from bench.load.clockmap import ClockMap
from bench.load.outcome import ErrorKind

EVENT_DTYPE = np.dtype([("slot", "<u4"), ("ns", "<i8"), ("bytes", "<u4"), ("tokens", "<i4")])


class _Digest:
    """One pass over a recording; `rows` keep raw stamps until the clock map is known."""

    def __init__(self, unfinished: str) -> None:
        self.unfinished = unfinished
        self.log = EventLog()
        self.open: dict[int, Answer] = {}
        self.rows: list[dict[str, Any]] = []
        self.done_kernel = array("q")
        self.done_user = array("q")
        self.left_kernel = array("q")
        self.left_user = array("q")
        self.delay_kernel = array("q")
        self.delay_user = array("q")
        self.pairs: list[tuple[int, int, int]] = []
        self.reads = 0
        self.unstamped = 0
        self.coalesced = 0
        self.token_reads = 0
        self.last_ns = 0

    def run(self, directory: Path, stem: str) -> None:
        unpack_stamp = segments.PAIR.unpack
        for tag, slot, ns, stamp, payload in segments.read_records(directory, stem):
            if tag == segments.DATA:
                seconds, rest = unpack_stamp(stamp)
                kernel_ns = seconds * 1_000_000_000 + rest
                self.reads += 1
                if kernel_ns:
                    self.delay_kernel.append(kernel_ns)
                    self.delay_user.append(ns)
                else:
                    self.unstamped += 1
                self.open[slot].feed(payload, kernel_ns, ns)
            elif tag == segments.START:
                answer = self.open[slot] = Answer(slot, self.log)
                answer.scheduled_ns, answer.taken_ns = unpack_stamp(stamp)[0], ns
            elif tag == segments.SENT:
                self.open[slot].sent_ns = ns
            elif tag == segments.LEFT and slot in self.open:
                seconds, rest = unpack_stamp(stamp)
                self.open[slot].left = (seconds * 1_000_000_000 + rest, ns)  # of the request's last byte, in the end
            elif tag == segments.END:
                self.close(self.open.pop(slot), payload.decode(), ns)
            elif tag == segments.CLOCK:
                realtime, uncertainty = unpack_stamp(stamp)
                self.pairs.append((ns, realtime, uncertainty))
            self.last_ns = ns
        for answer in list(self.open.values()):
            self.close(answer, self.unfinished, self.last_ns)

    def close(self, answer: Answer, end: str, ns: int) -> None:
        status, kind, message = answer.finish(end)
        heard = answer.last_user_ns > 0
        self.done_kernel.append(answer.last_kernel_ns if heard else 0)
        self.done_user.append(answer.last_user_ns if heard else ns)
        self.left_kernel.append(answer.left[0])
        self.left_user.append(answer.left[1])
        self.coalesced += answer.coalesced_reads
        self.token_reads += answer.token_reads
        self.rows.append(
            {
                "slot": answer.slot,
                "scheduled_ns": answer.scheduled_ns,
                "taken_ns": answer.taken_ns,
                "sent_ns": answer.sent_ns or None,
                "end_ns": ns,
                "prompt_tokens": answer.prompt_tokens,
                "cached_tokens": answer.cached_tokens,
                "output_tokens": answer.output_tokens,
                "events": answer.events,
                "finish_reason": answer.finish_reason,
                "http_status": answer.http_status,
                "status": status.value,
                "error_kind": None if kind is None else kind.value,
                "error_message": message or None,
            }
        )


def digest(directory: Path, stem: str, *, unfinished: str = ErrorKind.client.value) -> dict[str, Any]:
    """Parse the recording `stem` in `directory`; see the module's docstring.

    Requests without an end get `unfinished` (a value of End or ErrorKind).
    """
    pass_ = _Digest(unfinished)
    pass_.run(directory, stem)
    clock = ClockMap(pass_.pairs or [(0, 0, 0)])
    untrusted = 0

    def stamps(kernel: array[int], user: array[int]) -> npt.NDArray[np.int64]:
        """The kernel's time where there is a stamp to be trusted, else user space's."""
        nonlocal untrusted
        read_at = np.array(user, dtype=np.int64)
        stamped = np.array(kernel, dtype=np.int64)
        mapped, trusted = clock.monotonic_ns(stamped, read_at)
        untrusted += int(np.count_nonzero(~trusted & (stamped != 0)))
        return np.where((stamped != 0) & trusted, mapped, read_at)

    log = pass_.log
    events = np.empty(len(log.slot), dtype=EVENT_DTYPE)
    events["slot"], events["bytes"], events["tokens"] = log.slot, log.size, log.tokens
    events["ns"] = stamps(log.kernel_ns, log.user_ns)
    np.save(directory / f"{stem}.events.npy", events)

    first, last = _first_and_last(events)
    done = stamps(pass_.done_kernel, pass_.done_user)
    left_kernel = np.array(pass_.left_kernel, dtype=np.int64)
    left, left_trusted = clock.monotonic_ns(left_kernel, np.array(pass_.left_user, dtype=np.int64))
    left[(left_kernel == 0) | ~left_trusted] = 0
    with (directory / f"{stem}.requests.jsonl").open("wb") as stream:
        for row, done_ns, left_ns in zip(pass_.rows, done.tolist(), left.tolist(), strict=True):
            row["sent_kernel_ns"] = left_ns or None
            row["first_token_ns"] = first.get(row["slot"])
            row["last_token_ns"] = last.get(row["slot"])
            row["done_ns"] = done_ns
            stream.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))

    delay_user = np.array(pass_.delay_user, dtype=np.int64)
    mapped, trusted = clock.monotonic_ns(np.array(pass_.delay_kernel, dtype=np.int64), delay_user)
    np.save(directory / f"{stem}.delays.npy", (delay_user - mapped)[trusted])
    return {
        "reads": pass_.reads,
        "unstamped_reads": pass_.unstamped,
        "token_reads": pass_.token_reads,
        "coalesced_reads": pass_.coalesced,
        "clock_stepped": clock.stepped,
        "clock_uncertainty_ns": clock.uncertainty_ns,
        "untrusted_stamps": untrusted,
    }


def _first_and_last(events: npt.NDArray[np.void]) -> tuple[dict[int, int], dict[int, int]]:
    """ns of the first and the last event of each slot that has any; a slot's events are in order of time."""
    slots, first_index = np.unique(events["slot"], return_index=True)
    _, reverse_index = np.unique(events["slot"][::-1], return_index=True)
    ns = events["ns"]
    first = ns[first_index].tolist()
    last = ns[len(events) - 1 - reverse_index].tolist() if len(events) else []
    names = slots.tolist()
    return dict(zip(names, first, strict=True)), dict(zip(names, last, strict=True))
