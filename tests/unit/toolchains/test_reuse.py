"""A toolchain that takes another one's native build: linked, not copied, and keyed by it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from bench.base.errors import ToolchainError
from bench.base.files import write_json
from bench.base.progress import Progress
from bench.toolchains.config import Step, StepKind, VenvConfig, load_toolchain_config
from bench.toolchains.ensure import implementation, lock_hash
from bench.toolchains.steps import Build, run_step

OTHER = "defaults: [base_venv, _self_]\nname: other\nsteps:\n  - {kind: set_env, environment: {GENERATION: '%d'}}\n"
STEP = Step(kind=StepKind.reuse_native, toolchain="other")
TAKER = VenvConfig(name="taker", steps=[STEP])


def describe_other(configuration: Path, generation: int) -> None:
    folder = configuration / "toolchain"
    folder.mkdir(exist_ok=True, parents=True)
    (folder / "other.yaml").write_text(OTHER % generation)


@pytest.fixture
def other(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished toolchain `other` that has built a program and a library with a link to it."""
    monkeypatch.setenv("QUANTBENCH_CONFIG_DIR", str(tmp_path / "conf"))
    describe_other(tmp_path / "conf", 1)
    config = load_toolchain_config("other")
    prefix = implementation(config).folder(config, lock_hash(config))
    for name in ("venv/bin/python", "native/llama-server", "native/libllama.so.0"):
        (prefix / name).parent.mkdir(parents=True, exist_ok=True)
        (prefix / name).write_text(name)
    (prefix / "native" / "libllama.so").symlink_to("libllama.so.0")
    write_json(prefix / "toolchain.json", {"env": {}, "versions": {}})
    return prefix


def build(prefix: Path) -> Build:
    prefix.mkdir()
    return Build(config=TAKER, prefix=prefix, log=prefix / "make.log", progress=Progress())


def test_it_shares_the_files_and_outlives_the_other(other: Path, tmp_path: Path) -> None:
    made = build(tmp_path / "taker")
    run_step(made, STEP)
    program = made.native / "llama-server"
    assert program.samefile(other / "native" / "llama-server")
    assert (made.native / "libllama.so").is_symlink()
    run_step(made, STEP)  # doing it again does no harm
    shutil.rmtree(other)
    assert program.read_text() == "native/llama-server"
    assert (made.native / "libllama.so").read_text() == "native/libllama.so.0"


def test_its_key_follows_the_other_ones(other: Path, tmp_path: Path) -> None:
    before = lock_hash(TAKER)
    describe_other(tmp_path / "conf", 2)
    assert lock_hash(TAKER) != before


def test_another_toolchain_without_a_native_build_is_one_clear_line(other: Path, tmp_path: Path) -> None:
    shutil.rmtree(other / "native")
    with pytest.raises(ToolchainError, match="taker: other has no native build to take"):
        run_step(build(tmp_path / "taker"), STEP)
