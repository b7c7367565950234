"""What many tests need: real data, prerequisites that must be there in CI, the command line as users run it."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import subprocess
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

CHECKOUT = Path(__file__).resolve().parents[1]


def in_ci() -> bool:
    """Whether a missing prerequisite is a failure."""
    return os.environ.get("CI", "").lower() in {"1", "true"}


def require(present: bool, reason: str) -> None:
    """Skip the test where a prerequisite is missing; in CI that is a failure."""
    if present:
        return
    if in_ci():
        pytest.fail(f"missing in CI: {reason}")
    pytest.skip(reason)


def test_data(relative: str) -> Path:
    """A file of the real evaluation data, found through QUANTBENCH_TEST_DATA."""
    root = Path(os.environ.get("QUANTBENCH_TEST_DATA", CHECKOUT.parent / "shared" / "data"))
    path = root / relative
    require(path.exists(), f"{relative} is not below QUANTBENCH_TEST_DATA")
    return path


test_data.__test__ = False  # type: ignore[attr-defined]  # its name reads well in tests, and pytest must not collect it


#: The quickstart with fewer requests and less text, so that a test takes seconds.
SMALL = (
    "experiment=quickstart",
    "scenarios.c1.requests=4",
    "scenarios.c4.requests=16",
    "scenarios.poisson.requests=8",
    "scenarios.poisson.rate_per_s=2",
    "workloads.default.output_tokens=16",
    "tasks.perplexity.windows=2",
    "tasks.divergence.windows=2",
    "tasks.mmlu.subjects=[history,physics]",
    "tasks.mmlu.limit=3",
)
#: What the tests of the main job run: the quickstart cut short, or with QUANTBENCH_TEST_WHOLE=1 the whole of it.
WHOLE = os.environ.get("QUANTBENCH_TEST_WHOLE", "") == "1"
QUICKSTART = SMALL[:1] if WHOLE else SMALL
#: Of the short one, one variant under one load with nothing to score.
ONE_LOAD = (
    *(*SMALL, "scheme=gguf_q8_0", "~scenarios.c4", "~scenarios.poisson"),
    *("~tasks.perplexity", "~tasks.divergence", "~tasks.mmlu"),
)

Answer = subprocess.CompletedProcess[str]


@dataclass(frozen=True)
class Workspace:
    """A folder to run in and a cache whose artefacts are the test's own; toolchains and sources are shared."""

    folder: Path
    cache: Path

    @property
    def env(self) -> dict[str, str]:
        """What makes quantbench use this workspace."""
        return {"QUANTBENCH_CACHE": str(self.cache)}

    def run(self, *arguments: str, timeout_s: float = 600) -> Answer:
        """Run quantbench here."""
        return quantbench(*arguments, cwd=self.folder, env=self.env, timeout_s=timeout_s)


def quantbench(*arguments: str, cwd: Path, env: Mapping[str, str] | None = None, timeout_s: float = 600) -> Answer:
    """Run the command line in a process of its own."""
    return subprocess.run(
        command_line(arguments),
        cwd=cwd,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def started_from(workspace: Workspace) -> list[psutil.Process]:
    """Living processes that serve, score or ask out of the workspace."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if any(str(place) in word for word in process.cmdline() for place in (workspace.cache, workspace.folder)):
                found.append(process)
    return found


def command_line(arguments: Sequence[str]) -> list[str]:
    """How tests start quantbench."""
    return [sys.executable, "-m", "bench", *arguments]


@contextlib.contextmanager
def worker_module(name: str, *, absent: Sequence[str]) -> Iterator[Any]:
    """A module of bench/engines/workers without its toolchain: empty modules stand where `absent` ones are imported."""
    empty = {wanted: types.ModuleType(wanted) for wanted in absent if wanted not in sys.modules}
    sys.modules.update(empty)
    try:
        file = CHECKOUT / "bench" / "engines" / "workers" / f"{name}.py"
        spec = importlib.util.spec_from_file_location(f"{name}_under_test", file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield module
    finally:
        for wanted in empty:
            del sys.modules[wanted]
