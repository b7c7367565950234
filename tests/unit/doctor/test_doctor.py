"""The doctor: every finding that is not ok says what to do, and each threshold is where it says."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.doctor import diagnose as doctor
from bench.doctor.diagnose import Check, Verdict, diagnose

GIB = 1 << 30


def test_this_machine_is_diagnosed(cache: Path) -> None:
    checks = diagnose()
    names = [check.name for check in checks]
    assert len(names) == len(set(names))
    assert {"python", "compiler", "cache", "disk", "memory", "gpu", "toolchain llama_cpp"} <= set(names)
    assert all("\n" not in f"{check.found}{check.remedy}" for check in checks)
    by_name = {check.name: check for check in checks}
    assert by_name["python"].verdict is Verdict.OK
    assert by_name["toolchain llama_cpp"].found.startswith("not installed")
    assert list(cache.iterdir()) == []


def test_a_remedy_belongs_to_what_is_not_ok() -> None:
    with pytest.raises(ValueError, match="remedy"):
        Check(name="x", verdict=Verdict.WARN, found="bad")
    with pytest.raises(ValueError, match="remedy"):
        Check(name="x", verdict=Verdict.OK, found="fine", remedy="nothing")


@pytest.mark.parametrize(
    ("check", "verdict", "advice"),
    [
        (doctor.check_python((3, 10, 1), has_venv=True), Verdict.FAIL, "3.11"),
        (doctor.check_python((3, 12, 1), has_venv=False), Verdict.FAIL, "python3-venv"),
        (doctor.check_python((3, 12, 1), has_venv=True), Verdict.OK, None),
        (doctor.check_pip(has_pip=False), Verdict.WARN, "ensurepip"),
        (doctor.check_compiler("no-such-compiler"), Verdict.WARN, "g++"),
        (doctor.check_compiler("sh"), Verdict.OK, None),
        (doctor.check_disk(GIB, Path("/x")), Verdict.FAIL, "QUANTBENCH_CACHE"),
        (doctor.check_disk(2 * GIB, Path("/x")), Verdict.WARN, "QUANTBENCH_CACHE"),
        (doctor.check_disk(4 * GIB, Path("/x")), Verdict.OK, None),
        (doctor.check_memory(GIB), Verdict.WARN, "memory"),
        (doctor.check_memory(2 * GIB), Verdict.OK, None),
        (doctor.check_load(None, 2), Verdict.OK, None),
        (doctor.check_load(0.4, 1), Verdict.OK, None),
        (doctor.check_load(0.6, 2), Verdict.WARN, "quiet"),
        (doctor.check_load(3.9, 16), Verdict.OK, None),
    ],
)
def test_thresholds(check: Check, verdict: Verdict, advice: str | None) -> None:
    assert check.verdict is verdict
    assert advice is None or advice in str(check.remedy)


def test_a_cache_that_cannot_be_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    check = doctor.check_cache(tmp_path / "file" / "cache")
    assert check.verdict is Verdict.FAIL
    assert "QUANTBENCH_CACHE" in str(check.remedy)


def test_an_unfinished_toolchain_is_told(cache: Path) -> None:
    from bench.base.schema import expect
    from bench.toolchains.config import VenvConfig, load_toolchain_config
    from bench.toolchains.ensure import lock_hash
    from bench.toolchains.venv import folder

    config = load_toolchain_config("xllamacpp")
    folder(expect(config, VenvConfig, "xllamacpp"), lock_hash(config)).mkdir(parents=True)
    found = {check.name: check for check in diagnose()}["toolchain xllamacpp"]
    assert found.verdict is Verdict.WARN
    assert found.remedy == "go on with: quantbench toolchain install xllamacpp"
