"""Fetching a pinned source archive and building it with the real CMake and Ninja, on a project of two files."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from bench.base.errors import ToolchainError
from bench.base.progress import Progress, ProgressEvent
from bench.toolchains import venv
from bench.toolchains.config import Step, StepKind, VenvConfig, Verification
from bench.toolchains.ensure import State, ensure, lock_hash

pytestmark = pytest.mark.llama_cpp

PROJECT = {
    "pyproject.toml": """
[build-system]
requires = ["scikit-build-core"]
build-backend = "scikit_build_core.build"
[project]
name = "tinynative"
version = "1.0"
[tool.scikit-build]
wheel.packages = ["tinynative"]
""",
    "PKG-INFO": "Metadata-Version: 2.1\nName: tinynative\nVersion: 1.0\n",
    "CMakeLists.txt": "cmake_minimum_required(VERSION 3.21)\nproject(binding LANGUAGES NONE)\n",
    "tinynative/__init__.py": "import os\nLIBRARY = os.environ['TINY_LIB']\n",
    "native/CMakeLists.txt": """
cmake_minimum_required(VERSION 3.21)
project(tiny C)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
set(CMAKE_LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
add_library(tiny SHARED lib.c)
target_compile_definitions(tiny PRIVATE ANSWER=${ANSWER})
add_executable(tiny-tool main.c)
target_link_libraries(tiny-tool tiny)
""",
    "native/lib.c": "int answer(void) { return ANSWER; }\n",
    "native/main.c": '#include <stdio.h>\nint answer(void);\nint main(void) { printf("answer %d\\n", answer()); }\n',
}


@pytest.fixture
def tiny(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> VenvConfig:
    """A toolchain built from a source archive that only this test's folder offers."""
    source = tmp_path / "tinynative-1.0"
    for name, text in PROJECT.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(text)
    offered = tmp_path / "offered"
    offered.mkdir()
    archive = offered / "tinynative-1.0.tar.gz"
    with tarfile.open(archive, "w:gz") as stream:
        stream.add(source, source.name)
    locks = tmp_path / "conf" / "toolchain" / "locks"
    locks.mkdir(parents=True)
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    (locks / "tiny_source.txt").write_text(f"tinynative==1.0 --hash=sha256:{digest}\n")
    monkeypatch.setenv("QUANTBENCH_CONFIG_DIR", str(tmp_path / "conf"))
    links = subprocess.run(
        [sys.executable, "-m", "pip", "config", "get", "global.find-links"], capture_output=True, text=True, check=False
    ).stdout.split()  # fmt: skip
    monkeypatch.setenv("PIP_FIND_LINKS", " ".join([*links, os.environ.get("PIP_FIND_LINKS", ""), str(offered)]).strip())
    return VenvConfig(
        name="tiny_native",
        disk_gib=0.01,
        steps=[
            Step(kind=StepKind.install, lock="llama_cpp_build.txt"),
            Step(kind=StepKind.fetch_source, lock="tiny_source.txt"),
            Step(kind=StepKind.build_native, directory="native", options={"ANSWER": "42"}, targets=["tiny-tool"]),
            Step(kind=StepKind.install_source),
            Step(kind=StepKind.set_env, environment={"TINY_LIB": "{prefix}/native/libtiny.so"}),
        ],
        verify=[
            Verification(name="tool", command=["tiny-tool"], version=r"answer (\d+)"),
            Verification(
                name="binding",
                command=["{python}", "-I", "-c", "import tinynative; print('lib', tinynative.LIBRARY)"],
                version="lib (.*)",
            ),
        ],
    )


def test_an_interrupted_build_goes_on_and_ends_relocatable(tiny: VenvConfig, tmp_path: Path) -> None:
    prefix = venv.folder(tiny, lock_hash(tiny))

    def interrupt(event: ProgressEvent) -> None:
        if event.unit == "files":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ensure(tiny, progress=Progress(interrupt))
    assert venv.state(tiny, lock_hash(tiny)) is State.incomplete
    assert (prefix / "work" / "source" / "native" / "lib.c").exists()

    events: list[ProgressEvent] = []
    toolchain = ensure(tiny, progress=Progress(events.append))
    assert not [event.message for event in events if "fetching" in event.message or "environment" in event.message]
    assert toolchain.versions["tool"] == "42"
    assert toolchain.versions["binding"] == f"{prefix}/native/libtiny.so"
    assert toolchain.versions["tinynative"] == "1.0"
    assert not (prefix / "work").exists()
    moved = (prefix / "native").rename(tmp_path / "moved")
    assert subprocess.check_output([moved / "tiny-tool"], env={}) == b"answer 42\n"


def test_a_compiler_error_is_told_in_one_line(tiny: VenvConfig) -> None:
    import dataclasses

    steps = [
        dataclasses.replace(step, options={"ANSWER": "no_such_name"}) if step.kind is StepKind.build_native else step
        for step in tiny.steps
    ]
    with pytest.raises(ToolchainError, match=r"building tiny-tool failed .*no_such_name") as caught:
        ensure(dataclasses.replace(tiny, steps=steps), progress=Progress())
    assert "\n" not in str(caught.value)
    assert "lib.c" in caught.value.log_tail
