"""The whole harness side of quantizing, with a program of ours in the place of llama-quantize."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from bench.base.errors import CellFailure, FailureKind
from bench.base.progress import Progress, ProgressEvent
from bench.toolchains.toolchain import Toolchain
from quantize.models import LocalConfig
from quantize.run import quantize
from quantize.schemes.gguf import GgufConfig, GgufType
from tests.support import CHECKOUT
from tests.unit.quantize.gguf_writer import gguf_bytes, write_gguf

PROGRAM = """\
#!{python}
import os, pathlib, sys, time
log = pathlib.Path({log!r})
with log.open("a") as stream:
    print(*sys.argv[1:], file=stream)
behaviour = {behaviour!r}
for done in (1, 2):
    print(f"[   {{done}}/   2] blk.{{done}}", flush=True)
if behaviour == "fail":
    sys.exit("error: tensor is odd")
if behaviour == "cause":
    print("llama_model_quantize: failed to quantize: unknown model architecture")
    sys.exit("llama_quantize: failed to quantize model from 'x'")
if behaviour == "iostream":
    sys.exit("llama_model_quantize: failed to quantize: basic_ios::clear: iostream error")
if behaviour == "full":
    sys.exit("write failed: No space left on device")
if behaviour == "killed":
    os.kill(os.getpid(), 9)
pathlib.Path(sys.argv[3]).write_bytes(b"GGUF" if behaviour == "broken" else pathlib.Path({written!r}).read_bytes())
if behaviour == "hang":
    time.sleep(60)
"""


class Bench:
    """A cache, a source and a toolchain whose llama-quantize is PROGRAM."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.cache = root / "cache"
        self.calls_log = root / "calls.log"
        self.source = write_gguf(root / "source.gguf")
        self.events: list[ProgressEvent] = []
        self.behave("work")

    def behave(self, behaviour: str, written: bytes | None = None) -> None:
        folder = self.root / "bin"
        folder.mkdir(exist_ok=True)
        result = self.root / "written.gguf"
        result.write_bytes(written if written is not None else gguf_bytes())
        program = folder / "llama-quantize"
        program.write_text(
            PROGRAM.format(python=sys.executable, log=str(self.calls_log), behaviour=behaviour, written=str(result)),
            encoding="utf-8",
        )
        program.chmod(0o755)

    def lock(self, name: str) -> str:
        return f"lock of {name}"

    def ensure(self, name: str, progress: Progress) -> Toolchain:
        return Toolchain(
            name=name,
            lock_hash=self.lock(name),
            prefix=self.root,
            python=Path(sys.executable),
            bin_dirs=(self.root / "bin",),
        )

    @property
    def calls(self) -> list[list[str]]:
        return [line.split() for line in self.calls_log.read_text().splitlines()] if self.calls_log.exists() else []

    @property
    def artefacts(self) -> list[Path]:
        folder = self.cache / "artefacts"
        return [entry for entry in folder.iterdir() if entry.is_dir()] if folder.exists() else []

    def quantize(self, kind: GgufType) -> object:
        return quantize(
            LocalConfig(path=str(self.source)),
            GgufConfig(type=kind, threads=3),
            cache=self.cache,
            progress=Progress(self.events.append),
            toolchains=self,
        )


