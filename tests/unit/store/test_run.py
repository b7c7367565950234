"""A run on disk survives whatever dies: properties of crash-then-reopen."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.base.errors import UsageError
from bench.base.files import read_json, write_json
from bench.store.run import ChildKind, RunStore, Status


def begun(directory: Path) -> RunStore:
    store = RunStore(directory)
    store.begin(name="quickstart", command=["quantbench", "run"], overrides=[], report=[], version="0.1.0")
    return store


def test_a_folder_with_other_files_is_not_written_into(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(UsageError, match="not a quantbench run"):
        begun(tmp_path)
    with pytest.raises(UsageError, match="is a file"):
        RunStore(tmp_path / "thesis.tex").lock()
    with pytest.raises(UsageError, match=r"cannot be made \(Not a directory\)"):
        RunStore(tmp_path / "thesis.tex" / "run").lock()


def test_every_start_of_an_engine_has_a_log_of_its_own(tmp_path: Path) -> None:
    cell = RunStore(tmp_path).cell("k")
    names = []
    for _ in range(3):
        log = cell.new_log("engine")
        log.touch()
        names.append(log.name)
    assert names == ["engine.log", "engine-2.log", "engine-3.log"]


def test_a_run_says_how_it_stands(tmp_path: Path) -> None:
    store = begun(tmp_path / "run")
    assert read_json(tmp_path / "run" / "run.json")["status"] == "running"
    store.finish(Status.COMPLETE)
    run = read_json(tmp_path / "run" / "run.json")
    assert run["status"] == "complete"
    assert run["schema_version"] == 1
    assert run["finished"] >= run["started"]


def test_only_one_process_writes_a_run(tmp_path: Path) -> None:
    with RunStore(tmp_path).lock(), pytest.raises(UsageError, match="being written by another"):
        RunStore(tmp_path).lock()
    with RunStore(tmp_path).lock():
        pass


@pytest.mark.parametrize("crashed_at", ["empty", "some files", "half a manifest", "partial manifest"])
def test_an_unfinished_child_is_kept_aside_and_measured_again(tmp_path: Path, crashed_at: str) -> None:
    slot = RunStore(tmp_path).cell("k").child(ChildKind.SCENARIO, "c4", "0123456789abcdef")
    folder = slot.prepare()
    if crashed_at != "empty":
        (folder / "segment-0").write_text("measured")
    if crashed_at == "half a manifest":
        (folder / "manifest.json").write_text('{"status": "comp')
    if crashed_at == "partial manifest":
        write_json(folder / "manifest.json", {"status": "partial"})

    reopened = RunStore(tmp_path).cell("k").child(ChildKind.SCENARIO, "c4", "0123456789abcdef")
    assert not reopened.is_complete()
    assert list(reopened.prepare().iterdir()) == []
    kept = sorted(path.name for path in folder.parent.iterdir())
    assert kept == (["c4-01234567"] if crashed_at == "empty" else ["c4-01234567", "c4-01234567.partial-1"])
    if crashed_at != "empty":
        assert (folder.parent / "c4-01234567.partial-1" / "segment-0").read_text() == "measured"


def test_a_finished_child_is_found_again(tmp_path: Path) -> None:
    slot = RunStore(tmp_path).cell("k").child(ChildKind.TASK, "perplexity", "feedbeef00000000")
    write_json(slot.prepare() / "manifest.json", {"status": "complete"})
    assert RunStore(tmp_path).cell("k").child(ChildKind.TASK, "perplexity", "feedbeef00000000").is_complete()
    assert not RunStore(tmp_path).cell("k").child(ChildKind.TASK, "perplexity", "0000beef00000000").is_complete()


def test_a_half_written_cell_manifest_reads_as_none(tmp_path: Path) -> None:
    cell = RunStore(tmp_path).cell("k")
    cell.write({"key": "k"})
    assert cell.read() == {"schema_version": 1, "key": "k"}
    (cell.directory / "cell.json").write_text("{")
    assert cell.read() is None


def test_names_cannot_leave_the_cell(tmp_path: Path) -> None:
    slot = RunStore(tmp_path).cell("k").child(ChildKind.TASK, "../../evil", "feedbeef00000000")
    assert slot.directory.resolve().is_relative_to(tmp_path / "cells" / "k" / "tasks")
