"""Workloads from files: every shape, in order or shuffled, and what is wrong with a line by its number."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.base.errors import UsageError
from bench.load.config import Api
from bench.load.workloads.config import JsonlConfig, ShareGptConfig
from bench.load.workloads.fit import Estimate
from bench.load.workloads.jsonl import JsonlSource
from bench.load.workloads.sharegpt import ShareGptSource, entries_of
from tests.support import test_data


@pytest.fixture
def opened() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


@pytest.fixture
def jsonl(opened: contextlib.ExitStack) -> Callable[..., JsonlSource]:
    def make(path: Path, **config: Any) -> JsonlSource:
        source = JsonlSource(JsonlConfig(path=str(path), **config), name="c1", repeat=0)
        opened.callback(source.close)
        return source

    return make


@pytest.fixture
def sharegpt(opened: contextlib.ExitStack) -> Callable[..., ShareGptSource]:
    def make(path: Path, **config: Any) -> ShareGptSource:
        settings = {"shuffle": False, "fewest_tokens": 1, **config}
        estimate = Estimate(lambda text: len(text.split()))
        source = ShareGptSource(ShareGptConfig(path=str(path), **settings), name="c1", repeat=0, estimate=estimate)
        opened.callback(source.close)
        return source

    return make


def test_lines_are_asked_in_order_and_again_when_they_end(tmp_path: Path, jsonl: Callable[..., JsonlSource]) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "a", "output_tokens": 5, "extra": {"top_p": 0.5}}\n\n{"prompt": [1, 2]}\n')
    source = jsonl(path, output_tokens=9)
    drafts = [source.session(None)[0] for _ in range(3)]
    assert [(draft.prompt, draft.output_tokens) for draft in drafts] == [("a", 5), ([1, 2], 9), ("a", 5)]
    assert drafts[0].extra == {"top_p": 0.5}
    assert "1.5 times over" in source.prompts().how


def test_shuffled_lines_come_once_each(tmp_path: Path, jsonl: Callable[..., JsonlSource]) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"p{i}"}) + "\n" for i in range(50)))
    orders = []
    for seed in (0, 0, 1):
        source = jsonl(path, shuffle=True, seed=seed)
        orders.append([source.session(None)[0].prompt for _ in range(50)])
    assert orders[0] == orders[1] != orders[2]
    assert sorted(map(str, orders[0])) == sorted(f"p{i}" for i in range(50))


def test_mt_bench_is_sessions_of_two_turns(jsonl: Callable[..., JsonlSource]) -> None:
    source = jsonl(test_data("mtbench/question.jsonl"), api=Api.chat)
    sessions = [source.session(None) for _ in range(80)]
    assert {len(turns) for turns in sessions} == {2}
    assert str(sessions[0][0].prompt).startswith("Compose an engaging travel blog post")


def test_messages_pass_whole(tmp_path: Path, jsonl: Callable[..., JsonlSource]) -> None:
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": [{"type": "text", "text": "t"}]}]
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps({"messages": messages}))
    assert jsonl(path, api=Api.chat).session(None)[0].messages == messages


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{broken", "line 2: no JSON"),
        ("[1]", "line 2: no JSON object"),
        ('{"text": "x"}', "line 2: give one of prompt, messages, turns; it has none of them"),
        ('{"prompt": "x", "turns": ["y"]}', "it has prompt, turns"),
        ('{"prompt": ""}', "line 2: prompt is not a text or a list of token ids"),
        ('{"prompt": ["x"]}', "prompt is not a text"),
        ('{"messages": [{"role": "user"}]}', "messages need workload.api=chat"),
        ('{"turns": []}', "turns is not a list of texts"),
        ('{"prompt": "x", "output_tokens": 0}', "output_tokens is 0"),
        ('{"prompt": "x", "extra": 3}', "extra is no JSON object"),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, line: str, message: str, jsonl: Callable[..., JsonlSource]) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "fine"}\n' + line + "\n")
    source = jsonl(path)
    source.session(None)
    with pytest.raises(UsageError, match=message):
        source.session(None)


def test_files_that_are_none(tmp_path: Path, jsonl: Callable[..., JsonlSource]) -> None:
    (tmp_path / "empty").touch()
    with pytest.raises(UsageError, match=r"workload.path: .*gone cannot be read \(No such file"):
        jsonl(tmp_path / "gone")
    with pytest.raises(UsageError, match="holds no lines"):
        jsonl(tmp_path / "empty")


# ---- ShareGPT


def conversation(*said: str, first: str = "human") -> dict[str, Any]:
    speakers = ["human", "gpt"] if first == "human" else [first, "human", "gpt"]
    turns = [{"from": speakers[i % len(speakers)], "value": text} for i, text in enumerate(said)]
    return {"id": "x", "conversations": turns}


def test_first_prompts_with_the_recorded_lengths_of_their_answers(
    tmp_path: Path, sharegpt: Callable[..., ShareGptSource]
) -> None:
    path = tmp_path / "sg.json"
    entries = [
        conversation("hello there", "hi you two"),
        conversation("no answer"),
        conversation("you are kind", "hello", "hi", first="system"),
        {"conversations": [{"role": "user", "content": "ça va"}, {"role": "assistant", "content": "oui"}]},
        conversation("x " * 2000, "too long"),
    ]
    path.write_text(json.dumps(entries, indent=1, ensure_ascii=False), encoding="utf-8")
    source = sharegpt(path)
    drafts = [source.session(None)[0] for _ in range(4)]
    assert [(draft.prompt, draft.output_tokens) for draft in drafts] == [
        ("hello there", 3),
        ("hello", 1),
        ("ça va", 1),
        ("hello there", 3),
    ]
    assert "4 of 6 conversations fit" in source.prompts().how
    assert sharegpt(path, recorded_lengths=False, output_tokens=77).session(None)[0].output_tokens == 77


def test_sessions_are_all_that_the_human_said(tmp_path: Path, sharegpt: Callable[..., ShareGptSource]) -> None:
    path = tmp_path / "sg.json"
    path.write_text(json.dumps([conversation("a b", "c", "d", "e f g", "left over")]))
    turns = sharegpt(path, sessions=True).session(None)
    assert [(draft.prompt, draft.output_tokens) for draft in turns] == [("a b", 1), ("d", 3)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is no JSON list of conversations: it does not begin with"),
        ("[]", "holds no conversations"),
        ('[{"conversations": []', "Expecting ',' delimiter near byte 1"),
        ("[3]", "no object near byte 1"),
        ('[{"chat": 1}]', r'entry 1: not like \{"conversations"'),
        ('[{"conversations": [{"from": "human", "value": "x"}]}]', "no conversation in .* begins with a prompt"),
    ],
)
def test_bad_files_are_named(
    tmp_path: Path, content: str, message: str, sharegpt: Callable[..., ShareGptSource]
) -> None:
    path = tmp_path / "sg.json"
    path.write_text(content)
    with pytest.raises(UsageError, match=message):
        sharegpt(path).session(None)


@settings(max_examples=50, deadline=None)
@given(
    entries=st.lists(st.dictionaries(st.text(max_size=5), st.text(max_size=50), max_size=3), max_size=6),
    indent=st.sampled_from([None, 1]),
    ascii_only=st.booleans(),
    padding=st.integers(0, 3),
)
def test_entries_are_found_wherever_the_reads_end(
    entries: list[dict[str, str]], indent: int | None, ascii_only: bool, padding: int
) -> None:
    padded = [*entries, {"pad": "x" * ((1 << 20) - padding)}, *entries] if padding else entries
    content = json.dumps(padded, indent=indent, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    found = [content[start:end] for start, end in entries_of(io.BytesIO(content))]
    assert [json.loads(entry.decode("utf-8", "surrogatepass")) for entry in found] == padded
