"""What stands for an engine's build in keys and records, wherever the engine comes from."""

from __future__ import annotations

import importlib.metadata
import os
import sys
from pathlib import Path

import pytest

from bench.base.errors import UsageError
from bench.base.progress import Progress
from bench.engines.base import EngineConfig
from bench.engines.llama_cpp import LlamaCppConfig
from bench.engines.tensorrt_llm import TensorRtLlmConfig
from bench.pipeline.build import distribution_of, engine_build, engine_lock, version_of
from bench.pipeline.context import Workshop


def program(folder: Path, text: str) -> Path:
    path = folder / "own-server"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def lock(config: EngineConfig, tmp_path: Path) -> str:
    return engine_lock(config, Workshop(cache=tmp_path / "cache"), Progress())


def test_an_attached_server_never_has_the_same_build_twice(tmp_path: Path) -> None:
    config = LlamaCppConfig(base_url="http://127.0.0.1:1")
    assert lock(config, tmp_path) != lock(config, tmp_path)
    build = engine_build(config, Workshop(cache=tmp_path), Progress())
    assert (build["mode"], build["toolchain"]) == ("attached", None)


def test_a_program_of_ones_own_is_told_by_its_content_and_version(tmp_path: Path) -> None:
    own = program(tmp_path, "echo starting\necho 'own-server version: 7.1 (abc)'")
    config = LlamaCppConfig(executable=str(own))
    build = engine_build(config, Workshop(cache=tmp_path / "cache"), Progress())
    assert build["build"] == "own-server, own-server version: 7.1 (abc)"
    assert set(build["program"]) == {"name", "version", "sha256"}
    assert str(tmp_path) not in str(build)
    first = lock(config, tmp_path)
    assert lock(config, tmp_path) == first
    (tmp_path / "other").mkdir()
    other = program(tmp_path / "other", "echo starting\necho 'own-server version: 7.1 (abc)'\nexit 0")
    assert lock(LlamaCppConfig(executable=str(other)), tmp_path) != first


@pytest.mark.parametrize("text", ["echo no number here", "exit 3", "echo 7.1; exit 1"])
def test_a_program_that_does_not_tell_its_version_has_none(tmp_path: Path, text: str) -> None:
    assert version_of(program(tmp_path, text)) is None


def test_a_program_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"engine\.executable=.*: there is no such program"):
        lock(LlamaCppConfig(executable=str(tmp_path / "nothing")), tmp_path)


# ---- programs that are a few lines in front of what changes


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """A Python in whose environment the engine's distribution has the version in the file `installed`, if any."""
    (tmp_path / "bin").mkdir()
    path = tmp_path / "bin" / "python3"
    path.write_text(
        f'#!/bin/sh\ncase "$1" in --version) echo Python 3.12.1;; -c) echo a warning >&2; cat {tmp_path}/installed;; '
        "*) exit 3;; esac\n"
    )
    path.chmod(0o755)
    return path


def started_by(python: Path, how: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The program for `engine.executable`: the Python, or a script that is run by it and tells no version."""
    if how == "python":
        return python
    monkeypatch.setenv("PATH", f"{python.parent}{os.pathsep}{os.environ['PATH']}")
    first = {
        "named": f"#!{python}",
        "env": "#!/usr/bin/env python3",
        "env -S": "#!/usr/bin/env -S python3 -I",
        "pip": f"#!/bin/sh\n'''exec' {python} \"$0\" \"$@\"\n' '''",
    }[how]
    script = python.parent / "serve"
    script.write_text(f"{first}\nimport engine\n")
    script.chmod(0o755)
    return script


@pytest.mark.parametrize("how", ["python", "named", "env", "env -S", "pip"])
def test_an_upgrade_of_the_engine_behind_a_script_is_another_build(
    tmp_path: Path, python: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = TensorRtLlmConfig(executable=str(started_by(python, how, monkeypatch)))
    (tmp_path / "installed").write_text("1.2.0\n")
    first = lock(config, tmp_path)
    build = engine_build(config, Workshop(cache=tmp_path / "cache"), Progress())
    assert build["program"]["distribution"] == "tensorrt_llm 1.2.0"
    assert build["build"].endswith(", tensorrt_llm 1.2.0")
    assert lock(config, tmp_path) == first
    (tmp_path / "installed").write_text("1.3.0\n")
    assert lock(config, tmp_path) != first


@pytest.mark.parametrize("how", ["python", "named", "pip"])
def test_where_no_version_is_known_no_two_measurements_are_the_same(
    tmp_path: Path, python: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = TensorRtLlmConfig(executable=str(started_by(python, how, monkeypatch)))
    assert lock(config, tmp_path) != lock(config, tmp_path)
    silent = LlamaCppConfig(executable=str(program(tmp_path, "exec /opt/other/llama-server")))
    assert lock(silent, tmp_path) != lock(silent, tmp_path)


def test_a_real_environment_is_asked() -> None:
    here = Path(sys.executable)
    assert distribution_of(here, "omegaconf") == f"omegaconf {importlib.metadata.version('omegaconf')}"
    assert distribution_of(here, "no-such-distribution") is None
