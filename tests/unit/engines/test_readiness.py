"""When a start is given up, and what a log tells of it."""

from __future__ import annotations

import contextlib
import os
import re
import time
from pathlib import Path

import pytest

from bench.base.clock import NS_PER_S, FakeClock, SystemClock
from bench.base.errors import CellFailure
from bench.base.process import clean_env, free_port, spawn
from bench.base.progress import Progress
from bench.engines.base import Launch, ServedModel, StartPhase
from bench.engines.llama_cpp import START_PHASES
from bench.engines.readiness import Patience, Signs, await_ready, newest_phase, tree_use
from bench.engines.running import Endpoint
from bench.engines.tensorrt_llm import TensorRtLlm
from bench.engines.tgi import Tgi
from bench.engines.transformers import Transformers
from tests.plugins.imaginary_engine import Imaginary, ImaginaryConfig


class Start:
    """A start that is looked at every half second."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.patience = Patience(self.clock, quiet_s=10.0, limit_s=100.0)
        self.signs = Signs()
        self.refuses = False

    def seen(self, seconds: float, *, log: int = 0, cpu: float = 0.0, read: int = 0) -> str:
        """What is said after `seconds` in which so much is used each second; empty while there is hope."""
        for _ in range(round(2 * seconds)):
            self.clock.sleep_ns(NS_PER_S // 2)
            self.signs = Signs(
                log_bytes=self.signs.log_bytes + log // 2,
                cpu_s=self.signs.cpu_s + cpu / 2,
                read_bytes=self.signs.read_bytes + read // 2,
            )
            self.patience.see(self.signs, refuses=self.refuses)
            if self.patience.exhausted:
                break
        return self.patience.exhausted

    @property
    def now_s(self) -> float:
        return self.clock.now_ns() / NS_PER_S


def test_silence_ends_a_start() -> None:
    start = Start()
    assert "no sign of progress for 10 s" in start.seen(60)
    assert start.now_s == 10.0


@pytest.mark.parametrize("work", [{"log": 20}, {"cpu": 1.0}, {"cpu": 0.1}, {"read": 4 << 20}])
def test_any_sign_of_progress_keeps_it_going_up_to_the_limit(work: dict[str, int]) -> None:
    start = Start()
    assert start.seen(90, **work) == ""
    assert "generated nothing within 100 s; raise engine.start_limit_s" in start.seen(60, **work)
    assert start.now_s == 100.0


@pytest.mark.parametrize("idle", [{"cpu": 0.02}, {"read": 4096}])
def test_what_an_idle_server_uses_is_no_progress(idle: dict[str, int]) -> None:
    start = Start()
    assert start.seen(60, **idle)
    assert start.now_s == 10.0


def test_of_a_server_that_refuses_only_work_is_progress() -> None:
    start = Start()
    start.refuses = True
    assert start.seen(20, log=20, cpu=1.0) == ""
    assert "no sign of progress for 10 s" in start.seen(60, log=20)
    assert start.now_s == 30.0


def test_silence_counts_from_the_last_sign() -> None:
    start = Start()
    assert start.seen(8) == ""
    assert start.seen(1, log=10) == ""
    assert start.seen(9) == ""
    assert start.seen(1)


def test_the_newest_phase_counts_and_may_use_what_it_found() -> None:
    phases = (
        StartPhase(pattern=re.compile(r"shards: +(\d+)%"), words="loading weights {0} %"),
        StartPhase(pattern=re.compile("capturing"), words="capturing CUDA graphs"),
    )
    log = "shards:  10%\nshards:  35%\nsomething else\n"
    assert newest_phase(log, phases) == "loading weights 35 %"
    assert newest_phase(log + "capturing 1 of 8\n", phases) == "capturing CUDA graphs"
    assert newest_phase("nothing known\n", phases) is None


@pytest.mark.parametrize(
    ("phases", "line", "words"),
    [
        (START_PHASES, "0.00.025.296 I srv    load_model: loading model '/m/model.gguf'", "loading weights"),
        (START_PHASES, "0.00.944.758 I srv    load_model: initializing, n_slots = 4", "making the context"),
        (Tgi.start_phases, "INFO text_generation_launcher: Waiting for shard to be ready... rank=0", "loading weights"),
        (Tgi.start_phases, "INFO text_generation_router_v3: Warming up model", "warming up"),
        (Transformers.start_phases, "Loading weights:  35%|###5      | 95/272 [00:01<00:02]", "loading weights 35 %"),
        (TensorRtLlm.start_phases, "Loading weights concurrently:  35%|###5", "loading weights 35 %"),
    ],
)
def test_engines_tell_their_phases(phases: tuple[StartPhase, ...], line: str, words: str) -> None:
    assert newest_phase(line, phases) == words


def test_a_processes_use_is_seen() -> None:
    before, _ = tree_use(os.getpid())
    end = time.process_time() + 0.3
    while time.process_time() < end:
        pass
    after, _ = tree_use(os.getpid())
    assert after - before >= 0.25
    assert tree_use(2**22 + 1) == (0.0, 0)


@pytest.mark.parametrize("found", [True, False])
def test_a_containers_work_is_seen_where_its_process_is_found(tmp_path: Path, found: bool) -> None:
    """It logs nothing while it works for 3 s."""
    config = ImaginaryConfig(behaviour="works_long", start_timeout_s=1.5)
    launch = Launch(host="127.0.0.1", port=free_port(), api_key="k")
    made = Imaginary().command(config, ServedModel(format="gguf", path=tmp_path, name="m"), launch, None)
    log = tmp_path / "engine.log"
    with log.open("wb") as output, spawn(made.argv, output=output, env=clean_env(extra=made.secret_env)) as process:
        endpoint = Endpoint(
            url=f"http://127.0.0.1:{launch.port}",
            model="m",
            api_key="k",
            command=made,
            process=process,
            log=log,
            ready_s=None,
            engine=Imaginary(),
            contained=True,
        )
        waiting = contextlib.nullcontext() if found else pytest.raises(CellFailure, match="no sign of progress")
        with waiting:
            await_ready(
                endpoint,
                config,
                progress=Progress(),
                clock=SystemClock(),
                find_pid=lambda: process.supervisor_pid if found else None,
            )
