"""Artefacts of the packaged model that several tests look at: made once a session, from nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from bench.base.paths import cache_dir
from bench.base.progress import Progress
from quantize.artefact import Artefact
from quantize.run import quantize
from quantize.schemes.base import SchemeConfig
from tests.integration.quantize.real_llama_cpp import packaged_model


@pytest.fixture(scope="session")
def made_of_packaged(tmp_path_factory: pytest.TempPathFactory) -> Callable[[SchemeConfig], Artefact]:
    """The packaged model under a scheme; its source comes from the user's cache."""
    cache: Path = tmp_path_factory.mktemp("packaged")
    (cache_dir() / "sources").mkdir(parents=True, exist_ok=True)
    (cache / "sources").symlink_to(cache_dir() / "sources")
    return lambda scheme: quantize(packaged_model(), scheme, cache=cache, progress=Progress())
