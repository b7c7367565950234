"""The recording: append-only, memory-mapped files of records. What is in them survives a kill of the process.

A record is a header of 33 bytes and a payload:

    tag u8 | slot u32 | ns i64 (CLOCK_MONOTONIC, user space) | stamp 16 bytes | payload length u32 | payload

    START  ns = when the loop took the request up;  stamp = scheduled_ns i64, 0 i64
    SENT   ns = just before the first byte was handed to the kernel
    DATA   ns = just after the read returned;       stamp = the kernel's struct timespec of the read, or zeros
    END    ns = when the end was seen;              payload = a value of End or ErrorKind
    CLOCK  ns = CLOCK_MONOTONIC of a sampled pair;  stamp = CLOCK_REALTIME ns i64, uncertainty ns i64
    LEFT   ns = when the stamp was fetched;         stamp = the kernel's struct timespec of handing bytes to the device

Files are preallocated with zeros, and a header is written after its payload, so a tag of 0 is the end of what is whole.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from time import monotonic_ns

HEADER = struct.Struct("<BIq16sI")
pack_header = HEADER.pack
PAIR = struct.Struct("<qq")
NO_STAMP = bytes(16)

START, SENT, DATA, END, CLOCK, LEFT = 1, 2, 3, 4, 5, 6

READ_BYTES = 64 * 1024
SEGMENT_BYTES = 8 * 1024 * 1024


class SegmentWriter:
    """Appends records to `{stem}-NNN.seg` in `directory`. Raises OSError (no space) when a segment cannot be had."""

    def __init__(self, directory: Path, stem: str, *, segment_bytes: int = SEGMENT_BYTES) -> None:
        self._directory = directory
        self._stem = stem
        self._bytes = segment_bytes
        self._full = segment_bytes - READ_BYTES - 2 * HEADER.size
        self._number = 0
        self._open()

    def _open(self) -> None:
        path = self._directory / f"{self._stem}-{self._number:03d}.seg"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            # Without the allocation a full disk would be a SIGBUS at some later write.
            os.posix_fallocate(descriptor, 0, self._bytes)
            self.map = mmap.mmap(descriptor, self._bytes)
        finally:
            os.close(descriptor)
        self.position = 0

    def make_room(self) -> None:
        """Begin the next segment when a largest read might not fit into this one."""
        if self.position > self._full:
            self._begin_next()

    def _begin_next(self) -> None:
        self.close()
        self._number += 1
        self._open()

    def close(self) -> None:
        self.map.close()

    def data(self, slot: int, stamp: bytes, payload: bytes) -> int:
        """Append what a read that has just returned gave; returns the time, CLOCK_MONOTONIC ns."""
        ns = monotonic_ns()
        self.mark(DATA, slot, ns, stamp=stamp, payload=payload)
        return ns

    def append(self, parts: list[bytes]) -> None:
        """Append whole records at once: headers, each followed by its payload; no more than a segment holds."""
        records = b"".join(parts)
        if len(records) > self._bytes - self.position:
            self._begin_next()
        start = self.position
        self.position = end = start + len(records)
        self.map[start + 1 : end] = records[1:]
        self.map[start] = records[0]  # the first tag last: until then there is nothing

    def mark(self, tag: int, slot: int, ns: int, *, stamp: bytes = NO_STAMP, payload: bytes = b"") -> None:
        """Append one record; `payload` has at most READ_BYTES."""
        self.make_room()
        start = self.position + HEADER.size
        self.map[start : start + len(payload)] = payload
        HEADER.pack_into(self.map, self.position, tag, slot, ns, stamp, len(payload))
        self.position = start + len(payload)


Record = tuple[int, int, int, bytes, bytes]
"""(tag, slot, ns, stamp, payload)"""


def segment_paths(directory: Path, stem: str) -> list[Path]:
    """The segments of one worker in the order they were written."""
    numbered = ((int(path.stem.rpartition("-")[2]), path) for path in directory.glob(f"{stem}-*.seg"))
    return [path for _, path in sorted(numbered)]


def read_records(directory: Path, stem: str) -> Iterator[Record]:
    """The records of one worker in the order they were written, segment by segment."""
    unpack_from, size = HEADER.unpack_from, HEADER.size
    for path in segment_paths(directory, stem):
        content = path.read_bytes()
        position, last = 0, len(content) - size
        while position <= last:
            tag, slot, ns, stamp, length = unpack_from(content, position)
            if not tag:
                break
            start = position + size
            position = start + length
            yield tag, slot, ns, stamp, content[start:position]
