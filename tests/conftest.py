"""Fixtures for all tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

from bench.base.paths import cache_dir
from tests.support import Workspace, require

settings.register_profile("unhurried", parent=settings.default, deadline=None)
settings.load_profile("unhurried")


@pytest.fixture(autouse=True)
def _no_personal_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables of the developer's shell must not change what is tested."""
    for name in ("QUANTBENCH_CONFIG_DIR", "QUANTBENCH_API_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own. Toolchains are not in it: use it where none is needed."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("QUANTBENCH_CACHE", str(folder))
    return folder


@pytest.fixture(scope="session")
def make_workspace(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Workspace]:
    """A maker of workspaces that live as long as the tests, on the machine's warm toolchains."""
    shared = cache_dir()
    ready = any((shared / "toolchains").glob("llama_cpp-*/toolchain.json"))
    require(ready, "the llama_cpp toolchain is not installed: quantbench toolchain install llama_cpp")

    def make(name: str) -> Workspace:
        folder = tmp_path_factory.mktemp(name)
        cache = folder / "cache"
        cache.mkdir()
        for part in ("toolchains", "sources"):
            (shared / part).mkdir(exist_ok=True)
            (cache / part).symlink_to(shared / part)
        return Workspace(folder=folder, cache=cache)

    return make
