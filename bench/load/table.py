"""The recorded requests and events as columns; what metrics are computed from and what Parquet is written from.

Times are CLOCK_MONOTONIC ns. A missing number is MISSING (-1) in here and null in Parquet.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.load.columns import ERROR_KINDS, MISSING, STATUSES
from bench.load.outcome import Status

__all__ = ["MISSING", "Events", "Floats", "Ints", "Mask", "Owners", "Table", "make_events", "make_table"]

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Owners = npt.NDArray[np.int64] | npt.NDArray[np.int32]
"""For each value the number of the request it belongs to, ascending."""
Codes = npt.NDArray[np.int16]
"""Numbers of words in a list beside it; MISSING where there is none."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """One row a request, in order of slot. `taken_ns`: when the client took the request up; `sent_ns`: just before its
    first byte was handed to the kernel; `sent_kernel_ns`: when the kernel handed its last byte to the network device
    (missing where it does not tell); `first_answer_ns`: the first event that is no reasoning; `done_ns`: last byte of
    the answer. `status` and `error` are numbers of STATUSES and ERROR_KINDS, `finish` of `finish_reasons`; `messages`
    are those of failed requests, by slot.
    """

    slot: Ints
    main: Mask
    worker: Ints
    scheduled_ns: Ints
    taken_ns: Ints
    sent_ns: Ints
    sent_kernel_ns: Ints
    first_token_ns: Ints
    first_answer_ns: Ints
    last_token_ns: Ints
    done_ns: Ints
    prompt_tokens: Ints
    cached_tokens: Ints
    output_tokens: Ints
    events: Ints
    http_status: Ints
    session: Ints
    """-1: the request belongs to none."""
    turn: Ints
    asked_input_tokens: Ints
    asked_output_tokens: Ints
    status: Codes
    error: Codes
    finish: Codes
    finish_reasons: Sequence[str] = ()
    messages: Mapping[int, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.slot)

    @property
    def behind_main(self) -> Mask:
        """Rows behind the first that is measured and not measured themselves: the cool-down."""
        first = int(self.slot[self.main].min()) if self.main.any() else int(np.iinfo(np.int64).max)
        return ~self.main & (self.slot > first)

    def with_status(self, status: Status) -> Mask:
        """Rows that ended so."""
        return np.asarray(self.status == STATUSES.index(status), dtype=bool)

    def errors(self, rows: Mask) -> dict[str, int]:
        """How many of `rows` failed, by error kind, the most frequent first."""
        kinds, counts = np.unique(self.error[rows & (self.error != MISSING)], return_counts=True)
        counted = {ERROR_KINDS[kind]: int(count) for kind, count in zip(kinds.tolist(), counts.tolist(), strict=True)}
        return dict(Counter(counted).most_common())

    def first_messages(self) -> dict[str, str]:
        """One message of each error kind."""
        found: dict[str, str] = {}
        for kind in np.unique(self.error[self.error != MISSING]).tolist():
            slots = (int(slot) for slot in self.slot[self.error == kind])
            message = next((self.messages[slot] for slot in slots if slot in self.messages), None)
            if message:
                found[ERROR_KINDS[kind]] = message
        return found


@dataclass(frozen=True, kw_only=True)
class Events:
    """One row a token-bearing event, grouped by slot, in order of time within a slot."""

    slot: npt.NDArray[np.uint32]
    ns: Ints
    bytes: npt.NDArray[np.uint32]
    tokens: npt.NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.slot)


_INTS = (
    *("scheduled_ns", "taken_ns", "sent_ns", "sent_kernel_ns", "first_token_ns", "first_answer_ns", "last_token_ns"),
    *("done_ns", "prompt_tokens", "cached_tokens", "output_tokens", "events", "http_status"),
)


def make_table(
    parts: Sequence[npt.NDArray[np.void]],
    *,
    warmup: int,
    finish_reasons: Sequence[Sequence[str]] | None = None,
    messages: Mapping[int, str] = {},
) -> Table:
    """Merge the requests of the workers (REQUEST_DTYPE), in order of worker; slots below `warmup` are warm-up.

    `finish_reasons` are those of each worker.
    """
    names = list(dict.fromkeys(reason for reasons in finish_reasons or () for reason in reasons))
    slots = np.concatenate([np.asarray(part["slot"], dtype=np.int64) for part in parts])
    order = np.argsort(slots, kind="stable")

    def merged(name: str, dtype: npt.DTypeLike = np.int64) -> npt.NDArray[Any]:
        return np.concatenate([np.asarray(part[name], dtype=dtype) for part in parts])[order]

    workers = np.repeat(np.arange(len(parts)), [len(part) for part in parts])[order]
    finish = []
    for number, part in enumerate(parts):
        reasons = finish_reasons[number] if finish_reasons else ()
        number_of = np.array([*map(names.index, reasons), MISSING], dtype=np.int16)  # the last one is that of MISSING
        finish.append(number_of[part["finish"]])
    slot = slots[order]
    unasked = np.full(len(slot), MISSING, dtype=np.int64)
    return Table(
        slot=slot,
        main=slot >= warmup,
        worker=workers,
        session=unasked,
        turn=unasked,
        asked_input_tokens=unasked,
        asked_output_tokens=unasked,
        status=merged("status", np.int16),
        error=merged("error", np.int16),
        finish=np.concatenate(finish)[order],
        finish_reasons=names,
        messages=messages,
        **{name: merged(name) for name in _INTS},
    )


def make_events(parts: Sequence[npt.NDArray[np.void]]) -> Events:
    """Merge the events of the workers (EVENT_DTYPE)."""
    slots = np.concatenate([part["slot"] for part in parts])
    order = np.argsort(slots, kind="stable")

    def merged(name: str) -> npt.NDArray[Any]:
        return np.concatenate([part[name] for part in parts])[order]

    return Events(slot=slots[order], ns=merged("ns"), bytes=merged("bytes"), tokens=merged("tokens"))
