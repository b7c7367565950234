"""Calibration sets: what is read, drawn and refused, and what of it enters keys."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bench.base.errors import CellFailure, FailureKind, ToolchainError, UsageError
from bench.base.progress import Progress
from bench.base.schema import identity
from bench.toolchains import worker
from bench.toolchains.toolchain import Toolchain
from bench.toolchains.worker import WorkerError
from quantize import samples
from quantize.samples import SampleSetConfig

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def jsonl(path: Path, rows: Sequence[Any]) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def written(config: SampleSetConfig, folder: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    record = config.write(folder / "out.jsonl", progress=Progress())
    lines = (folder / "out.jsonl").read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines if line], record


def test_the_shipped_text_is_one_long_text(tmp_path: Path) -> None:
    (line,), record = written(SampleSetConfig(samples=3, length=16), tmp_path)
    assert len(line["text"]) > 10_000
    assert record["name"] == "default"
    assert record["pieces"] == 1
    assert (record["samples"], record["length"], record["seed"]) == (3, 16, 0)
    assert record["digest"].startswith("sha256:")


def test_another_file_is_one_long_text_under_its_name(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("ein Text\nin zwei Zeilen", encoding="utf-8")
    (line,), record = written(SampleSetConfig(text=str(tmp_path / "mine.txt")), tmp_path)
    assert line == {"text": "ein Text\nin zwei Zeilen"}
    assert record["name"] == "mine.txt"
    assert str(tmp_path) not in json.dumps(record)


def test_rows_are_drawn_by_the_seed_in_the_order_of_the_file(tmp_path: Path) -> None:
    file = jsonl(tmp_path / "rows.jsonl", [{"text": f"{n:03}"} for n in range(100)])
    config = SampleSetConfig(text=str(file), samples=10)
    first, record = written(config, tmp_path)
    again, same = written(config, tmp_path)
    other, changed = written(dataclasses.replace(config, seed=1), tmp_path)
    assert first == again
    assert record == same
    assert first != other
    assert record["digest"] == changed["digest"]
    assert record["samples_digest"] != changed["samples_digest"]
    texts = [line["text"] for line in first]
    assert len(set(texts)) == 10
    assert texts == sorted(texts)
    everything, _ = written(dataclasses.replace(config, samples=100), tmp_path)
    assert len(everything) == 100


def test_rows_hold_texts_of_a_column_or_messages_and_empty_ones_are_passed_over(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Hallo\u2028Welt"}]
    rows = [
        *({"body": "a"}, {"body": " "}, {"body": None, "messages": []}),
        *({"messages": turns}, {"body": "b", "messages": turns}, {"body": 7}),
    ]
    wanted = [{"text": "a"}, {"messages": turns}, {"messages": turns}]
    (tmp_path / "blank.jsonl").write_text("\n".join(["", *map(json.dumps, rows), "", ""]), encoding="utf-8")
    for file in (jsonl(tmp_path / "rows.jsonl", rows), tmp_path / "blank.jsonl"):
        assert written(SampleSetConfig(text=str(file), column="body", samples=3), tmp_path)[0] == wanted


def test_parquet(tmp_path: Path) -> None:
    turns = [[{"role": "user", "content": "x"}], None, None]
    table = pa.table({"text": [None, "eins", "zwei"], "messages": turns})
    pq.write_table(table, tmp_path / "rows.parquet")
    lines, record = written(SampleSetConfig(text=str(tmp_path / "rows.parquet"), samples=3), tmp_path)
    assert lines == [{"messages": [{"role": "user", "content": "x"}]}, {"text": "eins"}, {"text": "zwei"}]
    assert record["pieces"] == 3
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and nothing else PAR1")
    with pytest.raises(UsageError, match=r"broken\.parquet is not a Parquet file"):
        SampleSetConfig(text=str(tmp_path / "broken.parquet")).check()


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        (
            "a.jsonl",
            b'{"body": "x"}\n',
            r"row 1 of .*a\.jsonl has no 'text' and no 'messages' \(it has body\); name the",
        ),
        ("a.jsonl", b'{"text": "x"}\n[]\n', r"row 2 of .*a\.jsonl has no 'text' .* \(it has no object\)"),
        ("a.jsonl", b'{"text": "x"}\n{"text": \n', r"line 2 of .*a\.jsonl is not JSON"),
        ("a.jsonl", b'{"text": "x"}\n{"text": ""}\n', r"a\.jsonl has 1 rows that can be used, 2 samples are asked"),
        ("a.jsonl", b" \n", r"a\.jsonl is empty"),
        ("a.txt", b"", r"a\.txt is empty"),
        ("a.txt", b"caf\xe9", r"a\.txt is not UTF-8 text \(byte 3\)"),
    ],
)
def test_what_cannot_be_used_is_named_before_any_work(name: str, content: bytes, expected: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    config = SampleSetConfig(text=str(tmp_path / name), samples=2)
    for refused in (config.check, lambda: written(config, tmp_path)):
        with pytest.raises(UsageError, match=expected) as caught:
            refused()
        assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    config = SampleSetConfig(text=str(tmp_path / "no.txt"))
    for refused in (config.digest, config.check):
        with pytest.raises(UsageError, match=r"there is no file .*no\.txt; give"):
            refused()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"samples": 0}, "calibration.samples=0 must be at least 1"),
        ({"length": 4}, "calibration.length=4 must be 8 tokens or more"),
        ({"text": " "}, "calibration.text is empty"),
        ({"text": "hub:org/name:train@main"}, "with the 40 digits of a commit"),
        ({"text": f"hub:name:train@{COMMIT}"}, "must be hub:ORG/NAME"),
        ({"text": f"hub:org/name@{COMMIT}"}, "must be hub:ORG/NAME"),
        ({"text": f"hub:../name:train@{COMMIT}"}, "must be hub:ORG/NAME"),
        ({"chat_template": True}, "chat_template is for rows"),
        ({"chat_template": True, "text": "long.txt"}, "chat_template is for rows"),
    ],
)
def test_settings_that_cannot_be_meant(settings: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        SampleSetConfig(**settings)
    for rows in ("a.jsonl", "a.parquet", f"hub:org/name/config:train@{COMMIT}"):
        assert SampleSetConfig(text=rows, chat_template=True).chat_template


def test_content_and_not_the_name_enters_keys(tmp_path: Path) -> None:
    rows = [{"text": "a"}, {"text": "b"}]
    here, there = jsonl(tmp_path / "here" / "a.jsonl", rows), jsonl(tmp_path / "there" / "b.jsonl", rows)
    first, second = SampleSetConfig(text=str(here), samples=1), SampleSetConfig(text=str(there), samples=1)
    assert first.digest() == second.digest()
    assert identity(first) == identity(second) == {"samples": 1, "length": 512, "seed": 0, "chat_template": False}
    assert first.digest() != SampleSetConfig().digest()
    there.write_text(json.dumps({"text": "other"}))
    assert first.digest() != second.digest()
    whole = tmp_path / "here" / "a.txt"
    whole.write_bytes(here.read_bytes())
    assert first.digest() != SampleSetConfig(text=str(whole)).digest(), "the same bytes, read as one text"
    assert identity(dataclasses.replace(first, column="body"))["column"] == "body"


class Hub:
    """In the place of the worker that reads a hub's dataset."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, rows: Sequence[Any] | WorkerError) -> None:
        self.rows = rows
        self.asked: dict[str, Any] = {}
        self.env: dict[str, str] = {}
        monkeypatch.setattr(worker, "run_worker", self.run)

    def run(
        self, toolchain: Toolchain, worker: Path, request: Mapping[str, Any], *, env: Mapping[str, str], **_: Any
    ) -> dict[str, Any]:
        assert worker.name == "hub_samples.py"
        assert worker.is_file()
        self.asked, self.env = dict(request), dict(env)
        if isinstance(self.rows, WorkerError):
            raise self.rows
        return {"rows": list(self.rows)}

    def write(self, config: SampleSetConfig, folder: Path) -> dict[str, Any]:
        tools = Toolchain(name="t", lock_hash="0", prefix=folder, python=folder / "python")
        return config.write(folder / "out.jsonl", progress=Progress(), toolchain=tools, log=folder / "log")


