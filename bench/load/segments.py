"""The recording: append-only files of records. What has been committed survives a kill of the process.

A record is a header of 33 bytes and a payload:

    tag u8 | slot u32 | ns i64 (CLOCK_MONOTONIC, user space) | stamp 16 bytes | payload length u32 | payload

    START  ns = when the loop took the request up;  stamp = scheduled_ns i64, 0 i64
    SENT   ns = just before the first byte was handed to the kernel
    DATA   ns = just after the read returned;       stamp = the kernel's struct timespec of the read, or zeros
    END    ns = when the end was seen;              payload = a value of End or ErrorKind
    CLOCK  ns = CLOCK_MONOTONIC of a sampled pair;  stamp = CLOCK_REALTIME ns i64, uncertainty ns i64
    LEFT   ns = when the stamp was fetched;         stamp = the kernel's struct timespec of handing bytes to the device

A record that a kill has cut off at the end of a file is not one; neither is a tag of 0, which files that were allocated
beforehand have behind their records. Memory-mapped files would spare the calls of the kernel, but turning to the next
one stops the loop for milliseconds, and a page costs a fault.
"""

from __future__ import annotations

import errno
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
_MANY_PARTS = 256


class SegmentWriter:
    """Appends records to `{stem}-NNN.seg` in `directory`.

    Raises OSError (no space) where they cannot be written, or a segment is begun and a whole one has no room.
    """

    def __init__(self, directory: Path, stem: str, *, segment_bytes: int = SEGMENT_BYTES) -> None:
        self._directory = directory
        self._stem = stem
        self._bytes = segment_bytes
        self._number = 0
        self._pending: list[bytes] = []
        self._open()

    def _open(self) -> None:
        path = self._directory / f"{self._stem}-{self._number:03d}.seg"
        free = os.statvfs(self._directory)
        if free.f_blocks and free.f_bavail * free.f_frsize < self._bytes:  # 0 blocks: the file system does not say
            # What is left is for those who tell of it.
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        self._written = 0

    def data(self, slot: int, stamp: bytes, payload: bytes) -> int:
        """Append what a read that has just returned gave; returns the time, CLOCK_MONOTONIC ns."""
        ns = monotonic_ns()
        self.mark(DATA, slot, ns, stamp=stamp, payload=payload)
        return ns

    def mark(self, tag: int, slot: int, ns: int, *, stamp: bytes = NO_STAMP, payload: bytes = b"") -> None:
        """Append one record."""
        self.append([pack_header(tag, slot, ns, stamp, len(payload)), payload])

    def append(self, parts: list[bytes]) -> None:
        """Append whole records at once: headers, each followed by its payload. Commits when there are many."""
        self._pending += parts
        if len(self._pending) > _MANY_PARTS:
            self.commit()

    def commit(self) -> None:
        """Hand what was appended to the system; begin the next segment when this one is full."""
        if not self._pending:
            return
        left = memoryview(b"".join(self._pending))
        self._pending.clear()
        self._written += len(left)
        while left:
            left = left[os.write(self._descriptor, left) :]
        if self._written >= self._bytes:
            full, self._number = self._descriptor, self._number + 1
            self._open()
            os.close(full)

    def close(self) -> None:
        """Commit, and write nothing more."""
        try:
            self.commit()
        finally:
            os.close(self._descriptor)


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
            start = position + size
            position = start + length
            if not tag or position > len(content):
                break
            yield tag, slot, ns, stamp, content[start:position]
