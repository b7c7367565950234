"""An artefact is whole or absent, and made once."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from bench.base.files import write_json
from bench.store.artefacts import ArtefactStore


def make(store: ArtefactStore, key: str, content: str) -> None:
    with store.making(key) as work:
        (work / "model.gguf").write_text(content)
        write_json(work / "manifest.json", {"content": content})


def test_a_finished_artefact_is_found(tmp_path: Path) -> None:
    store = ArtefactStore(tmp_path / "artefacts")
    assert store.manifest("k") is None
    make(store, "k", "one")
    assert store.manifest("k") == {"content": "one"}
    assert (store.directory("k") / "model.gguf").read_text() == "one"


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    store = ArtefactStore(tmp_path)

    def fail() -> None:
        with store.making("k") as work:
            (work / "model.gguf").write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert store.manifest("k") is None
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_what_a_killed_maker_left_is_not_taken_for_an_artefact(tmp_path: Path) -> None:
    store = ArtefactStore(tmp_path)
    debris = tmp_path / ".k.making"
    debris.mkdir()
    (debris / "model.gguf").write_text("half")
    with store.making("k") as work:
        assert list(work.iterdir()) == []
    assert store.manifest("k") is None


def test_leaving_without_a_manifest_keeps_what_is_there(tmp_path: Path) -> None:
    store = ArtefactStore(tmp_path)
    make(store, "k", "one")
    with store.making("k"):
        assert store.manifest("k") == {"content": "one"}
    assert store.manifest("k") == {"content": "one"}


def test_two_makers_of_one_artefact_take_turns(tmp_path: Path) -> None:
    made: list[str] = []

    def work(name: str) -> None:
        store = ArtefactStore(tmp_path)
        with store.making("k") as folder:
            if store.manifest("k") is None:
                made.append(name)
                write_json(folder / "manifest.json", {"by": name})

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1


def test_acceptance_is_remembered_for_its_check_only(tmp_path: Path) -> None:
    store = ArtefactStore(tmp_path)
    make(store, "k", "one")
    store.record_acceptance("k", "check-1", {"verdict": "accepted"})
    assert store.acceptance("k", "check-1") == {"verdict": "accepted"}
    assert store.acceptance("k", "check-2") is None
    assert store.last_acceptance("k") == {"verdict": "accepted"}
    assert store.last_acceptance("other") is None
