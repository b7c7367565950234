"""What metrics are computed from: a run, the part of it that is measured, and what it is held to."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from bench.load.columns import MISSING
from bench.load.outcome import Status
from bench.load.slo import SloConfig
from bench.load.table import Events, Floats, Ints, Mask, Table
from bench.load.window import Window

Spread = tuple[Floats, Ints]
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
    def row_of_event(self) -> Ints:
        """The row of each event's request."""
        return np.searchsorted(self.table.slot, self.events.slot)

    @cached_property
    def single_tokens_known(self) -> Mask:
        """Requests whose every event is known to carry a certain number of tokens, two events or more."""
        table = self.table
        unknown = np.bincount(self.row_of_event[self.events.tokens == MISSING], minlength=len(table)) > 0
        known: Mask = ~unknown | (table.events == table.output_tokens)
        return known & (table.events >= 2)

    def gaps(self, usable: Mask) -> tuple[Ints, Ints, Ints]:
        """(gap in ns, tokens of the later event (1 when not said), number of the request) in order of sending."""
        rows = self.ordered(usable)
        events = self.events
        sending = np.full(len(self.table), MISSING)
        sending[rows] = np.arange(len(rows))
        owner = sending[self.row_of_event]
        kept = np.flatnonzero(owner != MISSING)
        kept = kept[np.argsort(owner[kept], kind="stable")]
        owner, ns, tokens = (
            owner[kept],
            events.ns[kept],
            np.where(events.tokens[kept] == MISSING, 1, events.tokens[kept]),
        )
        same = owner[1:] == owner[:-1]
        return np.diff(ns)[same], tokens[1:][same].astype(np.int64), owner[1:][same]