def test_a_hubs_dataset_is_read_at_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in samples._HUB_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    hub = Hub(monkeypatch, [{"text": "a"}, {"text": "b"}])
    text = f"hub:org/name/config:train@{COMMIT}"
    config = SampleSetConfig(text=text, samples=2, seed=5, column="body")
    config.check()
    assert hub.asked == {}, "nothing is fetched to check"
    record = hub.write(config, tmp_path)
    assert hub.asked == {
        "repo": "org/name",
        "config": "config",
        "split": "train",
        "revision": COMMIT,
        "column": "body",
        "samples": 2,
        "seed": 5,
    }
    assert hub.env == {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:1"}
    assert config.digest() == record["digest"] == record["name"] == text
    hub.write(SampleSetConfig(text=f"hub:org/name:train@{COMMIT}", samples=1), tmp_path)
    assert hub.asked["config"] is None
    with pytest.raises(UsageError, match="has 2 rows that can be used, 3 samples are asked"):
        hub.write(dataclasses.replace(config, samples=3), tmp_path)


@pytest.mark.parametrize(
    ("kind", "error", "expected"),
    [
        ("usage", UsageError, rf"^scheme.calibration.text=hub:org/name:train@{COMMIT}: its rows have no 'text'$"),
        ("disk_full", CellFailure, "the disk is full while fetching hub:org/name"),
        ("error", ToolchainError, "cannot be fetched .*; try again, or set HF_HUB_OFFLINE=1"),
    ],
)
def test_what_a_hub_refuses_is_one_line(
    kind: str, error: type[Exception], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = WorkerError(kind, "hub_samples: SamplesError: its rows have no 'text'\nand more", log_tail="log")
    hub = Hub(monkeypatch, said)
    with pytest.raises(error, match=expected) as caught:
        hub.write(SampleSetConfig(text=f"hub:org/name:train@{COMMIT}"), tmp_path)
    assert "\n" not in str(caught.value)
    if isinstance(caught.value, CellFailure):
        assert (caught.value.kind, caught.value.log_tail) == (FailureKind.DISK_FULL, "log")
