"""Traces: real ones to the last request, every format's own, and bad lines by number."""

from __future__ import annotations

import csv
import datetime
import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.base.errors import UsageError
from bench.load.arrivals.config import TraceConfig, TraceFormat
from bench.load.arrivals.trace import BLOCK_TOKENS, Demand, read_trace
from bench.load.schedule import draw_offsets
from tests.support import test_data


def test_azures_trace_is_replayed_whole() -> None:
    path = test_data("traces/azure_2023_conv.csv.gz")
    with gzip.open(path, "rt") as stream:
        rows = list(csv.DictReader(stream))
    trace = read_trace(TraceConfig(path=str(path)))
    assert len(trace) == len(rows) == 19_366
    assert [(demand.input_tokens, demand.output_tokens) for demand in trace.demands()] == [
        (int(row["ContextTokens"]), int(row["GeneratedTokens"])) for row in rows
    ]
    first, last = (datetime.datetime.fromisoformat(row["TIMESTAMP"]) for row in (rows[0], rows[-1]))
    assert trace.offsets_ns[0] == 0
    assert trace.offsets_ns[-1] == pytest.approx((last - first).total_seconds() * 1e9, abs=1000)
    assert (np.diff(trace.offsets_ns) >= 0).all()


def test_mooncakes_trace_is_replayed_with_its_prefixes() -> None:
    path = test_data("traces/mooncake_synthetic.jsonl.gz")
    with gzip.open(path, "rt") as stream:
        rows = [json.loads(line) for line in stream]
    trace = read_trace(TraceConfig(path=str(path), time_scale=0.5))
    demands = list(trace.demands())
    assert len(demands) == len(rows) == 3_993
    assert trace.offsets_ns.tolist() == [row["timestamp"] * 500_000 for row in rows]
    for demand, row in zip(demands, rows, strict=True):
        blocks = -(-row["input_length"] // BLOCK_TOKENS)
        assert demand == Demand(row["input_length"], row["output_length"], tuple(row["hash_ids"][:blocks]))


def test_a_part_of_a_trace(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    lines = [{"at_s": at, "input_tokens": at * 10 + 1, "output_tokens": 5} for at in (4, 0, 1, 2, 3)]
    path.write_text("\n".join(map(json.dumps, lines)))
    trace = read_trace(TraceConfig(path=str(path), start_s=1.0, requests=3, time_scale=0.1))
    assert trace.offsets_ns.tolist() == [0, 100_000_000, 200_000_000]
    assert [demand.input_tokens for demand in trace.demands()] == [11, 21, 31]
    assert read_trace(TraceConfig(path=str(path), max_tokens=26)).left_out == 2
    assert draw_offsets(TraceConfig(path=str(path)), 0).tolist() == [at * 1_000_000_000 for at in range(5)]


def test_burstgpt_leaves_out_what_failed(tmp_path: Path) -> None:
    path = tmp_path / "burst.csv"
    path.write_text(
        "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
        "5,ChatGPT,472,18,490,Conversation log\n45.5,GPT-4,100,0,100,API log\n118,ChatGPT,96,77,173,API log\n"
    )
    trace = read_trace(TraceConfig(path=str(path)))
    assert trace.offsets_ns.tolist() == [0, 113_000_000_000]
    assert [tuple(demand[:2]) for demand in trace.demands()] == [(472, 18), (96, 77)]
    assert trace.left_out == 1


AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is no trace that is known: its first line must name TIMESTAMP"),
        ("a,b\n1,2\n", "is no trace that is known"),
        (AZURE, "holds no requests"),
        (f"{AZURE}2023-11-16 18:15:46.68,374,44\n2023-11-16 18:15:50,12x,44\n", "line 3: ContextTokens is '12x'"),
        (f"{AZURE}yesterday,374,44\n", "line 2: TIMESTAMP is 'yesterday'"),
        (f"{AZURE}2023-11-16 18:15:46.68,374\n", "line 2: 2 values where the header names 3"),
        ('{"timestamp": 0, "input_length": 3, "output_length": 6}\n{broken\n', "line 2: no JSON"),
        (
            '{"timestamp": 0, "input_length": 0, "output_length": 6}\n',
            "line 1: input_length is 0, not a whole number from 1",
        ),
        ('{"timestamp": null, "input_length": 1, "output_length": 6}\n', "line 1: timestamp is None, not a time"),
        ('{"timestamp": 0, "input_length": 3, "output_length": 6, "hash_ids": "x"}', "line 1: hash_ids is not a list"),
        ('{"at_s": 0, "input_tokens": 3, "output_tokens": 1.5}', "line 1: output_tokens is 1.5"),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "trace"
    path.write_text(content)
    with pytest.raises(UsageError, match=message):
        read_trace(TraceConfig(path=str(path)))


LINES = st.lists(
    st.one_of(
        st.binary(max_size=40),
        st.sampled_from(
            [
                b"TIMESTAMP,ContextTokens,GeneratedTokens",
                b"Timestamp,Model,Request tokens,Response tokens",
                b"2023-11-16 18:15:46.6805900,374,44",
                b'5,x,"1',
                b"1e300,m,5,5",
                b'{"timestamp": 0, "input_length": 3, "output_length": 6, "hash_ids": [1]}',
                b'{"timestamp": 1e300, "input_length": 1e9, "output_length": NaN}',
                b'{"at_s": -1, "input_tokens": 3, "output_tokens": 6}',
                b"[" * 5000,
                b"\x00",
            ]
        ),
    ),
    max_size=5,
)


@settings(max_examples=300, deadline=None)
@given(lines=LINES, kind=st.sampled_from(list(TraceFormat)), squeezed=st.booleans())
def test_whatever_a_file_holds_it_is_a_trace_or_an_error_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], kind: TraceFormat, squeezed: bool
) -> None:
    content = b"\n".join(lines)
    path = tmp_path_factory.getbasetemp() / ("any.gz" if squeezed else "any")
    path.write_bytes(gzip.compress(content)[: -1 if content[:1] == b"T" else None] if squeezed else content)
    message = ""
    try:
        trace = read_trace(TraceConfig(path=str(path), format=kind))
        assert len(trace) == len(list(trace.demands())) > 0
    except UsageError as error:
        message = str(error)
    assert "\n" not in message


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"scenario.path: there is no file .*gone.csv"):
        read_trace(TraceConfig(path=str(tmp_path / "gone.csv")))
    (tmp_path / "cut.csv.gz").write_bytes(gzip.compress(AZURE.encode())[:-9])
    with pytest.raises(UsageError, match="cannot be read"):
        read_trace(TraceConfig(path=str(tmp_path / "cut.csv.gz"), format=TraceFormat.azure))
    path = tmp_path / "t.jsonl"
    path.write_text('{"at_s": 0, "input_tokens": 30, "output_tokens": 5}')
    with pytest.raises(UsageError, match=r"nothing of .* is left after start_s=0 and max_tokens=10"):
        read_trace(TraceConfig(path=str(path), max_tokens=10))
