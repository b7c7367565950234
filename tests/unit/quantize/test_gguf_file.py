from __future__ import annotations

import contextlib
import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.base.errors import UsageError
from quantize.gguf_file import read_gguf
from tests.unit.quantize.gguf_writer import UINT32, gguf_bytes, pair, write_gguf


def test_reads_metadata_and_tensor_infos(tmp_path: Path) -> None:
    found = read_gguf(write_gguf(tmp_path / "m.gguf"))
    assert found.version == 3
    assert found.text("general.name") == "Tiny"
    assert found.metadata["tiny.flag"] is True
    assert found.metadata["tiny.eps"] == 0.5
    assert found.array_lengths == {"tokenizer.ggml.tokens": 3, "tiny.nested": 1}
    output, norm = found.tensors
    assert (output.name, output.shape, output.type.name) == ("output.weight", (32, 4), "Q8_0")
    assert (output.parameters, output.size_bytes, output.offset) == (128, 4 * 34, 0)
    assert (norm.size_bytes, norm.offset) == (128, 160)


def test_every_truncation_is_one_clear_line(tmp_path: Path) -> None:
    whole = gguf_bytes()
    path = tmp_path / "cut.gguf"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(UsageError) as caught:
            read_gguf(path)
        message = str(caught.value)
        assert str(path) in message
        assert "\n" not in message
        assert ("not a GGUF" if length < 4 else "cut short") in message, (length, message)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300, deadline=None)
@given(position=st.integers(4, 300), value=st.binary(min_size=1, max_size=8))
def test_damage_never_escapes_as_another_error(tmp_path: Path, position: int, value: bytes) -> None:
    data = bytearray(gguf_bytes())
    data[position : position + len(value)] = value
    path = tmp_path / "damaged.gguf"
    path.write_bytes(data)
    with contextlib.suppress(UsageError):
        read_gguf(path)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"Once upon a time", "not a GGUF file"),
        (b"", "not a GGUF file"),
        (b"\x80\x04\x95pickle", "not a GGUF file"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "version 1"),
        (gguf_bytes(pairs=[pair("odd", 77, b"")]), "unknown type 77"),
        (gguf_bytes(pairs=[pair("general.alignment", UINT32, bytes(4))]), "general.alignment is 0"),
    ],
)
def test_refusals(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=expected):
        read_gguf(path)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        read_gguf(tmp_path / "absent.gguf")
    with pytest.raises(UsageError, match="is a folder"):
        read_gguf(tmp_path)


def test_unknown_tensor_type_and_uneven_rows_are_damage(tmp_path: Path) -> None:
    whole = gguf_bytes((("a", (32, 4), 8),))
    kind = whole.index(struct.pack("<QQI", 32, 4, 8)) + 16
    for number, expected in ((4, "unknown type 4"), (12, "no multiple of Q4_K's 256")):
        data = bytearray(whole)
        data[kind : kind + 4] = struct.pack("<I", number)
        path = tmp_path / "m.gguf"
        path.write_bytes(data)
        with pytest.raises(UsageError, match=expected):
            read_gguf(path)
