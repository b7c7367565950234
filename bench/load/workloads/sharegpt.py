"""Conversations in ShareGPT's format. The list is walked once; only where its entries lie is kept in memory."""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from bench.base.errors import UsageError
from bench.load.arrivals.trace import Demand
from bench.load.prompts import Prompts
from bench.load.workloads.config import ShareGptConfig
from bench.load.workloads.draft import Draft
from bench.load.workloads.fit import Estimate
from bench.load.workloads.jsonl import opened, order_of

_CHUNK_BYTES = 1 << 20
_BETWEEN = re.compile(r"[ \t\r\n,]*")
_HUMAN, _MODEL = frozenset({"human", "user"}), frozenset({"gpt", "assistant", "chatgpt", "bard", "bing"})


class ShareGptSource:
    """Sessions out of conversations. Raises UsageError for a file that is none, or holds none that fits."""

    def __init__(self, workload: ShareGptConfig, *, name: str, repeat: int, estimate: Estimate) -> None:
        self._workload = workload
        self._estimate = estimate
        self._path = Path(workload.path).expanduser()
        starts, ends = array("q"), array("q")
        try:
            with opened(self._path) as stream:
                for start, end in entries_of(stream):
                    starts.append(start)
                    ends.append(end)
        except ValueError as error:
            raise UsageError(f"workload.path: {self._path} is no JSON list of conversations: {error}") from None
        if not starts:
            raise UsageError(f"workload.path: {self._path} holds no conversations")
        self._stream = self._path.open("rb")
        self._starts, self._ends = starts, ends
        self._order = order_of(workload, len(starts), name=name, repeat=repeat)
        self._taken = self._used = 0

    def session(self, demand: Demand | None) -> list[Draft]:
        """The next conversation that fits; a trace's lengths do not change what is in a file."""
        for _ in range(len(self._order)):
            index = int(self._order[self._taken % len(self._order)])
            self._taken += 1
            self._stream.seek(self._starts[index])
            drafts = self._drafts(index, self._stream.read(self._ends[index] - self._starts[index]))
            if drafts:
                self._used += 1
                return drafts
        raise UsageError(
            f"workload.path: no conversation in {self._path} begins with a prompt and an answer of "
            f"{self._workload.fewest_tokens} to {self._workload.most_prompt_tokens} and together at most "
            f"{self._workload.most_tokens} tokens"
        )

    def prompts(self) -> Prompts:
        """How the lengths of answers are known."""
        counted = self._estimate.prompts()
        how = f"as the file has them ({self._used} of {self._taken} conversations fit); lengths: {counted.how}"
        return Prompts(exact=False, how=how)

    def close(self) -> None:
        self._stream.close()

    def _drafts(self, index: int, content: bytes) -> list[Draft]:
        try:
            pairs = list(_pairs(orjson.loads(content)))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise UsageError(
                f"workload.path: {self._path}, entry {index + 1}: "
                'not like {"conversations": [{"from": "human", "value": "…"}, {"from": "gpt", "value": "…"}]}'
            ) from None
        workload = self._workload
        drafts: list[Draft] = []
        for said, answer in pairs[: None if workload.sessions else 1]:
            asked, answered = self._estimate.tokens(said), self._estimate.tokens(answer)
            fits = (
                min(asked, answered) >= workload.fewest_tokens
                and asked <= workload.most_prompt_tokens
                and asked + answered <= workload.most_tokens
            )
            if not fits:
                break
            drafts.append(
                Draft(prompt=said, output_tokens=answered if workload.recorded_lengths else workload.output_tokens)
            )
        return drafts


def entries_of(stream: BinaryIO) -> Iterator[tuple[int, int]]:
    """Where the objects of a JSON list begin and end in a file, without holding more than one of them.

    The bytes are taken as Latin-1, whose characters are bytes: enough to find the ends. Raises ValueError.
    """
    decode = json.JSONDecoder().raw_decode
    base, text, position = 0, stream.read(_CHUNK_BYTES).decode("latin-1"), 0
    text = text.removeprefix("\xef\xbb\xbf")
    base = stream.tell() - len(text)
    opening = _BETWEEN.match(text)
    position = opening.end() if opening else 0
    if text[position : position + 1] != "[":
        raise ValueError("it does not begin with '['")
    position += 1
    while True:
        between = _BETWEEN.match(text, position)
        assert between is not None
        position = between.end()
        if text[position : position + 1] == "]":
            return
        try:
            value, end = decode(text, position)
        except json.JSONDecodeError as error:
            more = stream.read(max(_CHUNK_BYTES, len(text) - position)).decode("latin-1")
            if not more:
                raise ValueError(f"{error.msg} near byte {base + position}") from None
            base, text, position = base + position, text[position:] + more, 0
            continue
        if not isinstance(value, dict):
            raise ValueError(f"no object near byte {base + position}")  # noqa: TRY004 - the data is wrong
        yield base + position, base + end
        position = end


def _pairs(entry: Any) -> Iterator[tuple[str, str]]:
    """What the human said and what was answered, as long as they take turns, beginning with the human."""
    said: list[Any] = entry["conversations"]
    speakers = [str(turn.get("from") or turn.get("role")).lower() for turn in said]
    texts = [str(turn.get("value") or turn.get("content") or "") for turn in said]
    start = 1 if speakers[:1] == ["system"] else 0
    for index in range(start, len(said) - 1, 2):
        if speakers[index] not in _HUMAN or speakers[index + 1] not in _MODEL or not texts[index]:
            return
        yield texts[index], texts[index + 1]
