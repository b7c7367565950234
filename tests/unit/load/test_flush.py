"""Recordings reach the disk while they grow."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from bench.load.flush import Flusher


def test_what_grows_is_synced_again_and_again_until_the_end(tmp_path: Path) -> None:
    for name in ("worker0-000.seg", "worker0-001.seg", "worker0-002.seg", "worker1-000.seg", "worker0.json"):
        (tmp_path / name).touch()
    synced: list[str] = []
    twice = threading.Event()

    def sync(path: Path) -> None:
        synced.append(path.name)
        if synced.count("worker1-000.seg") == 2:
            twice.set()

    with Flusher(tmp_path, every_s=0.005, sync=sync):
        assert twice.wait(10)
    ended = len(synced)
    assert set(synced) == {"worker0-001.seg", "worker0-002.seg", "worker1-000.seg"}
    time.sleep(0.03)
    assert len(synced) == ended, "nothing is synced after the end"


def test_a_disk_that_fails_does_not_end_the_run(tmp_path: Path) -> None:
    (tmp_path / "worker0-000.seg").touch()
    tried = threading.Event()

    def sync(path: Path) -> None:
        tried.set()
        raise OSError(28, "No space left on device", str(path))

    with Flusher(tmp_path, every_s=0.005, sync=sync) as flusher:
        assert tried.wait(10)
        flusher.flush()
