"""Running programs that a model wrote, contained: bench/quality/workers/sandbox.py does it, in a process of its own."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.base.errors import UsageError
from bench.base.progress import Progress
from bench.toolchains.toolchain import Toolchain
from bench.toolchains.worker import WorkerError, run_worker

_WORKER = Path(__file__).parent / "workers" / "sandbox.py"


@dataclass(frozen=True, kw_only=True)
class Program:
    """What is run: `setup` defines things, `tests` assert them."""

    setup: str
    tests: str


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """How a program ended: `passed`, or why not (`detail`), after `wall_s` seconds with its sandbox."""

    verdict: str
    detail: str
    wall_s: float

    @property
    def passed(self) -> bool:
        """Whether all tests ended."""
        return self.verdict == "passed"


def containment(*, work_dir: Path, progress: Progress) -> str:
    """How programs are contained on this machine: `namespaces` or `landlock`; raises UsageError when they cannot be."""
    return str(_run({"task": "check"}, work_dir=work_dir, progress=progress)["level"])


def run_programs(
    programs: Sequence[Program],
    *,
    time_s: float,
    memory_mib: int,
    processes: int,
    work_dir: Path,
    progress: Progress,
) -> list[Verdict]:
    """The verdict on each program. Raises UsageError where they cannot be contained, WorkerError when the sandbox
    itself failed: what a program did is then not known."""
    scratch = work_dir / "scratch"
    scratch.mkdir(parents=True, exist_ok=True)
    request = {
        "task": "run",
        "programs": [{"setup": program.setup, "tests": program.tests} for program in programs],
        "time_s": time_s,
        "memory_mib": memory_mib,
        "processes": processes,
        "scratch": str(scratch),
    }
    answered = _run(request, work_dir=work_dir, progress=progress)["verdicts"]
    verdicts = [Verdict(**entry) for entry in answered]
    broken = next((verdict for verdict in verdicts if verdict.verdict == "sandbox_error"), None)
    if broken is not None:
        raise WorkerError("error", f"the sandbox failed: {broken.detail}")
    return verdicts


def _run(request: dict[str, Any], *, work_dir: Path, progress: Progress) -> dict[str, Any]:
    here = Toolchain(name="sandbox", lock_hash="", prefix=Path(sys.prefix), python=Path(sys.executable))
    log = work_dir / "sandbox.log"
    try:
        return run_worker(here, _WORKER, request, work_dir=work_dir, log=log, progress=progress)
    except WorkerError as error:
        if error.kind == "no_sandbox":
            raise UsageError(f"programs that a model wrote are not run without a sandbox: {error}") from error
        raise
