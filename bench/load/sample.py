"""What metrics are computed from: a run, the part of it that is measured, and what it is held to."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from bench.load.columns import MISSING
from bench.load.outcome import Status
from bench.load.slo import SloConfig
from bench.load.table import Events, Floats, Ints, Mask, Owners, Table
from bench.load.window import Window

Spread = tuple[Floats, Owners]
"""(values, number of the request each belongs to in order of sending, ascending)"""
Stream = tuple[Ints, Floats]
"""(times in ns, what happened at each)"""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A run and its window; `slo` is what goodput counts by."""

    table: Table
    events: Events
    window: Window
    slo: SloConfig = field(default_factory=SloConfig)

    def ordered(self, usable: Mask) -> Ints:
        """Row numbers of measured requests that are `usable`, in order of sending."""
        rows = np.flatnonzero(self.window.measured & usable)
        return np.asarray(rows[np.argsort(self.table.sent_ns[rows], kind="stable")], dtype=np.int64)

    def answered(self) -> Ints:
        """Measured requests with at least one token, in order of sending."""
        return self.ordered(self.table.first_token_ns != MISSING)

    def succeeded(self) -> Mask:
        """Requests that ended well, warm-up apart, measured or not."""
        return self.table.main & self.table.with_status(Status.ok)

    @cached_property
    def row_of_event(self) -> npt.NDArray[np.int32]:
        """The row of each event's request."""
        return np.searchsorted(self.table.slot, self.events.slot).astype(np.int32)

    @cached_property
    def single_tokens_known(self) -> Mask:
        """Requests whose every event is known to carry a certain number of tokens, two events or more."""
        table = self.table
        unknown = np.bincount(self.row_of_event[self.events.tokens == MISSING], minlength=len(table)) > 0
        known: Mask = ~unknown | (table.events == table.output_tokens)
        return known & (table.events >= 2)

    def gaps(self, usable: Mask) -> tuple[Ints, npt.NDArray[np.int32], npt.NDArray[np.int32]]:
        """(gap in ns, tokens of the later event (1 when not said), number of the request) in order of sending."""
        rows = self.ordered(usable)
        events, row = self.events, self.row_of_event
        sending = np.full(len(self.table), MISSING, dtype=np.int32)
        sending[rows] = np.arange(len(rows))
        later = 1 + np.flatnonzero((row[1:] == row[:-1]) & (sending[row[1:]] != MISSING))
        owner = sending[row[later]]
        if (owner[1:] < owner[:-1]).any():  # requests were not sent in order of slot
            order = np.argsort(owner, kind="stable")
            later, owner = later[order], owner[order]
        return events.ns[later] - events.ns[later - 1], np.maximum(events.tokens[later], 1), owner
