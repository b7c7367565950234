"""Every command the README shows, run as it stands there; a name that is the reader's own stands for a real thing."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from bench.base.paths import cache_dir
from bench.base.progress import Progress
from bench.load.truth.launch import TruthServer
from bench.toolchains.worker import run_worker
from quantize.run import ConfiguredToolchains
from tests.e2e.conftest import Quickstart
from tests.support import CHECKOUT, QUICKSTART, WHOLE, Workspace, command_line
from tests.unit.quantize.fake_hub import FakeHub, Repo

_ASSIGNMENT = re.compile(r"[A-Z_]+=\S+")
#: Commands over a toolchain that `make test` does not make.
_OTHER_TOOLCHAINS = (
    *("model.path=my-model", "model=hub", "engine=xllamacpp", "engine=vllm_cpu"),
    *("scheme=gptq_w4a16", "experiment=all_schemes", "my-pickles"),
)
#: The default experiment with less to do.
_LESS = (
    *("scenarios.c1.requests=2", "scenarios.c4.requests=4", "workloads.default.output_tokens=8"),
    *("tasks.perplexity.windows=1", "tasks.divergence.windows=1"),
)
#: Commands by a word in them → overrides that make them do less: half an hour of quantizing, calibration, all formats.
_LESS_OF = {
    "search": (
        *("search.start=40", "search.highest=40", "search.repeats=1", "search.probe_s=1", "slo.percentile=50"),
        "workload.output_tokens=16",
    ),
    "experiment=all_schemes": ("--dry-run",),
    "scheme=gptq_w4a16": ("scheme.calibration.samples=2", "scheme.calibration.length=64"),
    "scheme=gguf_q4_k_m_imatrix": (*_LESS, "scheme.calibration.chunks=2"),
    "verify": ("scheme=gguf_q8_0",),
    "engine=vllm_cpu": (
        *("scenarios.c1.requests=2", "~scenarios.c4", "workloads.default.output_tokens=4"),
        *("tasks.perplexity.windows=1", "~tasks.divergence"),
    ),
}


def shown_commands() -> list[str]:
    """The lines of the README's code blocks that are commands, continuation lines joined, comments cut."""
    text = (CHECKOUT / "README.md").read_text(encoding="utf-8").replace("\\\n", " ")
    blocks = [line.strip() for line in text.splitlines() if line.startswith("    ")]
    commands = [line for line in blocks if program_of(line) in ("quantbench", "make")]
    return [" ".join(shlex.split(line, comments=True)) for line in commands]


def program_of(command: str) -> str:
    """The first word that is no assignment of a variable."""
    return next((word for word in command.split() if not _ASSIGNMENT.fullmatch(word)), "")


COMMANDS = shown_commands()
OWN = [line for line in COMMANDS if not any(sign in line for sign in _OTHER_TOOLCHAINS)]
FURTHER = [line for line in COMMANDS if line not in OWN]


@dataclass(frozen=True)
class Reader:
    """Someone who reads the README: where, and what the names in it are for them."""

    workspace: Workspace
    names: Mapping[str, str]
    env: Mapping[str, str] = field(default_factory=dict)

    def words(self, command: str) -> list[str]:
        """The command's words with the reader's own things, and less to do where that is possible."""
        for name, own in self.names.items():
            command = re.sub(rf"(?<![\w/.-]){re.escape(name)}(?![\w/-])", own, command)
        words = shlex.split(command)
        return [*words, *less(words)]

    def start(self, command: str, *, into: int = subprocess.PIPE) -> subprocess.Popen[str]:
        """Start it here, `quantbench` being this checkout's."""
        words = self.words(command)
        number = sum(1 for _ in iter_assignments(words))
        own = dict(word.split("=", 1) for word in words[:number])
        argv = words[number:]
        argv = command_line(argv[1:]) if argv[0] == "quantbench" else make(argv[1:], self.workspace.folder)
        return subprocess.Popen(
            argv,
            cwd=self.workspace.folder,
            env={**os.environ, **self.workspace.env, **self.env, **own},
            stdout=into,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, command: str) -> str:
        """What it prints; it must succeed."""
        with self.start(command) as process:
            output, _ = process.communicate(timeout=1200)
        assert process.returncode == 0, output
        return output


def iter_assignments(words: list[str]) -> Iterator[str]:
    for word in words:
        if not _ASSIGNMENT.fullmatch(word):
            return
        yield word


def less(words: list[str]) -> tuple[str, ...]:
    """Overrides that make a command do less of the same; none where the whole is wanted or there is nothing to cut."""
    if WHOLE or "--dry-run" in words:
        return ()
    for sign, cut in _LESS_OF.items():
        if sign in words:
            return cut
    if not {"run", "evaluate"} & set(words[:4]):
        return ()
    if "experiment=quickstart" in words:
        return QUICKSTART[1:]
    asked = ("tasks.mmlu.limit=1",) if any("tasks.mmlu" in word for word in words) else ()
    return (*_LESS, *asked)


