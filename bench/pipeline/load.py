"""One scenario against a cell's server, with what the server and the machine say about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.base.errors import CellFailure, FailureKind
from bench.base.files import read_from, read_json, tail, write_json
from bench.base.progress import Progress
from bench.base.validity import Reason, reasons
from bench.engines.base import ServerCounters
from bench.engines.health import HealthWatch
from bench.load.config import ScenarioConfig, WorkloadConfig
from bench.load.own_error import flattered_by_cache, prefixes_are_shared
from bench.load.record import salvage
from bench.load.run import run_scenario
from bench.load.target import Target
from bench.pipeline.endpoint import LazyEndpoint
from bench.pipeline.gpus import others_on_gpu
from bench.pipeline.keys import scenario_key
from bench.pipeline.watch import Watch
from bench.store.run import CellStore, ChildKind, ChildSlot
from bench.telemetry.others import OthersWatch, is_busy

#: Written last of all: a scenario without it is measured again.
OBSERVED = "observed.json"


def scenario_slot(store: CellStore, name: str, scenario: ScenarioConfig, workload: WorkloadConfig) -> ChildSlot:
    """Where the scenario is, or will be, recorded."""
    return store.child(ChildKind.SCENARIO, name, scenario_key(scenario, workload))


def is_measured(slot: ChildSlot) -> bool:
    """Whether the scenario and what was observed beside it are on disk."""
    return slot.is_complete() and (slot.directory / OBSERVED).is_file()


def read_observed(slot: ChildSlot) -> dict[str, Any]:
    """What was observed beside a scenario that is measured already."""
    observed: dict[str, Any] = read_json(slot.directory / OBSERVED)
    return observed


def load_scenario(
    endpoint: LazyEndpoint,
    slot: ChildSlot,
    scenario: ScenarioConfig,
    workload: WorkloadConfig,
    *,
    repeat: int,
    progress: Progress,
) -> dict[str, Any]:
    """Run a scenario; returns its cell entry's fields `validity` and `observed`.

    Raises CellFailure when the server died or answered nothing. The server's own token counters are read before and
    after, so that what we counted can be held against them.
    """
    running = endpoint.get()
    kept = salvage(slot.directory)
    if kept is not None:
        progress.within(stage="load").say(f"{slot.name}: {kept} requests of a killed run are kept as a partial result")
    folder = slot.prepare()
    before = running.counters()
    shared = others_on_gpu(running.tree_pid)
    watch = Watch(running, folder, lambda: endpoint.memory_bytes)
    with watch, OthersWatch() as others, HealthWatch(running) as health:
        summary = run_scenario(
            Target(url=running.url, model=running.model, api_key=running.api_key or None),
            scenario,
            workload,
            folder,
            name=slot.name,
            repeat=repeat,
            progress=progress.within(stage="load"),
            stop_when=health.lost,
        )
    running.raise_if_dead()
    if health.lost():
        endpoint.leave()
        raise health.failure()
    failure = summary["failure"]
    if failure is not None:
        if failure["kind"] == FailureKind.UNHEALTHY:
            endpoint.leave()
        raise CellFailure(FailureKind(failure["kind"]), failure["message"], log_tail=tail(running.log))
    after = running.counters()
    shared = shared or others_on_gpu(running.tree_pid)
    counted = totals(summary["tokens"])
    shares = prefixes_are_shared(scenario, workload)
    observed = observe(before, after, counted=counted, others_cores=others.cores, prefixes_are_shared=shares)
    observed |= watch.observed(counted["output_tokens"])
    logged = read_from(running.log, running.log_start) if running.log.exists() else ""
    said = running.engine.serving_reasons(logged)
    observed["validity"] += reasons(Reason.OTHERS_ON_GPU if shared else None, *said)
    write_json(folder / OBSERVED, observed)
    return observed


def totals(tokens: Mapping[str, Mapping[str, int | None]]) -> dict[str, int | None]:
    """Tokens of all requests, warm-up too, as the server counted them; None where a part is unknown."""
    names = ("prompt_tokens", "cached_tokens", "output_tokens")
    parts = {name: [part.get(name) for part in tokens.values()] for name in names}
    return {name: None if None in counts else sum(filter(None, counts)) for name, counts in parts.items()}


def observe(
    before: ServerCounters | None,
    after: ServerCounters | None,
    *,
    counted: Mapping[str, int | None],
    others_cores: float | None,
    prefixes_are_shared: bool = False,
) -> dict[str, Any]:
    """Hold our totals of all requests (warm-up too) against the server's counters over the scenario."""
    server = {name: _difference(name, before, after) for name in ("prompt_tokens", "generation_tokens")}
    generated, ours = server["generation_tokens"], counted.get("output_tokens")
    mismatch = generated is not None and ours is not None and generated != ours
    busy = others_cores is not None and is_busy(others_cores)
    cached = cached_share(counted, server["prompt_tokens"])
    flattered = frozenset() if prefixes_are_shared else flattered_by_cache(cached or 0.0)
    return {
        "server": server,
        "counted": {name: counted.get(name) for name in ("prompt_tokens", "cached_tokens", "output_tokens")},
        "cached_share": cached,
        "others_cores": None if others_cores is None else round(others_cores, 3),
        "validity": reasons(Reason.TOKEN_MISMATCH if mismatch else None, Reason.BUSY_MACHINE if busy else None),
        "spoiled": {Reason.PREFIX_CACHED.value: sorted(flattered)} if flattered else {},
    }


def cached_share(counted: Mapping[str, int | None], processed: int | None) -> float | None:
    """Share of prompt tokens that the server took from its cache: as its answers say, and as its counter shows.

    A counter of *processed* prompt tokens (llama.cpp's) lacks those from the cache; one of all prompt tokens (vLLM's)
    lacks none and says nothing. The larger of the two counts; None where neither is known.
    """
    prompt, said = counted.get("prompt_tokens"), counted.get("cached_tokens")
    if not prompt:
        return None
    known = [said] if said is not None else []
    if processed is not None:
        known.append(max(0, prompt - processed))
    return round(max(known) / prompt, 4) if known else None


def _difference(name: str, before: ServerCounters | None, after: ServerCounters | None) -> int | None:
    if before is None or after is None:
        return None
    first, last = getattr(before, name), getattr(after, name)
    return None if first is None or last is None else last - first
