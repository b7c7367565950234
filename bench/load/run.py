"""Running one scenario against one endpoint: draw, send, digest, summarise, record."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bench.base.clock import NS_PER_S, utc_now
from bench.base.errors import UsageError
from bench.base.progress import Progress
from bench.load.arrivals.config import ClosedStagesConfig, SweepConfig
from bench.load.config import Api, ClosedConfig, ScenarioConfig, TimeSource, WorkloadConfig
from bench.load.crew import Counts, Crew, Stopped, death
from bench.load.flush import Flusher
from bench.load.live import LiveSampler
from bench.load.outcome import ErrorKind
from bench.load.parquet import load_parquet
from bench.load.payload import ROUTES
from bench.load.plan import Drawn, draw_plan
from bench.load.record import FILES, Asked, digest_for, worker_specs, write_asked, write_result
from bench.load.schedule import presence_of, users_of, workers_used
from bench.load.slo import SloConfig
from bench.load.spec import WorkerSpec
from bench.load.stamps import kernel_stamps_available
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
    drawn: Drawn
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
    slo: SloConfig = SloConfig(),  # noqa: B008 - immutable
) -> dict[str, Any]:
    """Ask `workload` of `target` as `scenario` says; leave requests.parquet, events.parquet, summary.json and, last,
    manifest.json in `out`; return the summary.

    The summary's `status` is `complete`, `partial` (interrupted: KeyboardInterrupt is raised again after the files are
    written; or ended early because `stop_when`, which is asked about twice a second, became true) or `failed` (the
    circuit breaker tripped, a worker died, or no request succeeded; `failure` says which).
    `context` goes into the manifest as it is; the summary says whether `slo` was held, and its goodput. A sweep runs
    one scenario a step; see `bench.load.sweep`.

    Raises UsageError when the endpoint cannot be reached, the time source is not to be had, or a file is not what it
    should be, CellFailure(client_fault) when the workers cannot start.
    """
    _clear(out)
    if isinstance(scenario, SweepConfig):
        from bench.load.sweep import run_sweep

        def run_step(step: ScenarioConfig, folder: Path, step_name: str) -> dict[str, Any]:
            return run_scenario(
                target,
                step,
                workload,
                folder,
                name=step_name,
                repeat=repeat,
                progress=progress,
                context=context,
                stop_when=stop_when,
                slo=slo,
            )

        return run_sweep(scenario, out, name=name, run_step=run_step)
    (out / "raw").mkdir(parents=True)
    started = utc_now()
    progress.say(f"preparing {scenario.requests or 'the'} requests")
    plan = _prepare(target, scenario, workload, out / "raw", name=name, repeat=repeat, progress=progress)
    asked = _asked(plan, started=started, context=context, slo=slo)
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
    for name in ("raw", "steps"):
        shutil.rmtree(out / name, ignore_errors=True)


# ---- before


def _prepare(
    target: Target,
    scenario: ScenarioConfig,
    workload: WorkloadConfig,
    raw: Path,
    *,
    name: str,
    repeat: int,
    progress: Progress,
) -> _Plan:
    address = parse_url(target.url)
    family, socket_address = address.connect(scenario.connect_s)
    available = kernel_stamps_available(family=family)
    if scenario.time_source is TimeSource.kernel and not available:
        raise UsageError("scenario.time_source=kernel: no kernel stamps for Unix sockets or outside Linux; use auto")
    drawn = draw_plan(
        target,
        scenario,
        workload,
        raw,
        name=name,
        repeat=repeat,
        on_drawn=lambda number: progress.advance(number, scenario.requests or None, "requests", "drawn"),
    )
    return _Plan(
        name=name,
        repeat=repeat,
        scenario=drawn.scenario,
        workload=workload,
        target=target,
        address=address,
        family=family,
        socket_address=socket_address,
        kernel_stamps=available and scenario.time_source is not TimeSource.user,
        drawn=drawn,
        raw=raw,
    )


def _asked(plan: _Plan, *, started: str, context: Mapping[str, Any], slo: SloConfig) -> Asked:
    return Asked(
        name=plan.name,
        repeat=plan.repeat,
        scenario=plan.scenario,
        workload=plan.workload,
        url=plan.target.url,
        model=plan.target.model,
        kernel_stamps=plan.kernel_stamps,
        prompts=plan.drawn.prompts,
        started=started,
        context=context,
        slo=slo,
    )


def _make_spec(plan: _Plan, worker: int, commands_fd: int, reports_fd: int) -> WorkerSpec:
    scenario = plan.scenario
    closed = scenario if isinstance(scenario, ClosedConfig) else None
    staged = scenario if isinstance(scenario, ClosedStagesConfig) else None
    users = len(users_of(scenario, worker))
    duration_s = closed.duration_s if closed else None
    return WorkerSpec(
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
        closed=closed is not None or staged is not None,
        users=users,
        warmup_users=users or _WARMUP_USERS,
        present=None if staged is None else [[list(shift) for shift in user] for user in presence_of(staged, worker)],
        sessions=plan.drawn.sessions,
        chat=plan.workload.api is Api.chat,
        duration_ns=None if duration_s is None else round(duration_s * NS_PER_S),
        connect_ns=round(scenario.connect_s * NS_PER_S),
        first_token_ns=round(scenario.first_token_s * NS_PER_S),
        stall_ns=round(scenario.stall_s * NS_PER_S),
        total_ns=round(scenario.total_s * NS_PER_S),
        breaker=scenario.breaker,
        commands_fd=commands_fd,
        reports_fd=reports_fd,
    )


# ---- during


def _send(plan: _Plan, progress: Progress, stop_when: Callable[[], bool]) -> type[BaseException] | None:
    """Run the workers to their end; what ended them early, if anything did: KeyboardInterrupt or Stopped."""
    total = plan.scenario.warmup + plan.scenario.requests

    workers = workers_used(plan.scenario)
    sampler = LiveSampler(plan.raw, [f"worker{worker}" for worker in range(workers)]) if progress.wants_live else None

    def show(counts: Counts) -> None:
        failed = f", {counts['failed']} failed" if counts["failed"] else ""
        live = None if sampler is None else {**vars(sampler.reading), **counts, "workers": workers}
        progress.advance(counts["done"], total, "requests", f"{counts['in_flight']} in flight{failed}", live=live)

    ending: type[BaseException] | None = None
    with Crew(show, stop_when) as crew, Flusher(plan.raw), sampler or contextlib.nullcontext():
        for worker in range(workers):
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
        except BaseException:
            progress.say("ended early")  # closes a live view, so that what follows is read
            raise
        dead = crew.dead()
    for spec in dead:
        cause = death(spec, "a load worker died; what it had recorded is kept")
        died = {"kind": cause.kind.value, "message": str(cause)}
        digest_for(spec, died=died, unfinished=ErrorKind.client.value)
    return ending
