"""A hub's checkpoints from their headers: the real huggingface_hub against a server of ours, which counts bytes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import huggingface_hub.constants
import pytest

from bench.base.errors import ToolchainError, UsageError
from bench.base.progress import Progress
from bench.pipeline.schemas import register_all
from bench.plan.fit import Verdict, fit_cells
from bench.plan.plan import plan
from bench.telemetry.hardware import Hardware
from quantize import hub as hub_module
from quantize.checkpoint import read_tensors
from quantize.gguf_file import read_gguf
from quantize.models import HubConfig
from quantize.source import glance
from tests.unit.quantize.fake_hub import FakeHub, Repo, the_hub
from tests.unit.quantize.gguf_writer import gguf_bytes
from tests.unit.quantize.safetensors_writer import write_safetensors

register_all()

CONFIG = {"num_hidden_layers": 1, "hidden_size": 512, "num_attention_heads": 8, "vocab_size": 9, "model_type": "llama"}
TENSORS = {f"model.layers.0.mlp.{name}_proj.weight": ("BF16", (1024, 512)) for name in ("up", "gate", "down")}
CPU = Hardware(name="cpu", gpus=0, gpu_bytes=None, main_bytes=16 << 30, compute_capability=None)


class RangesHub(FakeHub):
    """A hub that answers ranges, as hubs do, or not; `sent` counts bytes of weights."""

    ranges = True
    sent = 0

    def _send(  # type: ignore[override]  # ours needs what it has sent
        self, handler: BaseHTTPRequestHandler, content: bytes, headers: Mapping[str, str], status: int = 200
    ) -> None:
        asked = re.fullmatch(r"bytes=0-(\d+)", handler.headers.get("Range") or "")
        if self.ranges and asked and status == 200:
            content, status = content[: int(asked[1]) + 1], 206
        if handler.path.endswith((".safetensors", ".gguf")):
            self.sent += len(content)
        FakeHub._send(handler, content, headers, status)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RangesHub]:
    monkeypatch.setattr("tests.unit.quantize.fake_hub.FakeHub", RangesHub)
    hub_module._listing.cache_clear()
    weights = write_safetensors(tmp_path / "w.safetensors", TENSORS).read_bytes()
    with the_hub(tmp_path, monkeypatch) as server:
        assert isinstance(server, RangesHub)
        files = {
            "config.json": json.dumps(CONFIG).encode(),
            "tokenizer.json": b"{}" * 500,
            "model.safetensors": weights,
        }
        server.repos["org/model"] = Repo(files=files)
        gguf = gguf_bytes([("blk.0.ffn_up.weight", (256, 8192), 1)])
        server.repos["org/gguf"] = Repo(files={"model.gguf": gguf, "config.json": b"{}"})
        yield server
    hub_module._listing.cache_clear()


def test_headers_are_enough_for_a_folder(hub: RangesHub, tmp_path: Path) -> None:
    found = HubConfig(repo="org/model").outline(tmp_path / "outline")
    assert found is not None
    assert {tensor.name for tensor in read_tensors(found)} == set(TENSORS)
    assert (found / "model.safetensors").stat().st_size == len(hub.repos["org/model"].files["model.safetensors"])
    assert (found / "tokenizer.json").stat().st_size == 1000
    assert json.loads((found / "config.json").read_text()) == CONFIG
    assert hub.sent <= 128 << 10


def test_a_header_longer_than_the_first_bytes_is_fetched_whole(
    hub: RangesHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quantize.hub_headers._FIRST_BYTES", 64)
    found = HubConfig(repo="org/model").outline(tmp_path / "outline")
    assert found is not None
    assert len(read_tensors(found)) == 3


def test_headers_are_enough_for_a_gguf(hub: RangesHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quantize.hub_headers._GGUF_BYTES", (64, 4096, 1 << 20))
    found = HubConfig(repo="org/gguf", file="model.gguf").outline(tmp_path / "outline")
    assert found is not None
    assert read_gguf(found).tensors[0].parameters == 256 * 8192
    assert hub.sent == 64 + 4096
    assert glance(found).path == found


def test_a_hub_without_ranges_is_cut_off(hub: RangesHub, tmp_path: Path) -> None:
    hub.ranges = False
    found = HubConfig(repo="org/model").outline(tmp_path / "outline")
    assert found is not None
    assert len(read_tensors(found)) == 3


def test_offline_and_unknown_repositories_end_in_one_line(
    hub: RangesHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="the hub has no model 'org/nothing'"):
        HubConfig(repo="org/nothing").outline(tmp_path / "a")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UsageError, match="HF_HUB_OFFLINE is set"):
        HubConfig(repo="org/model").outline(tmp_path / "b")


def test_what_was_fetched_is_at_hand_and_part_of_it_is_not(hub: RangesHub, tmp_path: Path) -> None:
    config = HubConfig(repo="org/model")
    assert config.at_hand(tmp_path / "cache") is None
    assert hub.requests == []
    located = config.locate(tmp_path / "cache", Progress())
    asked = len(hub.requests)
    assert config.at_hand(tmp_path / "cache") is not None
    assert len(hub.requests) == asked
    (located.path / "model.safetensors").unlink()
    assert config.at_hand(tmp_path / "cache") is None


def test_a_dry_run_asks_no_hub_and_a_fit_does(hub: RangesHub, tmp_path: Path) -> None:
    cells = plan(["model=hub", "model.repo=org/model", "scheme=fp8_dynamic"]).cells
    (unknown,) = fit_cells(cells, CPU, cache=tmp_path / "cache")
    assert unknown.verdict is Verdict.UNKNOWN
    assert hub.requests == []
    (known,) = fit_cells(cells, CPU, cache=tmp_path / "cache", ask_hub=True)
    assert known.verdict is Verdict.FITS
    assert known.estimate is not None
    assert known.estimate.weight_bytes == 3 * 1024 * 512
    assert not (tmp_path / "cache").exists()


def test_a_hub_that_does_not_answer_leaves_a_cell_unknown(
    hub: RangesHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> Path:
        raise ToolchainError("org/model cannot be fetched from the hub")

    monkeypatch.setattr("quantize.hub_headers.outline", fail)
    cells = plan(["model=hub", "model.repo=org/model", "scheme=fp8_dynamic"]).cells
    (found,) = fit_cells(cells, CPU, cache=tmp_path / "cache", ask_hub=True)
    assert (found.verdict, found.unknown) == (Verdict.UNKNOWN, "org/model cannot be fetched from the hub")
