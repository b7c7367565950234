"""What a client recorded beside what the truth server's own log says it sent."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.load.truth.pace import SlowTimes

Ints = npt.NDArray[np.int64]
_LOOK_NS = 100_000
_EDGE_NS = 50_000_000
"""Left out at both ends of the window: streams that begin together end together, and one who is late is not idle."""


@dataclass(frozen=True, kw_only=True)
class TrueTimes:
    """When the server did what it did, CLOCK_MONOTONIC ns, one row a request that ended, in order of its number.

    `events` are the times just before each token-bearing event was written, all requests of the same length.
    """

    request: Ints
    received_ns: Ints
    events_ns: Ints

    @classmethod
    def of(cls, log: npt.NDArray[np.void], tokens: int) -> TrueTimes:
        """From a log (LOG_DTYPE of bench.load.truth.launch); requests without all `tokens` events are left out."""
        numbers, counts = np.unique(log["request"], return_counts=True)
        whole = np.isin(log["request"], numbers[counts == tokens + 1])
        ordered = log[whole]
        ordered = ordered[np.lexsort((ordered["index"], ordered["request"]))]
        ns = ordered["ns"].reshape(-1, tokens + 1).astype(np.int64)
        return cls(request=numbers[counts == tokens + 1].astype(np.int64), received_ns=ns[:, 0], events_ns=ns[:, 1:])

    @property
    def ttft_ns(self) -> Ints:
        """From the request's receipt to its first event."""
        return np.asarray(self.events_ns[:, 0] - self.received_ns)

    def among(self, numbers: Ints) -> TrueTimes:
        """The rows of these requests alone."""
        kept = np.isin(self.request, numbers)
        return TrueTimes(request=self.request[kept], received_ns=self.received_ns[kept], events_ns=self.events_ns[kept])

    def busy_share(self, streams: int, *, first: int, slow: SlowTimes | None = None) -> float | None:
        """Delivered load as the server saw it: how many of `streams` were being served, on average, over `streams`.

        From the receipt of request number `first` to the receipt of the last one, looked at every 0.1 ms, the times in
        `slow` left out; a client that sends its next request at once after an answer has 1. None: nothing is left.
        """
        begin = int(self.received_ns[self.request >= first].min()) + _EDGE_NS
        end = int(self.received_ns.max()) - _EDGE_NS
        looks = np.arange(begin, end, _LOOK_NS)
        if slow is not None:
            looks = looks[slow.outside(looks)]
        begun = np.searchsorted(np.sort(self.received_ns), looks, side="right")
        ended = np.searchsorted(np.sort(self.events_ns[:, -1]), looks, side="right")
        return float((begun - ended).mean() / streams) if len(looks) else None


def errors_us(out: Path, true: TrueTimes, slow: SlowTimes) -> dict[str, float | None]:
    """How wrong a result folder of the load generator is about the requests of `true`, µs.

    TTFT: the client's minus the true one. An event: the client's stamp minus the time before the server's write.
    The figures that begin with `steady_` are of what was sent outside the times at which the machine was slow (None:
    nothing was).
    """
    import pyarrow.parquet as pq

    requests = pq.read_table(out / "requests.parquet", columns=["request_id", "sent_ns", "first_token_ns"])
    events = pq.read_table(out / "events.parquet", columns=["request_id", "ns"])

    def column(table: Any, name: str) -> Ints:
        return np.asarray(table.column(name).fill_null(0).to_numpy(), dtype=np.int64)

    number = column(requests, "request_id")
    rows = np.isin(number, true.request)
    ttft = (column(requests, "first_token_ns") - column(requests, "sent_ns"))[rows]
    stamped = column(events, "ns")[np.isin(column(events, "request_id"), true.request)]
    ttft_us = (ttft - true.ttft_ns) / 1000
    event_us = (stamped - true.events_ns.ravel()) / 1000
    steady_ttft = slow.outside(true.received_ns) & slow.outside(true.events_ns[:, 0])
    steady_event = slow.outside(true.events_ns.ravel())
    return {
        "ttft_p50_us": _quantile(ttft_us, 0.5),
        "ttft_p99_us": _quantile(ttft_us, 0.99),
        "event_p50_us": _quantile(event_us, 0.5),
        "event_p99_us": _quantile(event_us, 0.99),
        "steady_ttft_p99_us": _quantile(ttft_us[steady_ttft], 0.99),
        "steady_event_p99_us": _quantile(event_us[steady_event], 0.99),
    }


def _quantile(values: npt.NDArray[np.float64], share: float) -> float | None:
    return float(np.quantile(values, share)) if len(values) else None