@pytest.fixture
def tools(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_manifest_progress_and_cache_hit(tools: Bench) -> None:
    made = quantize(
        LocalConfig(path=str(tools.source)),
        GgufConfig(type=GgufType.F16, threads=3),
        cache=tools.cache,
        progress=Progress(tools.events.append),
        toolchains=tools,
    )
    assert made.model_path.read_bytes() == gguf_bytes()
    manifest = made.manifest
    assert manifest["key"] == made.key == made.directory.name
    assert (manifest["label"], manifest["format"], manifest["schema_version"]) == ("F16", "gguf", 1)
    assert manifest["command"] == ["llama-quantize", "--allow-requantize", "source.gguf", "model.gguf", "F16", "3"]
    assert manifest["scheme"]["type"] == "F16"
    assert manifest["parameters"] == 160
    assert manifest["tensor_types"][0] == {"type": "Q8_0", "tensors": 1, "parameters": 128, "size_bytes": 136}
    assert manifest["files"][0]["size_bytes"] == manifest["size_bytes"] == len(gguf_bytes())
    assert manifest["toolchain"]["lock_hash"] == "lock of llama_cpp"
    assert manifest["wall_s"] > 0
    assert manifest["peak_rss_bytes"] > 0
    assert str(tools.root) not in str(manifest)
    assert (2, 2, "tensors") in [(event.done, event.total, event.unit) for event in tools.events]
    assert [call[-1] for call in tools.calls] == ["3"]
    tools.quantize(GgufType.F16)
    assert len(tools.calls) == 1, "a repeat must be a cache hit"


def test_a_quantized_source_goes_through_one_f16_artefact(tools: Bench) -> None:
    tools.quantize(GgufType.Q8_0)
    tools.quantize(GgufType.Q4_0)
    tools.quantize(GgufType.F16)
    assert [call[3] for call in tools.calls] == ["F16", "Q8_0", "Q4_0"]
    master = Path(tools.calls[1][1])
    assert master.name == "model.gguf"
    assert master.parent in tools.artefacts
    assert tools.calls[2][1] == str(master)
    assert tools.calls[0][1] == str(tools.source)


def test_a_plain_source_is_its_own_master(tools: Bench) -> None:
    write_gguf(tools.source, (("output.weight", (32, 4), 1),))
    tools.quantize(GgufType.Q8_0)
    assert [(call[1], call[3]) for call in tools.calls] == [(str(tools.source), "Q8_0")]


@pytest.mark.parametrize(
    ("behaviour", "kind", "expected"),
    [
        ("fail", FailureKind.QUANTIZER, "exited with code 1: error: tensor is odd"),
        ("cause", FailureKind.QUANTIZER, "exited with code 1: unknown model architecture$"),
        ("full", FailureKind.DISK_FULL, "the disk is full"),
        ("killed", FailureKind.OUT_OF_MEMORY, "ran out of memory"),
        ("broken", FailureKind.QUANTIZER, "wrote no model"),
    ],
)
def test_failures_are_typed_and_leave_nothing(tools: Bench, behaviour: str, kind: FailureKind, expected: str) -> None:
    tools.behave(behaviour)
    with pytest.raises(CellFailure, match=expected) as caught:
        tools.quantize(GgufType.F16)
    assert caught.value.kind is kind
    assert "blk.2" in caught.value.log_tail
    assert tools.artefacts == []
    tools.behave("work")
    tools.quantize(GgufType.F16)
    assert len(tools.artefacts) == 1


def test_a_write_error_is_a_full_disk_only_where_the_disk_is_full(
    tools: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools.behave("iostream")
    kinds = []
    for free in (1 << 20, 1 << 40):
        monkeypatch.setattr("shutil.disk_usage", lambda _, free=free: type("Usage", (), {"free": free})())
        with pytest.raises(CellFailure) as caught:
            tools.quantize(GgufType.F16)
        kinds.append(caught.value.kind)
    assert kinds == [FailureKind.DISK_FULL, FailureKind.QUANTIZER]


def test_too_little_space_is_said_before_the_work(tools: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 10})())
    with pytest.raises(CellFailure, match="free some space") as caught:
        tools.quantize(GgufType.F16)
    assert caught.value.kind is FailureKind.DISK_FULL
    assert tools.calls == []


def test_a_fallback_is_a_visible_warning(tools: Bench) -> None:
    write_gguf(tools.source, (("up.weight", (96, 4), 1),))
    tools.behave("work", gguf_bytes((("up.weight", (96, 4), 6),)))
    artefact = tools.quantize(GgufType.Q4_K_M)
    (warning,) = artefact.manifest["warnings"]  # type: ignore[attr-defined]
    assert "1 of 1 tensors fell back: rows of 96" in warning


def test_kill_9_while_quantizing_leaves_no_half_artefact(tools: Bench) -> None:
    tools.behave("hang")
    script = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        from tests.unit.quantize.test_quantize_run import Bench, GgufType
        tools = Bench.__new__(Bench)
        root = Path(sys.argv[1])
        tools.root, tools.cache, tools.source, tools.events = root, root / "cache", root / "source.gguf", []
        tools.quantize(GgufType.F16)
        """
    )
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    harness = subprocess.Popen([sys.executable, "-c", script, str(tools.root)], env=environment)
    deadline = time.monotonic() + 20
    while not list(tools.cache.glob("artefacts/.*.making/model.gguf")):
        assert time.monotonic() < deadline
        assert harness.poll() is None
        time.sleep(0.02)
    harness.send_signal(signal.SIGKILL)
    harness.wait()
    assert tools.artefacts == [] or all(not (entry / "manifest.json").exists() for entry in tools.artefacts)
    tools.behave("work")
    made = tools.quantize(GgufType.F16)
    assert made.model_path.read_bytes() == gguf_bytes()  # type: ignore[attr-defined]
    assert list(tools.cache.glob("artefacts/.*.making")) == []
