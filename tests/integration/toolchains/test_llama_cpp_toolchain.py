"""The real llama.cpp toolchain: its programs run, and the binding loads the library that was built, no other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.base.progress import Progress
from bench.toolchains.command import list_toolchains, path, verify
from bench.toolchains.config import load_toolchain_config
from bench.toolchains.ensure import State, ensure, lock_hash
from bench.toolchains.toolchain import Toolchain
from bench.toolchains.worker import run_worker

pytestmark = pytest.mark.llama_cpp

MIB = 1 << 20


@pytest.fixture(scope="module")
def toolchain() -> Toolchain:
    return ensure(load_toolchain_config("llama_cpp"), progress=Progress())


def said_by(toolchain: Toolchain, program: str, *arguments: str) -> str:
    done = subprocess.run(
        [toolchain.executable(program), *arguments],
        env=toolchain.environ(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )
    return done.stdout


@pytest.mark.parametrize("program", ["llama-server", "llama-imatrix", "llama-perplexity"])
def test_programs_tell_the_version_of_the_one_build(toolchain: Toolchain, program: str) -> None:
    assert f"version: {toolchain.versions['llama.cpp']}" in said_by(toolchain, program, "--version")
    assert "commit 0c1e570" in toolchain.versions["llama.cpp"]


def test_the_quantizer_knows_the_types_we_offer(toolchain: Toolchain) -> None:
    said = said_by(toolchain, "llama-quantize", "--help")
    assert all(name in said for name in ("F16", "Q8_0", "Q4_K_M", "--allow-requantize", "--imatrix"))


WORKER = """
def run(request, progress):
    import llama_cpp
    import numpy
    llama_cpp.llama_backend_init()
    progress(1, 1, "import")
    loaded = sorted({line.split()[-1] for line in open("/proc/self/maps") if ".so" in line})
    return {
        "version": llama_cpp.__version__,
        "numpy": numpy.__version__,
        "system": llama_cpp.llama_print_system_info().decode(),
        "libraries": [name for name in loaded if name.split("/")[-1].startswith(("libllama", "libggml"))],
    }
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/maps")
def test_the_binding_loads_the_library_that_was_built(toolchain: Toolchain, tmp_path: Path) -> None:
    worker = tmp_path / "probe.py"
    worker.write_text(WORKER)
    result = run_worker(
        toolchain, worker, {}, work_dir=tmp_path, log=tmp_path / "log", progress=Progress(), timeout_s=60
    )
    native = str((toolchain.prefix / "native").resolve())
    assert result["version"] == toolchain.versions["llama-cpp-python"] == "0.3.36"
    assert result["numpy"] == toolchain.versions["numpy"]
    assert "CPU" in result["system"]
    libraries = [Path(library) for library in result["libraries"]]
    assert {library.name.split(".so")[0] for library in libraries} >= {"libllama", "libggml-base", "libggml-cpu"}
    assert {str(library.parent) for library in libraries} == {native}
    assert not list((toolchain.prefix / "venv").glob("lib/python3*/site-packages/llama_cpp/lib/lib*.so*"))


@pytest.mark.skipif(sys.platform != "linux", reason="reads the dynamic section of ELF files")
def test_programs_find_their_libraries_beside_themselves(toolchain: Toolchain, tmp_path: Path) -> None:
    """Moved elsewhere, without LD_LIBRARY_PATH, they still run on the moved libraries."""
    import shutil

    moved = tmp_path / "moved"
    shutil.copytree(toolchain.prefix / "native", moved, symlinks=True)
    done = subprocess.run(
        [moved / "llama-server", "--version"],
        env={"PATH": os.defpath, "LD_DEBUG": "libs"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    initialised = [line for line in done.stderr.splitlines() if "calling init" in line and "libllama" in line]
    assert initialised
    assert all(str(moved) in line for line in initialised)


def test_what_is_kept_is_small_and_complete(toolchain: Toolchain) -> None:
    assert {entry.name for entry in toolchain.prefix.iterdir()} == {
        "venv", "native", "make.log", "steps.json", "toolchain.json",
    }  # fmt: skip
    kept = sum(
        file.lstat().st_size
        for file in toolchain.prefix.rglob("*")
        if "venv" not in file.relative_to(toolchain.prefix).parts and file.is_file() and not file.is_symlink()
    )
    assert kept < 150 * MIB
    assert not {"cmake", "ninja"} & set(toolchain.versions)
    manifest = json.loads((toolchain.prefix / "toolchain.json").read_text())
    assert manifest["lock_hash"] == toolchain.lock_hash == lock_hash(load_toolchain_config("llama_cpp"))


def test_commands_see_it(toolchain: Toolchain, tmp_path: Path) -> None:
    row = {row.name: row for row in list_toolchains()}["llama_cpp"]
    assert row.state is State.ready
    assert row.path == toolchain.prefix == path("llama_cpp")
    assert row.size_bytes is not None
    assert row.size_bytes > 10 * MIB
    versions = verify("llama_cpp", log=tmp_path / "log", progress=Progress())
    assert versions == {name: toolchain.versions[name] for name in ("llama.cpp", "llama-cpp-python")}
