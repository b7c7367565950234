"""A variant whose weights are with the server: nothing is fetched, made or written."""

from __future__ import annotations

from pathlib import Path

from bench.base.progress import Progress
from quantize.models import LocalConfig
from quantize.run import quantize
from quantize.schemes.as_served import AsServedConfig


def test_nothing_is_read_or_written_and_nothing_is_claimed(tmp_path: Path) -> None:
    model = LocalConfig(path=str(tmp_path / "nowhere"), name="big-model")
    made = quantize(model, AsServedConfig(), cache=tmp_path / "cache", progress=Progress())
    assert not made.holds_weights
    assert (made.label, made.format) == ("as served", "served")
    assert made.manifest["model"]["name"] == "big-model"
    assert [made.manifest[name] for name in ("size_bytes", "effective_bits_per_weight", "packing")] == [None] * 3
    assert made.manifest["files"] == []
    assert "not known" in made.manifest["warnings"][0]
    assert not (tmp_path / "cache").exists()


def test_models_tell_variants_apart(tmp_path: Path) -> None:
    def key(name: str) -> str:
        model = LocalConfig(path="nowhere", name=name)
        return quantize(model, AsServedConfig(), cache=tmp_path, progress=Progress()).key

    assert key("a") == key("a") != key("b")


def test_it_is_compared_with_itself_where_nothing_else_is_named() -> None:
    scheme = AsServedConfig()
    assert scheme.own_baseline(LocalConfig(path="nowhere")) is scheme
