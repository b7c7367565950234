"""A writer of tiny GGUF files for tests, after the GGUF specification; independent of the reader under test."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ALIGNMENT = 32
STRING, ARRAY, UINT32, FLOAT32, BOOL = 8, 9, 4, 6, 7
#: type number → (weights in a block, bytes of a block)
BLOCKS = {0: (1, 4), 1: (1, 2), 6: (32, 22), 8: (32, 34), 12: (256, 144)}


def text(value: str) -> bytes:
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def pair(key: str, kind: int, payload: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + payload


def strings(values: Sequence[str]) -> bytes:
    return struct.pack("<IQ", STRING, len(values)) + b"".join(text(value) for value in values)


def gguf_bytes(
    tensors: Sequence[tuple[str, tuple[int, ...], int]] = (("output.weight", (32, 4), 8), ("norm.weight", (32,), 0)),
    *,
    pairs: Sequence[bytes] = (),
    version: int = 3,
    odd: bool = True,
) -> bytes:
    """A whole file; tensors are (name, shape with the row first, type number), their data zeros.

    `odd`: with metadata of every kind, such as nested arrays, which llama.cpp does not read.
    """
    metadata = [
        pair("general.name", STRING, text("Tiny")),
        pair("general.license", STRING, text("mit")),
        pair("tokenizer.ggml.tokens", ARRAY, strings(["<s>", "é", "word"])),
        pair("tiny.flag", BOOL, b"\1"),
        pair("tiny.eps", FLOAT32, struct.pack("<f", 0.5)),
        pair("tiny.nested", ARRAY, struct.pack("<IQ", ARRAY, 1) + struct.pack("<IQ", UINT32, 2) + bytes(8)),
    ]
    metadata = [*(metadata if odd else []), *pairs]
    infos, data = b"", b""
    for name, shape, kind in tensors:
        block, size = BLOCKS[kind]
        weights = 1
        for length in shape:
            weights *= length
        infos += text(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *shape)
        infos += struct.pack("<IQ", kind, len(data))
        data += bytes(weights // block * size)
        data += bytes(-len(data) % ALIGNMENT)
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(metadata)) + b"".join(metadata) + infos
    return head + bytes(-len(head) % ALIGNMENT) + data


def write_gguf(path: Path, *arguments: Any, **options: Any) -> Path:
    path.write_bytes(gguf_bytes(*arguments, **options))
    return path
