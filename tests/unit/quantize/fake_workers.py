"""Workers of ours in the places of those that quantize, and a toolchain that runs them with this Python."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.base.progress import Progress, ProgressEvent
from bench.toolchains.toolchain import Toolchain
from quantize.artefact import Artefact
from quantize.models import LocalConfig
from quantize.run import quantize
from quantize.schemes.base import SchemeConfig

WORKER = '''\
"""Writes down what it was asked, and behaves as it was told."""
import json, os, pathlib, shutil, signal

BEHAVIOUR = {behaviour!r}
ASKED = {asked!r}
WRITTEN = {written!r}
RESULT = {result!r}


class Failed(Exception):
    def __init__(self, kind, message):
        super().__init__(message)
        self.kind = kind


def run(request, progress):
    view = pathlib.Path(request["source"])
    seen = sorted(os.listdir(view)) if view.is_dir() else None
    used = request.get("calibration") or {{}}
    lines = pathlib.Path(used["file"]).read_text().count("\\n") if used else None
    threads = os.environ.get("OMP_NUM_THREADS")
    with open(ASKED, "a") as stream:
        print(json.dumps({{**request, "seen": seen, "lines": lines, "omp": threads}}), file=stream)
    progress(1, 2, "layers", "working")
    if BEHAVIOUR == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if BEHAVIOUR:
        raise Failed(BEHAVIOUR, f"scheme.x: it failed in {{request['out']}}\\nin two lines")
    shutil.copytree(WRITTEN, request["out"])
    return RESULT
'''


class FakeBench:
    """A cache and the record of what workers were asked."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch, module: str) -> None:
        self.root = root
        self.cache = root / "cache"
        self.events: list[ProgressEvent] = []
        self.result: dict[str, Any] = {}
        self.written = root / "written"
        self.written.mkdir()
        self._asked = root / "asked.jsonl"
        self.workers = root / "workers"
        self.workers.mkdir()
        monkeypatch.setattr(f"{module}.WORKERS", self.workers)

    def behave(self, name: str, behaviour: str = "") -> None:
        """Have the worker `name` write `written` and give `result`, or fail with a kind."""
        text = WORKER.format(behaviour=behaviour, asked=str(self._asked), written=str(self.written), result=self.result)
        (self.workers / f"{name}.py").write_text(text, encoding="utf-8")

    @property
    def asked(self) -> list[dict[str, Any]]:
        """The requests so far."""
        lines = self._asked.read_text().splitlines() if self._asked.exists() else []
        return [json.loads(line) for line in lines]

    def lock(self, name: str) -> str:
        return f"lock of {name}"

    def ensure(self, name: str, progress: Progress) -> Toolchain:
        return Toolchain(name=name, lock_hash=self.lock(name), prefix=self.root, python=Path(sys.executable))

    def make(self, path: Path, scheme: SchemeConfig) -> Artefact:
        model = LocalConfig(path=str(path))
        return quantize(model, scheme, cache=self.cache, progress=Progress(self.events.append), toolchains=self)
