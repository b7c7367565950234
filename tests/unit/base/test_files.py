"""Files are whole or absent."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.base.files import read_json, tail, write_atomic, write_json


def test_a_failed_write_leaves_the_old_file_and_no_debris(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "value.json"
    write_json(target, {"a": 1})

    def full(_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_json(target, {"a": 2})
    assert read_json(target) == {"a": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["value.json"]


def test_not_a_number_is_refused_rather_than_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "value.json", {"a": float("nan")})
    assert not (tmp_path / "value.json").exists()


def test_folders_are_made(tmp_path: Path) -> None:
    write_atomic(tmp_path / "a" / "b" / "c", b"x")
    assert (tmp_path / "a" / "b" / "c").read_bytes() == b"x"


def test_tail_gives_the_last_lines_of_any_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert tail(log) == ""
    log.write_bytes(b"".join(b"line %d\n" % number for number in range(5000)) + b"\xff\xfe end")
    assert tail(log, lines=2).splitlines() == ["line 4999", "�� end"]
    assert len(tail(log, lines=100_000)) <= 16_384 + 10
