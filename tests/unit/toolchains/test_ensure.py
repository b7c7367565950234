"""Environments made for real from a tiny index: complete, reused, resumed, made once, never half."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.base.errors import ToolchainError
from bench.base.files import read_json, write_json
from bench.base.progress import Progress, ProgressEvent
from bench.toolchains import runner, venv
from bench.toolchains.config import Step, StepKind, VenvConfig, Verification
from bench.toolchains.ensure import State, ensure, lock_hash

ROOT = Path(__file__).resolve().parents[3]


def config_of(tiny_index: Any, *, name: str = "tiny", verify: list[Verification] | None = None) -> VenvConfig:
    lock = tiny_index.lock("tiny.txt", "tinydist==1.0", tiny_index.wheel("tinydist"))
    check = Verification(
        name="tiny build",
        command=["{python}", "-I", "-c", "import tinydist, os; print('is', tinydist.VERSION, os.environ['WHERE'])"],
        version=r"is (.*)",
    )
    return VenvConfig(
        name=name,
        disk_gib=0.001,
        steps=[
            Step(kind=StepKind.install, lock=lock),
            Step(kind=StepKind.alias, distribution="tinydist", alias="tiny_alias"),
            Step(kind=StepKind.set_env, environment={"WHERE": "{prefix}/here"}),
        ],
        verify=[check] if verify is None else verify,
    )


def test_made_once_then_reused_without_a_process(tiny_index: Any, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of(tiny_index)
    assert venv.state(config, lock_hash(config)) is State.absent
    toolchain = ensure(config, progress=Progress())
    assert toolchain.prefix == cache / "toolchains" / f"tiny-{lock_hash(config)}"
    assert toolchain.versions["tinydist"] == toolchain.versions["tiny-alias"] == "1.0"
    assert toolchain.versions["tiny build"] == f"1.0 {toolchain.prefix}/here"
    assert toolchain.env == {"WHERE": f"{toolchain.prefix}/here"}
    assert str(cache) not in str({**toolchain.describe(), "versions": {}})
    assert toolchain.executable("tinydist-tool").exists()
    with pytest.raises(ToolchainError, match="toolchain tiny has no executable 'llama-server'"):
        toolchain.executable("llama-server")

    monkeypatch.setattr(runner, "spawn", lambda *_, **__: pytest.fail("a ready toolchain starts no process"))
    assert ensure(config, progress=Progress()) == toolchain
    assert venv.remove(config, toolchain.lock_hash) > 10_000
    assert venv.state(config, lock_hash(config)) is State.absent
    assert venv.remove(config, toolchain.lock_hash) == 0


def test_a_package_may_bring_what_its_index_adds(tiny_index: Any, cache: Path) -> None:
    """The locked version stays where it satisfies what is asked for, though the index has a newer one."""
    lock = tiny_index.lock("base.txt", "base==1.0", tiny_index.wheel("base"))
    tiny_index.wheel("base", "2.0")
    tiny_index.wheel("accelerated", requires="base>=1.0")
    tiny_index.wheel("frame", requires="accelerated")
    steps = [
        Step(kind=StepKind.install, lock=lock),
        Step(kind=StepKind.install_with_deps, requirements=["frame==1.0"]),
    ]
    made = ensure(VenvConfig(name="tiny_frame", disk_gib=0.001, steps=steps), progress=Progress())
    found = {name: made.versions.get(name) for name in ("frame", "accelerated", "base")}
    assert found == {"frame": "1.0", "accelerated": "1.0", "base": "1.0"}


def test_a_failed_verification_leaves_it_incomplete_and_is_tried_again(tiny_index: Any, cache: Path) -> None:
    bad = [Verification(name="bad", command=["{python}", "-c", "raise SystemExit('wrong glibc')"])]
    config = config_of(tiny_index, verify=bad)
    with pytest.raises(ToolchainError, match=r"verifying bad failed \(exit code 1\): wrong glibc\."):
        ensure(config, progress=Progress())
    assert venv.state(config, lock_hash(config)) is State.incomplete

    events: list[ProgressEvent] = []
    ensure(config_of(tiny_index), progress=Progress(events.append))  # the same environment: checks are no part of it
    assert not [event for event in events if event.message.startswith(("making", "step"))]
    assert venv.state(config, lock_hash(config)) is State.ready


def test_a_step_interrupted_inside_the_venv_makes_it_anew(tiny_index: Any, cache: Path) -> None:
    config = config_of(tiny_index)
    prefix = venv.folder(config, lock_hash(config))

    def interrupt(event: ProgressEvent) -> None:
        if event.message.startswith("Processing"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ensure(config, progress=Progress(interrupt))
    assert read_json(prefix / "steps.json")["begun"].startswith("00-install")
    stale = prefix / "venv" / "half-installed"
    stale.touch()
    ensure(config, progress=Progress())
    assert not stale.exists()
    assert read_json(prefix / "steps.json")["begun"] is None


def test_a_finished_step_is_not_done_again_and_a_broken_python_is(tiny_index: Any, cache: Path) -> None:
    config = config_of(tiny_index)
    toolchain = ensure(config, progress=Progress())
    record = read_json(toolchain.prefix / "steps.json")
    (toolchain.prefix / "toolchain.json").unlink()
    mark = toolchain.prefix / "venv" / "mark"
    mark.touch()
    write_json(toolchain.prefix / "steps.json", {**record, "done": record["done"][:2]})
    ensure(config, progress=Progress())
    assert mark.exists()

    shutil.rmtree(toolchain.prefix / "venv" / "bin")  # as when the interpreter below was removed
    assert venv.state(config, lock_hash(config)) is State.incomplete
    ensure(config, progress=Progress())
    assert not mark.exists()


def test_a_file_other_than_the_lock_names_is_refused(tiny_index: Any, cache: Path) -> None:
    config = config_of(tiny_index)
    tiny_index.wheel("tinydist", files={"tinydist.py": "VERSION = 'tampered'\n"})
    with pytest.raises(ToolchainError, match="do not trust them") as caught:
        ensure(config, progress=Progress())
    assert "DO NOT MATCH THE HASHES" in caught.value.log_tail


def test_too_little_disk_stops_before_anything_is_written(
    tiny_index: Any, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(tiny_index)
    monkeypatch.setattr(venv, "free_bytes", lambda _: 500_000)
    with pytest.raises(ToolchainError, match=r"needs 0\.0 GiB of free disk .* QUANTBENCH_CACHE"):
        ensure(config, progress=Progress())
    assert not venv.folder(config, lock_hash(config)).exists()


MAKER = """
import sys
sys.path.insert(0, sys.argv[1])
from bench.base.progress import Progress
from bench.toolchains.config import load_toolchain_config
from bench.toolchains.ensure import ensure
toolchain = ensure(load_toolchain_config("shared"), progress=Progress(lambda event: print(event.message)))
print("prefix", toolchain.prefix)
"""


def test_two_processes_make_it_once(tiny_index: Any, cache: Path) -> None:
    config_of(tiny_index)  # writes wheel and lock
    (tiny_index.configuration / "toolchain" / "shared.yaml").write_text(
        "defaults: [base_venv, _self_]\nname: shared\ndisk_gib: 0.001\nsteps: [{kind: install, lock: tiny.txt}]\n"
    )
    command = [sys.executable, "-c", MAKER, str(ROOT)]
    makers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=dict(os.environ)) for _ in range(2)]
    said = [maker.communicate(timeout=60)[0] for maker in makers]
    assert [maker.returncode for maker in makers] == [0, 0]
    assert sum("making the Python environment" in text for text in said) == 1
    assert sum("waiting: another process" in text for text in said) == 1
    assert len({text.strip().splitlines()[-1] for text in said}) == 1
