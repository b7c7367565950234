"""From a calibration file to token ids, with a tokenizer that is easy to count by."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from quantize.workers.calibration_tokens import cut, token_windows

BOS = 1


class Letters:
    """Each letter is its number; 1 goes first where special tokens are added. The template wraps in brackets."""

    def __init__(self, chat_template: str | None = "some") -> None:
        self.chat_template = chat_template

    def __call__(self, text: str, *, add_special_tokens: bool) -> dict[str, list[int]]:
        return {"input_ids": [*([BOS] if add_special_tokens else []), *map(ord, text)]}

    def apply_chat_template(self, messages: list[dict[str, str]], *, tokenize: bool) -> str:
        assert not tokenize
        return "".join(f"<{message['role'][0]}:{message['content']}>" for message in messages)

    def decode(self, ids: list[int], **_: Any) -> str:
        return "".join(map(chr, ids))


def windows(
    tmp_path: Path, lines: list[dict[str, Any]], *, tokenizer: Letters | None = None, **asked: Any
) -> tuple[list[list[int]], dict[str, Any]]:
    file = tmp_path / "calibration.jsonl"
    file.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    told = {"file": str(file), "samples": 4, "length": 8, "chat_template": False, **asked}
    return token_windows(tokenizer or Letters(), told)


def ids(text: str) -> list[int]:
    return [ord(letter) for letter in text]


def test_rows_are_samples_of_their_own(tmp_path: Path) -> None:
    found, used = windows(
        tmp_path, [{"text": "abc"}, {"text": "a" * 20}, {"text": ""}, {"text": "no"}, {"text": "more"}]
    )
    assert found == [[BOS, *ids("abc")], [BOS, *ids("a" * 7)], [BOS, *ids("no")]], "an empty row gives nothing to learn"
    assert used == {"tokens": 4 + 8 + 3, "windows": 3, "overlapping": False, "truncated": 1}


def test_messages_go_through_the_chat_template_and_texts_where_that_is_asked(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]
    rows: list[dict[str, Any]] = [{"messages": turns}, {"text": "abc"}]
    plain, _ = windows(tmp_path, rows, length=99)
    assert plain == [ids("<u:hi><a:yo>"), [BOS, *ids("abc")]], "the template brings its own special tokens"
    asked, _ = windows(tmp_path, rows, length=99, chat_template=True)
    assert asked == [ids("<u:hi><a:yo>"), ids("<u:abc>")]
    alone, _ = windows(tmp_path, rows[1:], length=99, samples=1, chat_template=True)
    assert alone == [ids("<u:abc>")], "one row is a row too"
    with pytest.raises(ValueError, match="the model has no chat template"):
        windows(tmp_path, rows, tokenizer=Letters(chat_template=None))


def test_a_text_may_hold_any_line_separator(tmp_path: Path) -> None:
    odd = "a\u2028b\u2029c\x85d\x0ce"
    found, _ = windows(tmp_path, [{"text": odd}, {"text": odd}], length=99)
    assert found == [[BOS, *ids(odd)]] * 2


def test_one_long_text_is_cut_into_windows(tmp_path: Path) -> None:
    text = "".join(chr(300 + n) for n in range(99))
    found, used = windows(tmp_path, [{"text": text}], samples=3, length=10)
    whole = [BOS, *ids(text)]
    assert found == [whole[:10], whole[45:55], whole[90:]]
    assert used == {"tokens": 30, "windows": 3, "overlapping": False, "truncated": 0}


@pytest.mark.parametrize(
    ("tokens", "samples", "length", "expected"),
    [
        (100, 10, 10, (10, 100, False)),  # exactly
        (99, 10, 10, (10, 99, True)),  # one short: they overlap and cover all
        (12, 128, 10, (2, 12, True)),  # all of it, and no window twice
        (100, 128, 10, (19, 100, True)),  # half of each window is new: more would tell nothing
        (10, 128, 10, (1, 10, False)),
        (7, 128, 10, (1, 7, False)),  # a text shorter than a window is one
        (100, 1, 10, (1, 10, False)),
        (1000, 2, 10, (2, 20, False)),
    ],
)
def test_windows_overlap_only_where_the_text_is_short(
    tokens: int, samples: int, length: int, expected: tuple[int, int, bool]
) -> None:
    found, used = cut(range(tokens), samples, length)
    assert (len(found), used["tokens"], used["overlapping"]) == expected
    assert len({window[0] for window in found}) == len(found)
    assert all(window == list(range(window[0], window[0] + min(length, tokens))) for window in found)
    seen = {token for window in found for token in window}
    assert len(seen) == used["tokens"], "what was really seen is counted"
    if len(found) > 1:
        assert (found[0][0], found[-1][-1]) == (0, tokens - 1)


def test_nothing_to_learn_from_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="less than two tokens"):
        windows(tmp_path, [{"text": ""}])
    with pytest.raises(ValueError, match="no calibration sample has two tokens"):
        windows(tmp_path, [{"text": ""}, {"text": ""}])
