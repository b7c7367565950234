"""Models of a hub: the real huggingface_hub against a server of ours."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import huggingface_hub.constants
import pytest

from bench.base.compose import compose
from bench.base.errors import CellFailure, FailureKind, QuantbenchError, ToolchainError, UsageError
from bench.base.progress import Progress, ProgressEvent
from bench.pipeline.schemas import register_all
from bench.plan.config import RunConfig
from quantize import hub as hub_module
from quantize.models import HubConfig
from quantize.run import quantize
from quantize.schemes.gguf import GgufConfig, GgufType
from quantize.source import Source, SourceFormat, resolve
from tests.support import quantbench
from tests.unit.quantize.fake_hub import FakeHub, Repo, the_hub
from tests.unit.quantize.gguf_writer import gguf_bytes
from tests.unit.quantize.safetensors_writer import write_safetensors
from tests.unit.quantize.test_quantize_run import Bench

register_all()

TOKEN = "hf_" + "t" * 34


def checkpoint(tmp_path: Path) -> dict[str, bytes]:
    """A repository as they are: data, code, pickles, other formats."""
    weights = write_safetensors(tmp_path / "w.safetensors", {"a": ("BF16", (32, 4))}).read_bytes()
    return {
        "config.json": b"{}",
        "tokenizer.json": b'{"version": "1.0"}',
        "merges.txt": b"a b",
        "chat_template.jinja": b"{{ messages }}",
        "model.safetensors": weights,
        "consolidated.safetensors": weights + b" ",
        "pytorch_model.bin": b"\x80\x04",
        "modeling_mine.py": b"print('never')",
        "README.md": b"# read me",
        "onnx/model.onnx": b"onnx",
        "original/params.json": b"{}",
    }


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with the_hub(tmp_path, monkeypatch) as server:
        hub_module._listing.cache_clear()
        server.repos["org/tiny"] = Repo(files=checkpoint(tmp_path))
        server.repos["org/tiny-GGUF"] = Repo(
            files={"tiny.Q8_0.gguf": gguf_bytes(), "README.md": b"", "config.json": b"{}"}
        )
        yield server
    hub_module._listing.cache_clear()


def found(config: HubConfig, tmp_path: Path, events: list[ProgressEvent] | None = None) -> Source:
    progress = Progress() if events is None else Progress(events.append)
    return resolve(config, cache=tmp_path / "cache", progress=progress)


def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    hub_module._listing.cache_clear()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


def test_only_data_is_fetched_and_the_revision_is_pinned(hub: FakeHub, tmp_path: Path) -> None:
    events: list[ProgressEvent] = []
    source = found(HubConfig(repo="org/tiny", notes=["said"]), tmp_path, events)
    fetched = ["chat_template.jinja", "config.json", "merges.txt", "model.safetensors", "tokenizer.json"]
    assert hub.fetched == fetched
    assert sorted(file.name for file in source.path.iterdir()) == fetched
    assert (source.path / "model.safetensors").read_bytes() == hub.repos["org/tiny"].files["model.safetensors"]
    assert source.format is SourceFormat.hf
    assert (source.name, source.license, source.notes) == ("tiny", "apache-2.0", ("said",))
    assert source.digest == f"hub:org/tiny@{'c' * 40}"
    assert source.origin == {"hub": "org/tiny", "revision": "main", "commit": "c" * 40}
    assert any("downloading model.safetensors" in event.message for event in events)
    assert "MiB" in {event.unit for event in events}
    assert str(tmp_path) not in json.dumps(source.origin)
    requests = len(hub.requests)
    assert found(HubConfig(repo="org/tiny"), tmp_path).digest == source.digest
    assert len(hub.requests) == requests, "one answer for a whole run"


def test_a_named_gguf(hub: FakeHub, tmp_path: Path) -> None:
    source = found(HubConfig(repo="org/tiny-GGUF", file="tiny.Q8_0.gguf"), tmp_path)
    assert hub.fetched == ["tiny.Q8_0.gguf"]
    assert source.path.read_bytes() == gguf_bytes()
    assert (source.format, source.name) == (SourceFormat.gguf, "Tiny")
    assert source.digest == f"hub:org/tiny-GGUF@{'c' * 40}/tiny.Q8_0.gguf"


def test_a_moved_branch_is_another_source_and_a_pinned_one_asks_nobody(hub: FakeHub, tmp_path: Path) -> None:
    first = found(HubConfig(repo="org/tiny"), tmp_path)
    old = hub.repos["org/tiny"]
    hub.repos["org/tiny"] = dataclasses.replace(old, commit="d" * 40)
    hub_module._listing.cache_clear()
    second = found(HubConfig(repo="org/tiny"), tmp_path)
    assert second.digest == f"hub:org/tiny@{'d' * 40}" != first.digest
    pinned = HubConfig(repo="org/tiny", revision="d" * 40)
    assert found(pinned, tmp_path).digest == second.digest
    hub_module._listing.cache_clear()
    requests = len(hub.requests)
    assert found(pinned, tmp_path).digest == second.digest
    assert len(hub.requests) == requests


def test_offline_uses_what_was_fetched(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = found(HubConfig(repo="org/tiny"), tmp_path)
    requests = len(hub.requests)
    offline(monkeypatch)
    assert found(HubConfig(repo="org/tiny"), tmp_path).digest == first.digest
    with pytest.raises(UsageError, match=r"org/tiny-GGUF@main is not .* HF_HUB_OFFLINE is set"):
        found(HubConfig(repo="org/tiny-GGUF", file="tiny.Q8_0.gguf"), tmp_path)
    (first.path / "model.safetensors").unlink()
    with pytest.raises(UsageError, match="not wholly"):
        found(HubConfig(repo="org/tiny"), tmp_path)
    assert len(hub.requests) == requests


def test_offline_finds_what_another_program_fetched(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for repo, files in (("org/tiny", ("config.json", "model.safetensors")), ("org/tiny-GGUF", ("tiny.Q8_0.gguf",))):
        for name in files:
            huggingface_hub.hf_hub_download(repo, name, endpoint=hub.url)
    offline(monkeypatch)
    source = found(HubConfig(repo="org/tiny"), tmp_path)
    assert source.digest == f"hub:org/tiny@{'c' * 40}"
    gguf = found(HubConfig(repo="org/tiny-GGUF", file="tiny.Q8_0.gguf"), tmp_path)
    assert gguf.origin is not None
    assert gguf.origin["commit"] == "c" * 40


def test_the_token_is_sent_and_recorded_nowhere(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repos["org/private"] = dataclasses.replace(hub.repos["org/tiny-GGUF"], token=TOKEN)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    tools = Bench(tmp_path)
    made = quantize(
        HubConfig(repo="org/private", file="tiny.Q8_0.gguf"),
        GgufConfig(type=GgufType.F16),
        cache=tools.cache,
        progress=Progress(tools.events.append),
        toolchains=tools,
    )
    assert hub.tokens == {TOKEN}
    assert made.manifest["model"]["origin"]["commit"] == "c" * 40
    assert made.manifest["model"]["digest"].startswith("hub:org/private@cccc")
    assert TOKEN not in str(tools.events)
    for file in (path for path in tmp_path.rglob("*") if path.is_file()):
        assert TOKEN.encode() not in file.read_bytes(), file


def refused(config: HubConfig, tmp_path: Path, kind: type[QuantbenchError] = UsageError) -> str:
    with pytest.raises(kind) as caught:
        found(config, tmp_path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_the_hub_refuses_is_one_line(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repos["org/gated"] = dataclasses.replace(hub.repos["org/tiny"], gated=True, token=TOKEN)
    hub.repos["org/private"] = dataclasses.replace(hub.repos["org/tiny"], token=TOKEN)
    assert "there is no model" not in refused(HubConfig(repo="org/gated"), tmp_path)
    assert "org/gated is gated and no token is set; accept its terms at" in refused(
        HubConfig(repo="org/gated"), tmp_path
    )
    assert "no model 'org/absent', or it is private and no token is set" in refused(
        HubConfig(repo="org/absent"), tmp_path
    )
    assert "org/tiny has no revision 'v9'" in refused(HubConfig(repo="org/tiny", revision="v9"), tmp_path)
    monkeypatch.setenv("HF_TOKEN", "hf_of_somebody_else")
    assert "is gated and the token that is set has no access" in refused(HubConfig(repo="org/gated"), tmp_path)
    message = refused(HubConfig(repo="org/private"), tmp_path)
    assert "private and the token that is set has no access" in message
    assert "hf_of_somebody_else" not in message


def test_what_the_repository_lacks_is_one_line(hub: FakeHub, tmp_path: Path) -> None:
    part = "tiny-00001-of-00002.gguf"
    for name, files in {
        "org/pickled": {"config.json": b"{}", "pytorch_model.bin": b"\x80\x04"},
        "org/data": {"data.csv": b"1"},
        "org/bare": {"model.safetensors": b""},
        "org/split": {part: gguf_bytes()},
        "org/novel": {"novel.gguf": b"Call me Ishmael."},
    }.items():
        hub.repos[name] = Repo(files=files)
    cases: list[tuple[HubConfig, str]] = [
        (HubConfig(repo="org/pickled"), "has only pickled weights (pytorch_model.bin)"),
        (HubConfig(repo="org/data"), "has no *.safetensors and no GGUF"),
        (HubConfig(repo="org/bare"), "has no config.json"),
        (HubConfig(repo="org/tiny-GGUF"), "name one with model.file=NAME: tiny.Q8_0.gguf"),
        (HubConfig(repo="org/tiny-GGUF", file="tiny.Q8.gguf"), "did you mean 'tiny.Q8_0.gguf'?"),
        (HubConfig(repo="org/split", file=part), "is one part of a split GGUF"),
        (HubConfig(repo="org/novel", file="novel.gguf"), "is not a GGUF file"),
    ]
    for config, expected in cases:
        assert expected in refused(config, tmp_path)
    assert hub.fetched == ["novel.gguf"]


def test_space_is_checked_before_the_first_byte(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repos["org/tiny"].says_size["model.safetensors"] = 1 << 50
    with pytest.raises(CellFailure, match=r"takes 1073741824 MiB .* are free; free some space") as caught:
        found(HubConfig(repo="org/tiny"), tmp_path)
    assert caught.value.kind is FailureKind.DISK_FULL
    assert hub.fetched == []


def test_a_hub_that_does_not_answer(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.close()
    message = refused(HubConfig(repo="org/tiny"), tmp_path, ToolchainError)
    assert "cannot be fetched from http://127.0.0.1" in message


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["model.repo=a/b/c"], "is no name of a hub's repository; write org/name"),
        (["model.repo=../etc"], "is no name of a hub's repository"),
        (["model.repo=org/name", "model.file=model.bin"], "must be a .gguf"),
        (["model.repo=org/name", "model.revision=''"], "model.revision is empty"),
        ([], r"missing: model.repo"),
    ],
)
def test_bad_settings_are_refused_before_any_request(overrides: list[str], expected: str) -> None:
    with pytest.raises(UsageError, match=expected):
        compose("run", ["model=hub", *overrides], RunConfig)


def test_the_command_line_honours_the_hubs_variables(hub: FakeHub, tmp_path: Path) -> None:
    env = {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path / "hf-home"),
        "HF_TOKEN": TOKEN,
        "QUANTBENCH_CACHE": str(tmp_path / "cache"),
    }
    answer = quantbench("quantize", "model=hub", "model.repo=org/absent", cwd=tmp_path, env=env)
    assert answer.returncode == 2, answer.stderr
    assert answer.stderr.splitlines()[-1].startswith("quantbench: the hub has no model 'org/absent'")
    assert "Traceback" not in answer.stderr
    assert hub.tokens == {TOKEN}
    assert hub.requests == ["GET /api/models/org/absent/revision/main"], "nothing but what was asked for"
    flagged = quantbench(
        "quantize", "model=hub", "model.repo=org/tiny", cwd=tmp_path, env={**env, "HF_HUB_OFFLINE": "1"}
    )
    assert flagged.returncode == 2
    assert "HF_HUB_OFFLINE is set" in flagged.stderr.splitlines()[-1]
    assert not [file for file in tmp_path.rglob("*") if file.is_file() and TOKEN.encode() in file.read_bytes()]
