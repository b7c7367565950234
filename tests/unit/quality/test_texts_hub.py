"""Texts of a hub's datasets: the real huggingface_hub against a server of ours."""

from __future__ import annotations

import dataclasses
import io
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import huggingface_hub
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bench.base.compose import compose
from bench.base.errors import QuantbenchError, ToolchainError, UsageError
from bench.base.hashing import sha256_file
from bench.pipeline.schemas import register_all
from bench.plan.config import RunConfig
from bench.quality.config import DivergenceConfig, PerplexityConfig
from bench.quality.hub_texts import NAMED, joined_wikitext
from tests.support import test_data
from tests.unit.quantize.fake_hub import FakeHub, Repo, the_hub

register_all()

WIKITEXT = NAMED["wikitext2"]
COMMIT = "c" * 40
#: A stand-in for whoever has no real data at hand: as the classic file, with blank lines at both ends.
SAMPLE = " \n = Robert Boulter = \n \n Robert Boulter is an English film actor . \n In 2006 , he “ starred ” . \n \n \n"


def parquet(rows: Sequence[object], column: str = "text") -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table({column: rows}), buffer)
    return buffer.getvalue()


def hub_rows(classic: str) -> list[str]:
    """Rows as the dataset was made of the classic file: a line each, without what is only space."""
    return [line if line.strip() else "" for line in classic.splitlines(keepends=True)]


def serve_wikitext(hub: FakeHub, classic: str, **how: object) -> None:
    files = {WIKITEXT.file: parquet(hub_rows(classic))}
    repo = Repo(files=files, commit=WIKITEXT.revision)
    hub.repos[f"datasets/{WIKITEXT.repo}"] = dataclasses.replace(repo, **how)  # type: ignore[arg-type]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> Iterator[FakeHub]:
    with the_hub(tmp_path, monkeypatch) as server:
        yield server


def refused(text: str, kind: type[QuantbenchError] = UsageError) -> str:
    with pytest.raises(kind) as caught:
        PerplexityConfig(text=text).data_digest()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_wikitext2_is_the_classic_file_and_is_fetched_once(hub: FakeHub, cache: Path) -> None:
    classic = test_data("wikitext2/wiki.test.raw")
    serve_wikitext(hub, classic.read_bytes().decode())
    path = PerplexityConfig(text="wikitext2").text_path()
    assert path.read_bytes() == classic.read_bytes()
    assert path.parent == cache / "sources" / "texts"
    assert path.name.startswith("wikitext2-")
    asked = f"/datasets/Salesforce/wikitext/resolve/{WIKITEXT.revision}/{WIKITEXT.file}"
    assert [line for line in hub.requests if "/datasets/" in line] == [f"HEAD {asked}", f"GET {asked}"]
    hub.close()
    assert DivergenceConfig(text="wikitext2").data_digest() == f"sha256:{sha256_file(classic)}"
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_rows_become_the_classic_bytes() -> None:
    rows = hub_rows(SAMPLE)
    assert rows[:3] == ["", " = Robert Boulter = \n", ""]
    assert joined_wikitext(rows) == SAMPLE


def test_another_text_in_its_place_is_refused_and_not_kept(hub: FakeHub, cache: Path) -> None:
    serve_wikitext(hub, SAMPLE)
    assert f"as {hub.url} gives it, is not the known wikitext2; check HF_ENDPOINT" in refused("wikitext2")
    assert not (cache / "sources" / "texts").exists()


def test_any_file_of_a_dataset(hub: FakeHub, cache: Path) -> None:
    files = {"a/some notes.txt": "Zwölf\r\n".encode(), "a/rows.parquet": parquet(["one", None, "three"])}
    hub.repos["datasets/org/texts"] = Repo(files=files)
    as_it_is = PerplexityConfig(text=f"hub:org/texts/a/some notes.txt@{COMMIT}").text_path()
    assert as_it_is.read_bytes() == "Zwölf\r\n".encode()
    rows = PerplexityConfig(text=f"hub:org/texts/a/rows.parquet@{COMMIT}").text_path()
    assert rows.read_bytes() == b"one\n\nthree"
    hub.repos["datasets/org/texts"] = Repo(files={**files, "a/some notes.txt": b"moved"}, commit="d" * 40)
    moved = PerplexityConfig(text=f"hub:org/texts/a/some notes.txt@{'d' * 40}").text_path()
    assert (moved.read_bytes(), as_it_is.read_bytes()) == (b"moved", "Zwölf\r\n".encode())


