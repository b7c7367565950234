"""Around a scenario: the server's own metrics and the machine's telemetry, sampled at 1 Hz on the run's clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench.base.clock import NS_PER_MS
from bench.base.files import sync
from bench.engines.launch import Endpoint
from bench.engines.metrics import MetricMap, MetricSample, Scalar, Timing, read_sample
from bench.load.target import Target
from bench.pipeline.latency import client_latency, hit_rate, server_latency
from bench.pipeline.untold import why_untold
from bench.telemetry.sampler import Sampler
from bench.telemetry.scrape import Scrape, Scraper, read_scrapes
from bench.telemetry.watch import Energy, Telemetry

#: As the server answered; parsed into `SERIES` after the scenario.
RAW = "server_metrics.jsonl.gz"
SERIES = "server_metrics.parquet"
TELEMETRY = "telemetry.parquet"
PEAKS = (Scalar.RUNNING, Scalar.WAITING, Scalar.KV_CACHE_USE)
METERS = ("gpu", "cpu_package")
_SETTLE_NS = 100 * NS_PER_MS
_SETTLE_TRIES = 30


class Watch:
    """Samples from entering to leaving and writes what it saw into `folder`, however the scenario ends.

    Entering and leaving wait until nothing runs on the server, for a few seconds at most. `pss_bytes` gives the latest
    memory of the server's processes.
    """

    def __init__(self, running: Endpoint, folder: Path, pss_bytes: Callable[[], int | None] | None = None) -> None:
        self._metrics: MetricMap | None = running.engine.metrics
        self._folder = folder
        self._target = Target(url=running.url, model=running.model, api_key=running.api_key or None)
        elsewhere = "the server runs in a container" if running.contained else "others started the server"
        self._telemetry = Telemetry(running.tree_pid, pss_bytes, without_pid=elsewhere)
        self._stack = ExitStack()
        self._scraper: Scraper | None = None
        self._samplers: dict[str, Sampler] = {}
        self._before: Scrape | None = None
        self._after: Scrape | None = None
        self._errors: dict[str, str] = {}
        self._quiet = {"before": False, "after": False}

    def __enter__(self) -> Watch:
        self._stack.enter_context(self._telemetry)
        if self._metrics is not None:
            paths = [source.path for source in self._metrics.sources]
            self._scraper = self._stack.enter_context(Scraper(self._target, paths, self._folder / RAW))
            self._before, self._quiet["before"] = self._settled("before", self._metrics, self._scraper)
            self._start("server_metrics", self._scraper.take)
        self._start("telemetry", self._telemetry.take)
        self._samplers["telemetry"].await_first()  # energy needs a reading before the first request
        return self

    def _start(self, name: str, take: Callable[[int], object]) -> None:
        self._samplers[name] = self._stack.enter_context(Sampler(take, name=name))

    def __exit__(self, failed: object, *_: object) -> None:
        scraper = self._scraper
        for sampler in self._samplers.values():
            sampler.stop()
        try:
            if self._metrics is not None and scraper is not None and failed is None:
                self._after, self._quiet["after"] = self._settled("after", self._metrics, scraper)
        finally:
            self._stack.close()
            self._telemetry.write(self._folder / TELEMETRY)
            if self._metrics is not None:
                _write_series(self._metrics, self._folder)

    def _settled(self, when: str, metrics: MetricMap, scraper: Scraper) -> tuple[Scrape | None, bool]:
        """The server's metrics once nothing runs and two scrapes tell the same; else the last one, and False.

        What a route answered instead of metrics is kept by `when`.
        """
        latest: Scrape | None = None
        totals: Sequence[float | None] = ()
        for _ in range(_SETTLE_TRIES):
            scrape = scraper.take(time.monotonic_ns())
            error = _error(scrape)
            if error is not None:
                self._errors[when] = error
            if not scrape.texts:
                return latest, False
            sample = read_sample(metrics, scrape.texts, buckets=False)
            running = (sample.scalars[Scalar.RUNNING], sample.scalars[Scalar.WAITING])
            earlier, totals = totals, _totals(sample)
            idle = not any(running)
            if idle and latest is not None and totals == earlier:
                return scrape, True
            latest = scrape
            time.sleep(_SETTLE_NS / 1e9)
        return latest, False

    def observed(self, output_tokens: int | None) -> dict[str, Any]:
        """What `observed.json` says of it, after leaving; `output_tokens` of all requests, warm-up too."""
        steps = sorted(self._folder.glob("steps/*/requests.parquet"))
        client = client_latency(*steps or [self._folder / "requests.parquet"])
        start_ns, end_ns = client.pop("start_ns"), client.pop("end_ns")
        energy = dict.fromkeys(METERS, Energy(missing="no request was sent"))
        if start_ns is not None and end_ns is not None:
            energy |= self._telemetry.energy(start_ns, end_ns)
        failed = {name: str(sampler.error) for name, sampler in self._samplers.items() if sampler.error}
        server, untold = self._server_observed()
        untold |= dict(_energy_untold(energy, output_tokens, failed.get("telemetry")))
        return {
            **server,
            "client_latency": client,
            "energy_j": {meter: spent.joules for meter, spent in energy.items()},
            "energy_per_output_token_j": {
                meter: spent.joules / output_tokens if spent.joules is not None and output_tokens else None
                for meter, spent in energy.items()
            },
            "energy_scope": {meter: spent.scope for meter, spent in energy.items()},
            "unavailable": {**self._telemetry.unavailable, **untold, **failed},
            "sampling": {
                name: {"samples": sampler.samples, "core_share": _rounded(sampler.core_share)}
                for name, sampler in self._samplers.items()
            },
        }

    def _server_observed(self) -> tuple[dict[str, Any], dict[str, str]]:
        """What the server said, and why it did not say the rest."""
        metrics = self._metrics
        if metrics is None or self._before is None or self._after is None:
            nothing: dict[str, Any] = {
                "server_latency": dict.fromkeys(Timing, None),
                "peaks": dict.fromkeys(PEAKS, None),
                "preemptions": None,
                "prefix_cache_hit_rate": None,
                "quiescent": None,
            }
            if metrics is None:
                return nothing, {"server_metrics": "the engine has no metrics"}
            when = "before" if self._before is None else "after"
            return nothing, {"server_metrics": f"{when} the load, {self._errors.get(when, 'nobody answered')}"}
        before, after = (read_sample(metrics, scrape.texts) for scrape in (self._before, self._after))
        series = _read_series(self._folder / SERIES)
        last = after.scalars[Scalar.PREFIX_CACHE_HIT_RATE]
        observed = {
            "server_latency": server_latency(before, after),
            "peaks": {name.value: _peak(series.get(name.value)) for name in PEAKS},
            "preemptions": _gained(before.scalars[Scalar.PREEMPTIONS], after.scalars[Scalar.PREEMPTIONS]),
            "prefix_cache_hit_rate": _rounded(hit_rate(before, after, last)),
            "quiescent": all(self._quiet.values()),
        }
        return observed, why_untold(metrics, before, after, observed, self._errors.get("after"))


def _energy_untold(
    energy: Mapping[str, Energy], output_tokens: int | None, failed: str | None
) -> Iterator[tuple[str, str]]:
    for meter, spent in energy.items():
        if spent.joules is None:
            yield f"energy_{meter}", failed or spent.missing or "not measured"
        elif not output_tokens:
            yield f"energy_per_output_token_{meter}", "no output tokens are known"


def _gained(before: float | None, after: float | None) -> int | None:
    """What a counter grew by; None where it was not told, or fell because the server was started anew."""
    return round(after - before) if before is not None and after is not None and after >= before else None


def _error(scrape: Scrape) -> str | None:
    return "; ".join(f"{path}: {answer.error}" for path, answer in scrape.answers.items() if answer.error) or None


def _totals(sample: MetricSample) -> list[float | None]:
    """What grows while a server works."""
    counts = [None if histogram is None else histogram.count for histogram in sample.timings.values()]
    return [sample.scalars[Scalar.GENERATION_TOKENS], sample.scalars[Scalar.PROMPT_TOKENS], *counts]


def _write_series(metrics: MetricMap, folder: Path) -> None:
    """The common names over time: a row a scrape, `error` where the server did not answer."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [_row(metrics, scrape) for scrape in read_scrapes(folder / RAW)]
    names = [*(name.value for name in Scalar), *(f"{name}_{part}" for name in Timing for part in ("sum_s", "count"))]
    columns: dict[str, Any] = {name: pa.array([row["times"][name] for row in rows], pa.int64()) for name in _TIMES}
    columns["error"] = pa.array([row["error"] for row in rows], pa.string())
    columns |= {name: pa.array([row["values"][name] for row in rows], pa.float64()) for name in names}
    temporary = folder / f".{SERIES}.tmp"
    pq.write_table(pa.table(columns), temporary, compression="zstd")
    sync(temporary)
    temporary.replace(folder / SERIES)


_TIMES = ("t_ns", "took_ns")


def _row(metrics: MetricMap, scrape: Scrape) -> dict[str, Any]:
    sample = read_sample(metrics, scrape.texts, buckets=False)
    values: dict[str, float | None] = {name.value: value for name, value in sample.scalars.items()}
    for name, histogram in sample.timings.items():
        values[f"{name}_sum_s"] = None if histogram is None else histogram.total
        values[f"{name}_count"] = None if histogram is None else histogram.count
    took_ns = sum(answer.took_ns for answer in scrape.answers.values())
    times = {"t_ns": scrape.t_ns, "took_ns": took_ns}
    return {"times": times, "error": _error(scrape), "values": values}


def _read_series(path: Path) -> Mapping[str, list[float | None]]:
    import pyarrow.parquet as pq

    found: Mapping[str, list[float | None]] = pq.read_table(path, columns=list(PEAKS)).to_pydict()
    return found


def _peak(values: Sequence[float | None] | None) -> float | None:
    return max((value for value in values or () if value is not None), default=None)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)
