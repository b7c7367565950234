"""Running one scenario against one endpoint: draw, send, digest, summarise, record."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bench.base.clock import NS_PER_S, utc_now
from bench.base.errors import UsageError
from bench.base.progress import Progress
from bench.load.config import (
    ClosedConfig,
    OpenConfig,
    ScenarioConfig,
    SyntheticConfig,
    TimeSource,
    WorkloadConfig,
)
from bench.load.crew import Counts, Crew, Stopped, death
from bench.load.flush import Flusher
from bench.load.outcome import ErrorKind
from bench.load.payload import ROUTES, request_body
from bench.load.preflight import open_client, token_counter
from bench.load.prompts import Prompts, draw_prompts, fit_prompts
from bench.load.record import FILES, Asked, digest_for, worker_specs, write_asked, write_result
from bench.load.schedule import draw_offsets, users_of, worker_of, workers_used
from bench.load.spec import WorkerSpec, write_plan
from bench.load.stamps import kernel_stamps_available
from bench.load.table import load_parquet
from bench.load.target import Address, Target, parse_url

_WARMUP_USERS = 4


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """Everything drawn and resolved before the first byte is sent."""

    name: str
    repeat: int
    scenario: ScenarioConfig
    workload: WorkloadConfig
    target: Target
    address: Address
    family: int
    socket_address: Any
    kernel_stamps: bool
    prompts: Prompts
    raw: Path


def run_scenario(
    target: Target,
    scenario: ScenarioConfig,
    workload: WorkloadConfig,
    out: Path,
    *,
    name: str = "scenario",
    repeat: int = 0,
    progress: Progress = Progress(),  # noqa: B008 - immutable
    context: Mapping[str, Any] = {},
    stop_when: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Ask `workload` of `target` as `scenario` says; leave requests.parquet, events.parquet, summary.json and, last,
    manifest.json in `out`; return the summary.

    The summary's `status` is `complete`, `partial` (interrupted: KeyboardInterrupt is raised again after the files are
    written; or ended early because `stop_when`, which is asked about twice a second, became true) or `failed` (the
    circuit breaker tripped, a worker died, or no request succeeded; `failure` says which).
    `context` goes into the manifest as it is. Raises UsageError when the endpoint cannot be reached or the time source
    is not to be had, CellFailure(client_fault) when the workers cannot start.
    """
    _clear(out)
    started = utc_now()
    progress.say(f"preparing {scenario.requests} requests")
    plan = _prepare(target, scenario, workload, out / "raw", name=name, repeat=repeat)
    asked = _asked(plan, started=started, context=context)
    write_asked(asked, plan.raw)
    ending = _send(plan, progress, stop_when)
    progress.say("recording")
    summary = write_result(asked, out, worker_specs(asked, plan.raw), interrupted=ending is not None)
    if not scenario.keep_raw:
        shutil.rmtree(plan.raw)
    if ending is KeyboardInterrupt:
        raise KeyboardInterrupt
    return summary


def _clear(out: Path) -> None:
    """An older result in `out` stops existing with its manifest, then goes."""
    for name in ("manifest.json", *FILES):
        (out / name).unlink(missing_ok=True)
    shutil.rmtree(out / "raw", ignore_errors=True)
    (out / "raw").mkdir(parents=True)


# ---- before


def _prepare(
    target: Target, scenario: ScenarioConfig, workload: WorkloadConfig, raw: Path, *, name: str, repeat: int
) -> _Plan:
    address = parse_url(target.url)
    family, socket_address = address.connect(scenario.connect_s)
    available = kernel_stamps_available(family=family)
    if scenario.time_source is TimeSource.kernel and not available:
        raise UsageError("scenario.time_source=kernel: no kernel stamps for Unix sockets or outside Linux; use auto")
    return _Plan(
        name=name,
        repeat=repeat,
        scenario=scenario,
        workload=workload,
        target=target,
        address=address,
        family=family,
        socket_address=socket_address,
        kernel_stamps=available and scenario.time_source is not TimeSource.user,
        prompts=_make_prompts(target, workload, scenario.warmup + scenario.requests, name=name, repeat=repeat),
        raw=raw,
    )


def _asked(plan: _Plan, *, started: str, context: Mapping[str, Any]) -> Asked:
    return Asked(
        name=plan.name,
        repeat=plan.repeat,
        scenario=plan.scenario,
        workload=plan.workload,
        url=plan.target.url,
        model=plan.target.model,
        kernel_stamps=plan.kernel_stamps,
        prompts=plan.prompts,
        started=started,
        context=context,
    )


