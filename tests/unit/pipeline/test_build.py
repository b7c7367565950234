"""What stands for an engine's build in keys and records, wherever the engine comes from."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.base.errors import UsageError
from bench.base.progress import Progress
from bench.engines.llama_cpp import LlamaCppConfig
from bench.pipeline.build import engine_build, engine_lock, version_of
from bench.pipeline.context import Workshop


def program(folder: Path, text: str) -> Path:
    path = folder / "own-server"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def lock(config: LlamaCppConfig, tmp_path: Path) -> str:
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
