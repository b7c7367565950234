"""The server's own latencies over a scenario, and ours of the same requests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.base.clock import NS_PER_MS
from bench.engines.histogram import Histogram, Quantile
from bench.engines.metrics import MetricSample, Timing

_MS_PER_S = 1000.0
PERCENTILES = (50, 90, 99)


def server_latency(before: MetricSample, after: MetricSample) -> dict[str, dict[str, Any] | None]:
    """What each of the server's histograms gained between two samples, by common name; None where it has none.

    `mean_ms` is Δsum / Δcount, exact when nothing ran at either time; the percentiles are Prometheus'
    `histogram_quantile`, and no finer than the bucket from `from_ms` to `to_ms` (None: open).
    """
    return {name.value: _gained(before.timings[name], after.timings[name]) for name in Timing}


def _gained(before: Histogram | None, after: Histogram | None) -> dict[str, Any] | None:
    if after is None:
        return None
    gained = after if before is None else after.since(before)  # a family may come with its first observation
    if gained is None or gained.count == 0:
        return None
    percentiles = {f"p{percent}": _quantile(gained.quantile(percent / 100)) for percent in PERCENTILES}
    return {"count": round(gained.count), "mean_ms": _ms(gained.mean), **percentiles}


def _quantile(found: Quantile | None) -> dict[str, float | None] | None:
    if found is None:
        return None
    return {"value_ms": _ms(found.value), "from_ms": _ms(found.lower), "to_ms": _ms(found.upper)}


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * _MS_PER_S, 6)


def client_latency(*requests: Path) -> dict[str, Any]:
    """Our means over the requests that the server's histograms hold too: all of them, warm-up and every wave, in the
    files of every step of a sweep.

    `ttft` of every request with a first token; `e2e`, `tpot` and `itl` of the successful ones. `itl` is one value a
    gap: Σ (last − first) / Σ (tokens − 1). `start_ns` and `end_ns`: from the first byte sent to the last answer's end.
    """
    import numpy as np
    import pyarrow.parquet as pq

    names = ("sent_ns", "first_token_ns", "last_token_ns", "done_ns", "output_tokens", "status")
    table = pq.read_table([str(path) for path in requests], columns=list(names)).to_pandas()
    sent = table[table["sent_ns"].notna()]
    answered = sent[sent["first_token_ns"].notna()]
    finished = answered[(answered["status"] == "ok") & answered["last_token_ns"].notna()]
    several = finished[finished["output_tokens"] > 1]
    decode_ns = several["last_token_ns"] - several["first_token_ns"]
    gaps = several["output_tokens"] - 1
    ends = sent[["sent_ns", "first_token_ns", "last_token_ns", "done_ns"]].max()

    def mean(values: Any) -> dict[str, Any] | None:
        if not len(values):
            return None
        return {"count": len(values), "mean_ms": round(float(np.mean(values)) / NS_PER_MS, 6)}

    itl = None
    if len(several):
        itl = {
            "count": int(gaps.sum()),
            "mean_ms": round(float(decode_ns.sum()) / float(gaps.sum()) / NS_PER_MS, 6),
        }
    return {
        "ttft": mean(answered["first_token_ns"] - answered["sent_ns"]),
        "itl": itl,
        "tpot": mean(decode_ns / gaps),
        "e2e": mean(finished["last_token_ns"] - finished["sent_ns"]),
        "start_ns": int(sent["sent_ns"].min()) if len(sent) else None,
        "end_ns": int(ends.max()) if len(sent) else None,
    }


def hit_rate(before: MetricSample, after: MetricSample, latest: float | None) -> float | None:
    """Share of the prompt tokens asked for between two samples that came from the prefix cache.

    Of an engine that tells only a rate: `latest`, as it told it last.
    """
    gained = prefix_gain(before, after)
    if gained is None:
        return latest
    hits, queries = gained
    return hits / queries if queries > 0 and hits >= 0 else None


def prefix_gain(before: MetricSample, after: MetricSample) -> tuple[float, float] | None:
    """Hits and queries between two samples, below 0 after a new start; None where the server counts none.

    A counter of hits may come with the first one: where only the queries were told before, there were none.
    """
    if after.prefix_cache is None or after.prefix_cache[0] is None:
        return None
    first, asked = before.prefix_cache or (None, 0.0)
    return after.prefix_cache[0] - (first or 0.0), after.prefix_cache[1] - asked
