"""Reading recorded traces. Files may be gzip-compressed (`.gz`); each line is one request.

azure     CSV `TIMESTAMP,ContextTokens,GeneratedTokens` (Azure LLM inference traces 2023 and 2024)
burstgpt  CSV with `Timestamp` (s), `Request tokens`, `Response tokens`; answers of 0 tokens failed, and are left out
mooncake  JSON lines `timestamp` (ms), `input_length`, `output_length`, `hash_ids`: prefix blocks of 512 tokens
own       JSON lines `at_s`, `input_tokens`, `output_tokens`
"""

from __future__ import annotations

import csv
import datetime
import gzip
import json
import math
import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from bench.base.clock import NS_PER_MS, NS_PER_S
from bench.base.errors import UsageError
from bench.load.arrivals.config import TraceConfig, TraceFormat

BLOCK_TOKENS = 512
"""Tokens of one of Mooncake's prefix blocks."""

_MOST_TOKENS = 10_000_000
_LATEST_NS = 2**62

_AZURE = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
_BURSTGPT = ("Timestamp", "Request tokens", "Response tokens")
_MOONCAKE = ("timestamp", "input_length", "output_length")
_OWN = ("at_s", "input_tokens", "output_tokens")


class Demand(NamedTuple):
    """What one request of a trace asked for; `blocks` name what its prompt shares with others, BLOCK_TOKENS each."""

    input_tokens: int
    output_tokens: int
    blocks: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Trace:
    """Requests in order of time. `offsets_ns` count from the first; `left_out`: too long, or failed when recorded."""

    offsets_ns: npt.NDArray[np.int64]
    input_tokens: npt.NDArray[np.int64]
    output_tokens: npt.NDArray[np.int64]
    blocks: npt.NDArray[np.int64]
    """All block names one after another; those of request i are blocks[block_ends[i - 1]:block_ends[i]]."""
    block_ends: npt.NDArray[np.int64]
    left_out: int

    def __len__(self) -> int:
        return len(self.offsets_ns)

    def demands(self) -> Iterator[Demand]:
        """What each request asked for, in order."""
        begin = 0
        for asked, answered, end in zip(self.input_tokens, self.output_tokens, self.block_ends.tolist(), strict=True):
            yield Demand(int(asked), int(answered), tuple(self.blocks[begin:end].tolist()))
            begin = end


def read_trace(config: TraceConfig) -> Trace:
    """The part of a trace that `config` replays, time scaled.

    Raises UsageError where the file is missing, is no trace, has a bad line (its number is told), or nothing is left.
    """
    at, asked, answered, lengths, blocks = (array("q") for _ in range(5))
    failed = 0
    for at_ns, demand in _requests(config):
        if not demand.output_tokens:
            failed += 1
            continue
        at.append(at_ns)
        asked.append(demand.input_tokens)
        answered.append(demand.output_tokens)
        lengths.append(len(demand.blocks))
        blocks.extend(demand.blocks)
    if not at:
        raise UsageError(f"scenario.path: {config.path} holds no requests")
    times, inputs, outputs = (np.array(values, dtype=np.int64) for values in (at, asked, answered))
    sizes = np.array(lengths, dtype=np.int64)
    ends = np.cumsum(sizes)
    order = np.argsort(times, kind="stable")
    times = times[order] - times[order[0]]
    kept = times >= round(config.start_s * NS_PER_S)
    if config.max_tokens is not None:
        kept &= (inputs + outputs)[order] <= config.max_tokens
    chosen = order[kept]
    left_out = failed + (int((times >= round(config.start_s * NS_PER_S)).sum()) - len(chosen))
    if not len(chosen):
        raise UsageError(
            f"scenario.path: nothing of {config.path} is left after start_s={config.start_s:g} "
            f"and max_tokens={config.max_tokens}"
        )
    if config.requests:
        chosen = chosen[: config.requests]
    times = times[kept][: len(chosen)]
    flat = np.array(blocks, dtype=np.int64)
    parts = [flat[ends[index] - sizes[index] : ends[index]] for index in chosen] if len(flat) else []
    return Trace(
        offsets_ns=((times - times[0]) * config.time_scale).astype(np.int64),
        input_tokens=inputs[chosen],
        output_tokens=outputs[chosen],
        blocks=np.concatenate(parts) if parts else flat,
        block_ends=np.cumsum(sizes[chosen]),
        left_out=left_out,
    )


def _requests(config: TraceConfig) -> Iterator[tuple[int, Demand]]:
    """(time ns, demand) of each line."""
    path = Path(config.path).expanduser()
    opening = gzip.open if path.suffix == ".gz" else open
    try:
        with opening(path, "rt", encoding="utf-8-sig") as lines:
            first = lines.readline()
            kind = _recognise(first, path) if config.format is TraceFormat.auto else config.format
            yield from _READERS[kind](_Lines(path, first, lines))
    except FileNotFoundError:
        raise UsageError(f"scenario.path: there is no file {path}") from None
    except (OSError, EOFError, UnicodeDecodeError, zlib.error, csv.Error) as error:
        raise UsageError(f"scenario.path: {path} cannot be read ({error})") from error


