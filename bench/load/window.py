"""Which part of a run is measured: full load, without the start-up burst."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np

from bench.load.config import ClosedConfig, OpenConfig, ScenarioConfig
from bench.load.outcome import Status
from bench.load.steady import in_flight, mser
from bench.load.table import MISSING, Ints, Mask, Table


class WindowKind(StrEnum):
    """`whole`: the run was too short to leave anything out. `unsteady`: an open loop that did not settle."""

    steady = "steady"
    unsteady = "unsteady"
    whole = "whole"
    empty = "empty"


@dataclass(frozen=True, kw_only=True)
class Window:
    """`measured` marks the rows whose latencies count; throughput counts what ended in (start_ns, end_ns].

    `wave` is how many requests were in flight together, for batch means.
    """

    kind: WindowKind
    start_ns: int
    end_ns: int
    measured: Mask
    wave: int
    dropped_waves: int
    rule: str

    @property
    def seconds(self) -> float:
        return (self.end_ns - self.start_ns) / 1e9

    def describe(self) -> dict[str, Any]:
        """For the summary; times are CLOCK_MONOTONIC ns."""
        return {
            "kind": self.kind.value,
            "rule": self.rule,
            "start_ns": self.start_ns,
            "end_ns": self.end_ns,
            "seconds": self.seconds,
            "requests_measured": int(self.measured.sum()),
            "dropped_waves": self.dropped_waves,
            "requests_in_flight": self.wave,
        }


def find_window(table: Table, scenario: ScenarioConfig) -> Window:
    """The window of a run; see the rule in what it returns."""
    ok = table.with_status(Status.ok) & table.main
    ended = table.main & ~table.with_status(Status.cancelled) & (table.sent_ns != MISSING)
    if not ok.any():
        return Window(
            kind=WindowKind.empty,
            start_ns=0,
            end_ns=0,
            measured=ok,
            wave=1,
            dropped_waves=0,
            rule="no request succeeded",
        )
    if isinstance(scenario, ClosedConfig):
        return _closed(table, scenario, ok, ended)
    return _open(table, ok, ended, one_rate=has_one_rate(scenario))


def has_one_rate(scenario: ScenarioConfig) -> bool:
    """Whether it is an open loop whose rate never changes: only then there is a steady state to be found."""
    return isinstance(scenario, OpenConfig) and hasattr(scenario, "rate_per_s")


def _closed(table: Table, scenario: ClosedConfig, ok: Mask, ended: Mask) -> Window:
    users = scenario.concurrency
    done = np.sort(table.done_ns[ended])
    drop = min(scenario.drop_waves, max(0, len(done) // users - 2))
    first, last = drop * users, len(done) - users
    if (table.session[ended] != MISSING).any():
        last = min(last, _ends_while_sessions_last(table, ended))
    if last <= first:
        return _whole(table, ok, ended, users)
    start_ns = int(done[first - 1]) if first else int(table.sent_ns[ended].min())
    order = np.argsort(np.where(ended, table.sent_ns, np.iinfo(np.int64).max), kind="stable")
    rank = np.empty(len(table), dtype=np.int64)
    rank[order] = np.arange(len(table))
    return Window(
        kind=WindowKind.steady,
        start_ns=start_ns,
        end_ns=int(done[last - 1]),
        measured=ok & (rank >= first),
        wave=users,
        dropped_waves=drop,
        rule=f"latencies: without the first {first} requests sent; throughput: ends {first + 1} to {last}, "
        "while every user was busy",
    )


def _ends_while_sessions_last(table: Table, ended: Mask) -> int:
    """How many requests ended until a user found no session left to begin: from then on fewer are busy."""
    done_ns, session = table.done_ns[ended], table.session[ended]
    last_begun_ns = table.sent_ns[ended & (table.turn <= 0)].max()
    _, number = np.unique(np.where(session == MISSING, -1 - table.slot[ended], session), return_inverse=True)
    over_ns = np.zeros(number.max() + 1, dtype=np.int64)
    np.maximum.at(over_ns, number, done_ns)
    idle_ns = over_ns[over_ns > last_begun_ns].min(initial=np.iinfo(np.int64).max)
    return int((done_ns <= idle_ns).sum())


def _open(table: Table, ok: Mask, ended: Mask, *, one_rate: bool) -> Window:
    life = float(np.median((table.done_ns - table.sent_ns)[ok]))
    sent_ns, done_ns = _by_sending(table, ended)
    first_ns, end_ns = int(sent_ns[0]), int(sent_ns[-1])
    cut, steady = mser(in_flight(sent_ns, done_ns).astype(np.float64)) if one_rate else (0, True)
    start_ns = max(int(first_ns + life), int(sent_ns[cut])) if steady else int(first_ns + life)
    flying = float((done_ns - sent_ns).sum()) / max(1, int(done_ns.max()) - first_ns)
    wave = max(1, round(flying))
    measured = ok & (table.sent_ns >= start_ns)
    if end_ns <= start_ns or not measured.any():
        return _whole(table, ok, ended, wave)
    found = f", and the number in flight was steady (MSER-5: {cut} requests left out)" if one_rate and steady else ""
    lost = "; no steady part was found (MSER-5)" if not steady else ""
    return Window(
        kind=WindowKind.steady if steady else WindowKind.unsteady,
        start_ns=start_ns,
        end_ns=end_ns,
        measured=measured,
        wave=wave,
        dropped_waves=0,
        rule=f"from when one median request life had passed{found}, until the last sending{lost}",
    )


def _by_sending(table: Table, rows: Mask) -> tuple[Ints, Ints]:
    """(sent, done) ns of `rows` in order of sending."""
    order = np.argsort(table.sent_ns[rows], kind="stable")
    return table.sent_ns[rows][order], table.done_ns[rows][order]


def _whole(table: Table, ok: Mask, ended: Mask, wave: int) -> Window:
    return Window(
        kind=WindowKind.whole,
        start_ns=int(table.sent_ns[ended].min()) - 1,
        end_ns=int(table.done_ns[ended].max()),
        measured=ok,
        wave=wave,
        dropped_waves=0,
        rule="the whole run: too short to leave out its start and its end",
    )
