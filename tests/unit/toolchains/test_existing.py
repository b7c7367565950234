"""The user's own build by path: used where it lies, identified by content, refused with a clear line."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bench.base.errors import ToolchainError, UsageError
from bench.base.progress import Progress
from bench.toolchains.command import list_toolchains, remove
from bench.toolchains.config import ToolchainConfig, load_toolchain_config
from bench.toolchains.ensure import State, ensure, lock_hash


@pytest.fixture
def build(tmp_path: Path) -> Path:
    folder = tmp_path / "my build"
    folder.mkdir()
    for name in ("llama-server", "llama-quantize"):
        (folder / name).write_text("#!/bin/sh\necho 'version: 1234 (abc)'\n")
        (folder / name).chmod(0o755)
    (folder / "libllama.so.0").write_bytes(b"library")
    (folder / "libllama.so").symlink_to("libllama.so.0")
    return folder


def load(folder: Path, *more: str) -> ToolchainConfig:
    return load_toolchain_config("llama_cpp_existing", overrides=[f"toolchain.bin_dir='{folder}'", *more])


def test_a_build_by_path(build: Path, cache: Path) -> None:
    toolchain = ensure(load(build), progress=Progress())
    assert toolchain.executable("llama-server") == build / "llama-server"
    assert toolchain.versions == {"llama.cpp": "1234 (abc)"}
    assert toolchain.env["LLAMA_CPP_LIB_PATH"] == str(build)
    assert toolchain.describe()["kind"] == "existing"
    assert str(build) not in str(toolchain.describe())


def test_a_build_by_environment_variable(build: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUANTBENCH_LLAMA_CPP_BIN", str(build))
    assert lock_hash(load_toolchain_config("llama_cpp_existing")) == lock_hash(load(build))


def test_identity_is_content_not_place(build: Path, cache: Path) -> None:
    first = lock_hash(load(build))
    moved = build.rename(build.with_name("moved"))
    assert lock_hash(load(moved)) == first
    (moved / "libllama.so.0").write_bytes(b"rebuilt!")
    second = lock_hash(load(moved))
    (moved / "llama-server").write_text("#!/bin/sh\necho 'version: 1235'\n")
    assert len({first, second, lock_hash(load(moved))}) == 3


def test_distributions_beside_the_python_count(build: Path, cache: Path, tmp_path: Path) -> None:
    site = tmp_path / "env" / "lib" / "python3.11" / "site-packages"
    (site / "llama_cpp_python-0.3.36.dist-info").mkdir(parents=True)
    python = tmp_path / "env" / "bin" / "python"
    python.parent.mkdir()
    python.symlink_to(sys.executable)
    first = lock_hash(load(build, f"toolchain.python={python}"))
    (site / "llama_cpp_python-0.3.36.dist-info").rename(site / "llama_cpp_python-0.3.37.dist-info")
    assert len({lock_hash(load(build)), first, lock_hash(load(build, f"toolchain.python={python}"))}) == 3


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (lambda folder: (folder / "llama-server").unlink(), "there is no program 'llama-server' in"),
        (lambda folder: (folder / "llama-quantize").chmod(0o644), "there is no program 'llama-quantize' in"),
        (lambda folder: folder.rename(folder.with_name("gone")), "is not a folder"),
    ],
)
def test_what_is_missing_is_named(build: Path, cache: Path, break_it: object, said: str) -> None:
    assert callable(break_it)
    break_it(build)
    for action in (lock_hash, lambda config: ensure(config, progress=Progress())):
        with pytest.raises(UsageError, match=f"toolchain llama_cpp_existing: .*{said}"):
            action(load(build))


def test_no_path_and_a_wrong_python(build: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QUANTBENCH_LLAMA_CPP_BIN", raising=False)
    with pytest.raises(UsageError, match="set QUANTBENCH_LLAMA_CPP_BIN"):
        lock_hash(load_toolchain_config("llama_cpp_existing"))
    with pytest.raises(UsageError, match="python /nowhere/python does not exist"):
        lock_hash(load(build, "toolchain.python=/nowhere/python"))


def test_a_program_that_does_not_run_fails_verification(build: Path, cache: Path) -> None:
    (build / "llama-server").write_text("#!/bin/sh\necho 'libcudart.so.12: cannot open shared object file'; exit 127\n")
    with pytest.raises(ToolchainError, match=r"verifying llama\.cpp failed .*libcudart"):
        ensure(load(build), progress=Progress())


def test_it_is_listed_and_never_removed(build: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QUANTBENCH_LLAMA_CPP_BIN", raising=False)
    states = {row.name: row.state for row in list_toolchains()}
    assert states["llama_cpp_existing"] is State.not_configured
    assert states["llama_cpp"] is State.absent
    monkeypatch.setenv("QUANTBENCH_LLAMA_CPP_BIN", str(build))
    assert {row.name: row.state for row in list_toolchains()}["llama_cpp_existing"] is State.ready
    with pytest.raises(UsageError, match="your own build"):
        remove("llama_cpp_existing")
    assert (build / "llama-server").exists()
