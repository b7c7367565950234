"""Progress as values: rooms report what they do, the command line decides how it looks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class ProgressEvent:
    """One thing that happened. `done` of `total` in `unit`s lets the command line estimate the time left.

    `live` are figures of this moment by name (None: not known yet), for who asked for them.
    """

    stage: str
    message: str
    cell: str | None = None
    done: int | None = None
    total: int | None = None
    unit: str | None = None
    live: Mapping[str, Any] | None = None


Sink = Callable[[ProgressEvent], None]


def _ignore(_: ProgressEvent) -> None:
    return None


@dataclass(frozen=True)
class Progress:
    """A sink bound to a stage and a cell; rooms receive one and narrow it with `within`.

    `wants_live`: whether the sink shows figures of the moment, which cost something to gather.
    """

    sink: Sink = _ignore
    stage: str = ""
    cell: str | None = None
    wants_live: bool = False

    def within(self, *, stage: str | None = None, cell: str | None = None) -> Progress:
        """The same sink under another stage or cell."""
        return dataclasses.replace(self, stage=stage or self.stage, cell=cell or self.cell)

    def say(self, message: str) -> None:
        """Report a line."""
        self.sink(ProgressEvent(stage=self.stage, cell=self.cell, message=message))

    def advance(
        self,
        done: int,
        total: int | None,
        unit: str,
        message: str = "",
        *,
        live: Mapping[str, Any] | None = None,
    ) -> None:
        """Report that `done` of `total` units are finished."""
        event = ProgressEvent(
            stage=self.stage, cell=self.cell, message=message, done=done, total=total, unit=unit, live=live
        )
        self.sink(event)