def _recognise(first: str, path: Path) -> TraceFormat:
    if first.lstrip().startswith("{"):
        for kind, needed in ((TraceFormat.mooncake, _MOONCAKE), (TraceFormat.own, _OWN)):
            if all(f'"{name}"' in first for name in needed):
                return kind
    else:
        names = [name.strip() for name in first.split(",")]
        for kind, needed in ((TraceFormat.azure, _AZURE), (TraceFormat.burstgpt, _BURSTGPT)):
            if set(needed) <= set(names):
                return kind
    raise UsageError(
        f"scenario.path: {path} is no trace that is known: its first line must name {', '.join(_AZURE)} (Azure), "
        f"{', '.join(_BURSTGPT)} (BurstGPT), {', '.join(_MOONCAKE)} (Mooncake) or {', '.join(_OWN)}"
    )


class _Lines:
    """The lines of a file with their numbers, and complaints that name them."""

    def __init__(self, path: Path, first: str, rest: Iterable[str]) -> None:
        self._path = path
        self._first = first
        self._rest = rest
        self.number = 0

    def __iter__(self) -> Iterator[str]:
        self.number = 1
        yield self._first
        for line in self._rest:
            self.number += 1
            yield line

    def bad(self, message: str) -> UsageError:
        return UsageError(f"scenario.path: {self._path}, line {self.number}: {message}")

    def count(self, row: Mapping[str, Any], name: str, *, least: int) -> int:
        """A whole number of at least `least`; JSON's own, or CSV's as text."""
        number = _number(row.get(name))
        if number is None or number != int(number) or not least <= number <= _MOST_TOKENS:
            raise self.bad(f"{name} is {_short(row.get(name))}, not a whole number from {least} to {_MOST_TOKENS}")
        return int(number)

    def nanoseconds(self, row: Mapping[str, Any], name: str, *, unit_ns: int) -> int:
        number = _number(row.get(name))
        if number is None or abs(number * unit_ns) > _LATEST_NS:
            raise self.bad(f"{name} is {_short(row.get(name))}, not a time")
        return round(number * unit_ns)


def _short(value: Any) -> str:
    return repr(value)[:60]


def _number(value: Any) -> float | None:
    """A finite number, or None for anything else."""
    try:
        number = None if value is None or isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if number is not None and math.isfinite(number) else None


def _rows(lines: _Lines, needed: tuple[str, ...]) -> Iterator[dict[str, str]]:
    reader = csv.reader(iter(lines))
    header = [name.strip() for name in next(reader)]
    missing = [name for name in needed if name not in header]
    if missing:
        raise lines.bad(f"the header lacks {', '.join(missing)}")
    for values in reader:
        if not any(values):
            continue
        if len(values) != len(header):
            raise lines.bad(f"{len(values)} values where the header names {len(header)}")
        yield dict(zip(header, values, strict=True))


def _azure(lines: _Lines) -> Iterator[tuple[int, Demand]]:
    epoch = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    microsecond = datetime.timedelta(microseconds=1)
    for row in _rows(lines, _AZURE):
        try:
            when = datetime.datetime.fromisoformat(row["TIMESTAMP"].strip())
        except ValueError:
            raise lines.bad(f"TIMESTAMP is {row['TIMESTAMP']!r}, not like 2023-11-16 18:15:46.68") from None
        if when.tzinfo is None:
            when = when.replace(tzinfo=datetime.UTC)
        asked, answered = (lines.count(row, name, least=least) for name, least in zip(_AZURE[1:], (1, 0), strict=True))
        yield (when - epoch) // microsecond * 1000, Demand(asked, answered)


def _burstgpt(lines: _Lines) -> Iterator[tuple[int, Demand]]:
    for row in _rows(lines, _BURSTGPT):
        at_ns = lines.nanoseconds(row, "Timestamp", unit_ns=NS_PER_S)
        yield (
            at_ns,
            Demand(lines.count(row, "Request tokens", least=0) or 1, lines.count(row, "Response tokens", least=0)),
        )


def _objects(lines: _Lines) -> Iterator[dict[str, Any]]:
    for line in lines:
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise lines.bad(f"no JSON ({error})") from None
        if not isinstance(value, dict):
            raise lines.bad("no JSON object")
        yield value


def _mooncake(lines: _Lines) -> Iterator[tuple[int, Demand]]:
    for row in _objects(lines):
        at_ns = lines.nanoseconds(row, "timestamp", unit_ns=NS_PER_MS)
        blocks = row.get("hash_ids", [])
        if not isinstance(blocks, list) or not all(isinstance(name, int) and 0 <= name < 2**62 for name in blocks):
            raise lines.bad("hash_ids is not a list of whole numbers")
        asked, answered = (
            lines.count(row, name, least=least) for name, least in zip(_MOONCAKE[1:], (1, 0), strict=True)
        )
        yield at_ns, Demand(asked, answered, tuple(blocks[: -(-asked // BLOCK_TOKENS)]))


def _own(lines: _Lines) -> Iterator[tuple[int, Demand]]:
    for row in _objects(lines):
        at_ns = lines.nanoseconds(row, "at_s", unit_ns=NS_PER_S)
        asked, answered = (lines.count(row, name, least=1) for name in _OWN[1:])
        yield at_ns, Demand(asked, answered)


_READERS: dict[TraceFormat, Callable[[_Lines], Iterator[tuple[int, Demand]]]] = {
    TraceFormat.azure: _azure,
    TraceFormat.burstgpt: _burstgpt,
    TraceFormat.mooncake: _mooncake,
    TraceFormat.own: _own,
}
