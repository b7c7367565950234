"""Toolchains as configuration: every shipped one composes, locks are clean, hashes change exactly when they must."""

from __future__ import annotations

import dataclasses
import json
import platform
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.base.compose import conf_dir, options
from bench.base.errors import UsageError
from bench.base.hashing import key_of
from bench.toolchains import venv
from bench.toolchains.config import (
    Accelerator,
    ExistingConfig,
    Step,
    StepKind,
    VenvConfig,
    load_toolchain_config,
    lock_file,
    plain,
)
from bench.toolchains.cpu import features_key
from bench.toolchains.ensure import lock_hash

SHIPPED = sorted(file.stem for file in (conf_dir() / "toolchain").glob("*.yaml"))
LOCKS = sorted((conf_dir() / "toolchain" / "locks").glob("*.txt"))


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_toolchain_composes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QUANTBENCH_LLAMA_CPP_BIN", raising=False)
    config = load_toolchain_config(name)
    assert config.name == name
    assert config.description
    assert config.verify
    assert type(config).implementation
    json.dumps(plain(config))
    if isinstance(config, VenvConfig):
        assert all(lock_file(step.lock).is_file() for step in config.steps if step.lock)


def test_the_list_is_what_is_shipped() -> None:
    assert sorted(options("toolchain")) == SHIPPED
    assert {"llama_cpp", "llama_cpp_convert", "llama_cpp_existing", "xllamacpp"} <= set(SHIPPED)


def test_steps_are_typed() -> None:
    config = load_toolchain_config("llama_cpp", overrides=["toolchain.accelerator=cuda"])
    assert isinstance(config, VenvConfig)
    assert config.accelerator is Accelerator.cuda
    build = next(step for step in config.steps if step.kind is StepKind.build_native)
    assert build.accelerator_options["cuda"] == {"GGML_CUDA": "ON"}
    assert build.options["LLAMA_BUILD_UI"] == "OFF"
    with pytest.raises(dataclasses.FrozenInstanceError):
        build.directory = "."  # type: ignore[misc]  # that it is refused is the point


@pytest.mark.parametrize(
    ("name", "overrides", "said"),
    [
        ("llama_cp", [], "did you mean 'llama_cpp'?"),
        ("../etc/passwd", [], "is not a toolchain name"),
        ("llama_cpp", ["toolchain.accelerator=cudda"], "did you mean 'cuda'?"),
        ("llama_cpp", ["toolchain.step=1"], "did you mean 'steps'?"),
        ("llama_cpp", ["toolchain.steps=[{kind: install}]"], "step 'install' needs 'lock'"),
        ("llama_cpp", ["toolchain.steps=[{kind: install_source, accelerator_options: {tpu: {}}}]"], "'tpu'"),
        ("llama_cpp", ["toolchain.steps=[{kind: instal}]"], "instal"),
    ],
)  # fmt: skip
def test_mistakes_are_usage_errors(name: str, overrides: list[str], said: str) -> None:
    with pytest.raises(UsageError, match=re.escape(said)) as caught:
        load_toolchain_config(name, overrides=overrides)
    assert "\n" not in str(caught.value)


def test_a_lock_that_does_not_exist_is_named() -> None:
    with pytest.raises(UsageError, match=r"toolchain lock 'nothing\.txt' does not exist"):
        lock_file("nothing.txt")


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_locks_pin_everything_and_name_no_index(lock: Path) -> None:
    text = lock.read_text()
    assert "://" not in text
    assert "--index" not in text
    requirements = text.replace("\\\n", " ").strip().splitlines()
    assert requirements
    for line in requirements:
        assert re.match(r"^[a-z0-9._-]+==[^\s;+]+( ; .+?)?\s+--hash=sha256:[0-9a-f]{64}", line), line


def config_with(**changes: Any) -> VenvConfig:
    steps = [
        Step(kind=StepKind.install, lock="xllamacpp.txt"),
        Step(kind=StepKind.set_env, environment={"CUDA": "1"}, only=Accelerator.cuda),
    ]
    return VenvConfig(**{"name": "probe", "steps": steps, **changes})


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({"description": "other words"}, True),
        ({"disk_gib": 9.0}, True),
        ({"name": "renamed"}, True),
        ({"accelerator": Accelerator.cuda}, False),
        ({"steps": [Step(kind=StepKind.install, lock="llama_cpp.txt")]}, False),
        ({"steps": [Step(kind=StepKind.install, lock="xllamacpp.txt", environment={"A": "1"})]}, False),
        # A step for another accelerator is no part of this environment.
        ({"steps": [Step(kind=StepKind.install, lock="xllamacpp.txt")]}, True),
    ],
)
def test_the_hash_changes_with_what_is_installed(changes: dict[str, Any], same: bool) -> None:
    assert (lock_hash(config_with(**changes)) == lock_hash(config_with())) is same


def test_the_hash_covers_the_content_of_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    locks = tmp_path / "toolchain" / "locks"
    locks.mkdir(parents=True)
    monkeypatch.setenv("QUANTBENCH_CONFIG_DIR", str(tmp_path))
    config = VenvConfig(name="probe", steps=[Step(kind=StepKind.install, lock="mine.txt")])
    (locks / "mine.txt").write_text("a==1\n")
    first = lock_hash(config)
    (locks / "mine.txt").write_text("a==2\n")
    assert lock_hash(config) != first


def test_the_hash_covers_python_and_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    here = lock_hash(config_with())
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    there = lock_hash(config_with())
    monkeypatch.setattr(sys, "version_info", (3, 99, 0))
    assert len({here, there, lock_hash(config_with())}) == 3


def test_golden_lock_hash() -> None:
    """Pinned: a change here makes every user build again and invalidates every artefact. Mean it."""
    identity = {
        **venv.identity(VenvConfig(name="golden", steps=[Step(kind=StepKind.uninstall, requirements=["torchvision"])])),
        "python": "cpython-3.11",
        "machine": "linux-x86_64",
    }
    assert key_of({"schema": 1, "kind": "venv", **identity}) == "417b0a3b66dd506b"


def test_native_code_is_kept_apart_by_cpu(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    native = config_with(steps=[Step(kind=StepKind.build_native, targets=["a"])])
    monkeypatch.setattr(venv, "cpu_features_key", lambda: "lessercp")
    assert venv.folder(native, "0123") == cache / "toolchains" / "probe-0123-lessercp"
    assert venv.folder(config_with(), "0123") == cache / "toolchains" / "probe-0123"


def test_cpu_features() -> None:
    new = features_key("processor: 0\nflags\t\t: fpu avx2 avx512f\n\nflags\t: fpu avx2 avx512f\n", "x86_64", "")
    assert new == features_key("flags : avx512f avx2 fpu\n", "x86_64", "")
    assert new != features_key("flags : avx2 fpu\n", "x86_64", "")
    assert features_key("Features\t: asimd sve\n", "aarch64", "") != features_key("Features\t: asimd\n", "aarch64", "")
    assert features_key("", "arm64", "M1") != features_key("", "arm64", "M2")


def test_existing_config_has_no_path_in_its_identity_fields() -> None:
    from bench.base.schema import identity

    first = identity(ExistingConfig(name="mine", bin_dir="/a", python="/b"))
    assert first == identity(ExistingConfig(name="mine", bin_dir="/c"))
