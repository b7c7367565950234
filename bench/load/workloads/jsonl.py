"""Prompts out of a JSON-lines file. Only where its lines begin is kept in memory."""

from __future__ import annotations

import contextlib
import zlib
from array import array
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import orjson

from bench.base.errors import UsageError
from bench.load.arrivals.trace import Demand
from bench.load.config import Api
from bench.load.prompts import Prompts
from bench.load.workloads.config import FileConfig, JsonlConfig
from bench.load.workloads.draft import Draft

_KEYS = ("prompt", "messages", "turns")


class JsonlSource:
    """The lines of a file as sessions. Raises UsageError for a file that cannot be read or holds nothing."""

    def __init__(self, workload: JsonlConfig, *, name: str, repeat: int) -> None:
        self._workload = workload
        self._path = Path(workload.path).expanduser()
        starts, numbers = array("q"), array("q")
        with opened(self._path) as stream:
            position = 0
            for number, line in enumerate(stream, start=1):
                if line.strip():
                    starts.append(position)
                    numbers.append(number)
                position += len(line)
        if not starts:
            raise UsageError(f"workload.path: {self._path} holds no lines")
        self._stream = self._path.open("rb")
        self._starts, self._numbers = starts, numbers
        self._order = order_of(workload, len(starts), name=name, repeat=repeat)
        self._taken = 0

    def session(self, demand: Demand | None) -> list[Draft]:
        """The turns of the next line; a trace's lengths do not change what is in a file."""
        index = int(self._order[self._taken % len(self._order)])
        self._taken += 1
        self._stream.seek(self._starts[index])
        where = f"workload.path: {self._path}, line {self._numbers[index]}"
        try:
            return drafts_of(orjson.loads(self._stream.readline()), self._workload)
        except orjson.JSONDecodeError as error:
            raise UsageError(f"{where}: no JSON ({error})") from None
        except ValueError as error:
            raise UsageError(f"{where}: {error}") from None

    def prompts(self) -> Prompts:
        """What is asked is what the file holds."""
        times = self._taken / len(self._order)
        return Prompts(exact=False, how="as the file has them" + (f", {times:.1f} times over" if times > 1 else ""))

    def close(self) -> None:
        self._stream.close()


@contextlib.contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """The file of a workload while it is looked through. Raises UsageError when it cannot be read."""
    try:
        with path.open("rb") as stream:
            yield stream
    except OSError as error:
        raise UsageError(f"workload.path: {path} cannot be read ({error.strerror})") from error


def order_of(workload: FileConfig, number: int, *, name: str, repeat: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The order in which `number` entries of a file are asked."""
    if not workload.shuffle:
        return np.arange(number)
    generator = np.random.default_rng([workload.seed, repeat, zlib.crc32(name.encode())])
    return np.asarray(generator.permutation(number), dtype=np.int64)


def drafts_of(value: Any, workload: JsonlConfig) -> list[Draft]:
    """The turns that one line asks for. Raises ValueError that says what is wrong with it."""
    if not isinstance(value, dict):
        raise ValueError("no JSON object")  # noqa: TRY004 - the data is wrong, not the code
    given = [key for key in _KEYS if key in value]
    if len(given) != 1:
        raise ValueError(f"give one of {', '.join(_KEYS)}; it has {', '.join(given) or 'none of them'}")
    output_tokens = value.get("output_tokens", workload.output_tokens)
    if isinstance(output_tokens, bool) or not isinstance(output_tokens, int) or output_tokens < 1:
        raise ValueError(f"output_tokens is {output_tokens!r}; it must be a whole number of at least 1")
    extra = value.get("extra", {})
    if not isinstance(extra, dict):
        raise ValueError("extra is no JSON object")  # noqa: TRY004
    content = value[given[0]]
    if given[0] == "turns":
        if not isinstance(content, list) or not content or not all(isinstance(turn, str) and turn for turn in content):
            raise ValueError("turns is not a list of texts")
        return [Draft(prompt=turn, output_tokens=output_tokens, extra=extra) for turn in content]
    if given[0] == "messages":
        if workload.api is not Api.chat:
            raise ValueError("messages need workload.api=chat")
        if not isinstance(content, list) or not content or not all(_is_message(entry) for entry in content):
            raise ValueError("messages is not a list of objects with a role")
        return [Draft(messages=content, output_tokens=output_tokens, extra=extra)]
    ids = isinstance(content, list) and bool(content) and all(type(token) is int for token in content)
    if not (isinstance(content, str) and content) and not (ids and workload.api is not Api.chat):
        raise ValueError("prompt is not a text" + ("" if workload.api is Api.chat else " or a list of token ids"))
    return [Draft(prompt=content, output_tokens=output_tokens, extra=extra)]


def _is_message(entry: Any) -> bool:
    return isinstance(entry, Mapping) and isinstance(entry.get("role"), str)