def test_what_the_hub_refuses_is_one_line(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    serve_wikitext(hub, SAMPLE, gated=True, token="hf_of_the_owner")
    hub.repos["datasets/org/texts"] = Repo(files={"a.txt": b"a"})
    assert refused("wikitext2") == (
        "Salesforce/wikitext is gated and no token is set; accept its terms at "
        f"{hub.url}/datasets/Salesforce/wikitext and set HF_TOKEN to a token of that account"
    )
    assert "the hub has no dataset 'org/absent', or it is private and no token is set; check task.text" in refused(
        f"hub:org/absent/a.txt@{COMMIT}"
    )
    assert f"org/texts has no revision '{'e' * 40}'; check task.text" in refused(f"hub:org/texts/a.txt@{'e' * 40}")
    assert f"org/texts@{COMMIT} has no file 'b.txt'; check task.text" in refused(f"hub:org/texts/b.txt@{COMMIT}")
    monkeypatch.setenv("HF_TOKEN", "hf_of_somebody_else")
    message = refused("wikitext2")
    assert "is gated and the token that is set has no access" in message
    assert "hf_of_somebody_else" not in message
    assert hub.tokens == {None, "hf_of_somebody_else"}


@pytest.mark.parametrize(
    ("file", "content", "expected"),
    [
        ("a.parquet", parquet(["a"], "content"), "has no column 'text' of strings; it has content"),
        ("a.parquet", parquet([1, 2]), "has no column 'text' of strings"),
        ("a.parquet", b"PAR0", "is no parquet file"),
        ("a.parquet", parquet([" ", None]), "is empty"),
        ("a.zip", b"PK\x03\x04\xff", "is not UTF-8 text (byte 4)"),
    ],
)
def test_a_file_that_is_no_text_is_one_line(
    hub: FakeHub, cache: Path, file: str, content: bytes, expected: str
) -> None:
    hub.repos["datasets/org/texts"] = Repo(files={file: content})
    message = refused(f"hub:org/texts/{file}@{COMMIT}")
    assert message.startswith(f"task.text: {file} of org/texts {expected}")
    assert not (cache / "sources" / "texts").exists()


def test_offline_uses_what_is_there_and_says_when_it_is_not(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repos["datasets/org/texts"] = Repo(files={"a.txt": b"of another program"})
    huggingface_hub.hf_hub_download("org/texts", "a.txt", repo_type="dataset", revision=COMMIT, endpoint=hub.url)
    requests = list(hub.requests)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert PerplexityConfig(text=f"hub:org/texts/a.txt@{COMMIT}").text_path().read_bytes() == b"of another program"
    assert re.search(
        rf"^Salesforce/wikitext@{WIKITEXT.revision} is not .* HF_HUB_OFFLINE is set; fetch", refused("wikitext2")
    )
    assert hub.requests == requests


def test_a_hub_that_does_not_answer(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.close()
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # between the library's attempts
    message = refused("wikitext2", ToolchainError)
    assert f"Salesforce/wikitext cannot be fetched from {hub.url}" in message
    assert "refused" in message, "says why"


@pytest.mark.parametrize(
    "text",
    [
        "hub:org/texts/a.txt",
        "hub:org/texts/a.txt@main",
        f"hub:org/a.txt@{COMMIT}",
        f"hub:org/texts/../a.txt@{COMMIT}",
    ],
)
def test_another_form_is_refused_before_any_request(text: str) -> None:
    with pytest.raises(UsageError, match=r"write hub:ORG/NAME/PATH/IN/REPO@COMMIT"):
        compose("run", ["+task@tasks.perplexity=perplexity", f"tasks.perplexity.text={text}"], RunConfig)


def test_the_form_can_be_written_on_the_command_line() -> None:
    overrides = ["+task@tasks.perplexity=perplexity", f"tasks.perplexity.text=hub:org/texts/a-b/c_1.txt@{COMMIT}"]
    config = compose("run", overrides, RunConfig)
    assert config.tasks["perplexity"].text == f"hub:org/texts/a-b/c_1.txt@{COMMIT}"