def _make_prompts(target: Target, workload: WorkloadConfig, number: int, *, name: str, repeat: int) -> Prompts:
    if not isinstance(workload, SyntheticConfig):
        raise UsageError(f"workload kind '{workload.kind}' is not one that the load generator can ask; use synthetic")
    texts = draw_prompts(workload, number, name=name, repeat=repeat)
    words = Prompts(texts=texts, exact=False, how="one word counted as one token")
    if not workload.tokenize:
        return words
    with open_client(target) as client:
        counter = token_counter(client, target, workload.api)
        if counter is None:
            return words
        try:
            return fit_prompts(texts, workload.input_tokens, counter)
        except OSError as error:
            return dataclasses.replace(words, how=f"{words.how} ({error})")


def _requests_of(plan: _Plan, worker: int) -> Iterator[tuple[int, bool, int, bytes]]:
    """The share of one worker: (slot, main, offset_ns, body). Slots below `warmup` are the warm-up."""
    scenario = plan.scenario
    offsets = draw_offsets(scenario, plan.repeat) if isinstance(scenario, OpenConfig) else None
    for slot, prompt in enumerate(plan.prompts.texts):
        main = slot >= scenario.warmup
        position = slot - scenario.warmup if main else slot
        if worker_of(scenario, position) == worker:
            offset_ns = int(offsets[position]) if main and offsets is not None else 0
            yield slot, main, offset_ns, request_body(plan.workload, plan.target.model, prompt)


def _make_spec(plan: _Plan, worker: int, commands_fd: int, reports_fd: int) -> WorkerSpec:
    scenario = plan.scenario
    closed = scenario if isinstance(scenario, ClosedConfig) else None
    users = users_of(closed, worker) if closed else 0
    duration_s = closed.duration_s if closed else None
    spec = WorkerSpec(
        directory=str(plan.raw.resolve()),
        stem=f"worker{worker}",
        worker=worker,
        name=f"{plan.name}-{plan.repeat}",
        tls=plan.address.tls,
        ca_file=plan.target.ca_file,
        server_name=plan.address.host,
        authority=plan.address.authority,
        path=plan.address.path + ROUTES[plan.workload.api],
        family=plan.family,
        address=plan.socket_address,
        kernel_stamps=plan.kernel_stamps,
        closed=closed is not None,
        users=users,
        warmup_users=users or _WARMUP_USERS,
        think_ns=round(closed.think_time_s * NS_PER_S) if closed else 0,
        duration_ns=None if duration_s is None else round(duration_s * NS_PER_S),
        connect_ns=round(scenario.connect_s * NS_PER_S),
        first_token_ns=round(scenario.first_token_s * NS_PER_S),
        stall_ns=round(scenario.stall_s * NS_PER_S),
        total_ns=round(scenario.total_s * NS_PER_S),
        breaker=scenario.breaker,
        commands_fd=commands_fd,
        reports_fd=reports_fd,
    )
    write_plan(spec, _requests_of(plan, worker))
    return spec


# ---- during


def _send(plan: _Plan, progress: Progress, stop_when: Callable[[], bool]) -> type[BaseException] | None:
    """Run the workers to their end; what ended them early, if anything did: KeyboardInterrupt or Stopped."""
    total = len(plan.prompts.texts)

    def show(counts: Counts) -> None:
        failed = f", {counts['failed']} failed" if counts["failed"] else ""
        progress.advance(counts["done"], total, "requests", f"{counts['in_flight']} in flight{failed}")

    ending: type[BaseException] | None = None
    with Crew(show, stop_when) as crew, Flusher(plan.raw):
        for worker in range(workers_used(plan.scenario)):
            crew.start(partial(_make_spec, plan), worker, plan.target.api_key)
        load_parquet()  # while the workers start, rather than between the last request and the record
        try:
            crew.await_ready()
            crew.go()
            crew.await_state("warm")
            crew.go()
            crew.await_done()
        except (KeyboardInterrupt, Stopped) as early:
            ending = type(early)
            crew.stop()
            crew.await_done(stopping=True)
        dead = crew.dead()
    for spec in dead:
        cause = death(spec, "a load worker died; what it had recorded is kept")
        died = {"kind": cause.kind.value, "message": str(cause)}
        digest_for(spec, died=died, unfinished=ErrorKind.client.value)
    return ending