def make(arguments: list[str], folder: Path) -> list[str]:
    """This checkout's Makefile, in a folder that looks like a checkout, with the environment that runs the tests."""
    for name in ("pyproject.toml", "requirements.lock"):
        if not (folder / name).exists():
            (folder / name).symlink_to(CHECKOUT / name)
    overrides = [f"ARGS={' '.join(QUICKSTART[1:])}"] if "quickstart" in arguments else []
    # `make test` is what runs this very test: it is shown what it would do.
    only_show = ["--dry-run"] if "test" in arguments else []
    return ["make", "-f", str(CHECKOUT / "Makefile"), f"VENV={sys.prefix}", *only_show, *arguments, *overrides]


@pytest.fixture(scope="module")
def reader(quickstart: Quickstart) -> Iterator[Reader]:
    """A reader who has run the quickstart, and has a GGUF, a folder of questions, a build and an endpoint."""
    folder = quickstart.workspace.folder
    (model,) = (cache_dir() / "sources").rglob("*Q4_1.gguf")
    (folder / "model.gguf").symlink_to(model)
    shutil.copytree(CHECKOUT / "bench" / "quality" / "texts" / "questions", folder / "FOLDER")
    build = ConfiguredToolchains().ensure("llama_cpp", Progress())
    with TruthServer(ttft_ms=20, itl_ms=2) as server:
        yield Reader(
            workspace=quickstart.workspace,
            names={
                "/path/to/bin": str(build.executable("llama-server").parent),
                "/path/to/python": str(build.python),
                "http://127.0.0.1:8000": server.url,
                "NAME": "truth",
                "results/before": "results/quickstart",
                "results/after": "results/quickstart",
            },
        )


def test_the_readme_shows_the_commands_that_matter() -> None:
    subcommands = {line.split()[1] for line in COMMANDS if line.startswith("quantbench ")}
    shown = {"run", "quantize", "evaluate", "fit", "serve", "load", "report", "status", "toolchain", "doctor"}
    assert subcommands == shown | {"convert-safetensors", "engines", "search", "recommend", "compare", "calibrate"}
    assert {"make quickstart", "make test"} <= set(COMMANDS)


@pytest.mark.llama_cpp
@pytest.mark.parametrize("command", [line for line in OWN if "serve" not in line or "--print" in line])
def test_it_works_as_shown(reader: Reader, command: str) -> None:
    if command == "quantbench doctor":
        with reader.start(command) as process:
            output, _ = process.communicate(timeout=60)
        assert process.returncode in (0, 1), output  # 1: something of this machine is to be mended, and it says what
        assert "compiler" in output
        return
    output = reader.run(command)
    if command.startswith("quantbench run") and "--dry-run" not in command:
        assert "report: " in output
    if command == "make test":
        assert "pytest" in output


@pytest.mark.llama_cpp
@pytest.mark.parametrize("command", [line for line in OWN if "serve" in line and "--print" not in line])
def test_serving_goes_on_until_ctrl_c(reader: Reader, command: str) -> None:
    with reader.start(command) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("serving "):
                process.send_signal(signal.SIGINT)
                break
        rest = process.stdout.read()
        assert process.wait(30) == 0, rest
    assert rest.splitlines()[-1] == "stopped"


@pytest.mark.llama_cpp
@pytest.mark.toolchains
@pytest.mark.parametrize("command", FURTHER)
def test_it_works_with_a_further_toolchain(
    make_workspace: Callable[[str], Workspace], tmp_path: Path, command: str
) -> None:
    workspace = make_workspace("readme")
    if not {"model.path=my-model", "model=hub"} & set(command.split()):
        if "my-pickles" in command:
            pickled_checkpoint(workspace.folder / "my-pickles", tmp_path)
        Reader(workspace=workspace, names={}).run(command)
        return
    folder = workspace.folder / "my-model"
    trained_checkpoint(folder, tmp_path)
    hub = FakeHub()
    try:
        hub.repos["org/name"] = Repo(files={file.name: file.read_bytes() for file in folder.iterdir()})
        env = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hub"), "HF_TOKEN": ""}
        output = Reader(workspace=workspace, names={}, env=env).run(command)
    finally:
        hub.close()
    assert "report: " in output


def pickled_checkpoint(folder: Path, work: Path) -> None:
    """A tiny checkpoint as torch pickles it."""
    tools = ConfiguredToolchains().ensure("llmcompressor", Progress())
    worker = CHECKOUT / "tests" / "integration" / "quantize" / "pickled_checkpoint.py"
    request = {"task": "llama", "folder": str(folder), "tied": True}
    run_worker(tools, worker, request, work_dir=work, log=work / "log", progress=Progress(), timeout_s=300)


def trained_checkpoint(folder: Path, work: Path) -> None:
    """A tiny Hugging Face checkpoint that knows more of the shipped text than guessing: acceptance asks for that."""
    converter = ConfiguredToolchains().ensure("llama_cpp_convert", Progress())
    worker = CHECKOUT / "tests" / "integration" / "quantize" / "tiny_checkpoint.py"
    text = str(CHECKOUT / "bench" / "quality" / "texts" / "default.txt")
    request = {"task": "make", "folder": str(folder), "text": text, "dtype": "float32", "steps": 40}
    run_worker(converter, worker, request, work_dir=work, log=work / "log", progress=Progress(), timeout_s=300)
