"""Recorded requests and events as binary columns on disk, in pieces: memory does not grow with a run."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bench.load.outcome import ErrorKind, Status

MISSING = -1

STATUSES = tuple(status.value for status in Status)
ERROR_KINDS = tuple(kind.value for kind in ErrorKind)

REQUEST_DTYPE = np.dtype(
    [
        ("slot", "<u4"),
        ("status", "<i2"),
        ("error", "<i2"),
        ("finish", "<i2"),
        ("http_status", "<i2"),
        ("prompt_tokens", "<i4"),
        ("cached_tokens", "<i4"),
        ("output_tokens", "<i4"),
        ("events", "<i4"),
        ("scheduled_ns", "<i8"),
        ("taken_ns", "<i8"),
        ("sent_ns", "<i8"),
        ("sent_kernel_ns", "<i8"),
        ("first_token_ns", "<i8"),
        ("first_answer_ns", "<i8"),
        ("last_token_ns", "<i8"),
        ("done_ns", "<i8"),
    ]
)
"""One row a request. status, error and finish are numbers of STATUSES, ERROR_KINDS and the digest's finish reasons."""

EVENT_DTYPE = np.dtype([("slot", "<u4"), ("ns", "<i8"), ("bytes", "<u4"), ("tokens", "<i4")])

_CHUNK_ROWS = 1 << 17


class Spool:
    """Rows of `width` integers: appended to `row` (a flat array), moved to a file by `flush`, read back in pieces."""

    def __init__(self, path: Path, width: int) -> None:
        self._path = path
        self._width = width
        self._stream = path.open("w+b")
        self.row = array("q")
        self.rows = 0

    def flush(self) -> None:
        """Move what was appended to the file."""
        self.rows += len(self.row) // self._width
        self.row.tofile(self._stream)
        del self.row[:]

    def chunks(self) -> Iterator[npt.NDArray[np.int64]]:
        """Everything in order, in pieces of shape (rows, width). Nothing may be appended any more."""
        self.flush()
        self._stream.seek(0)
        while True:
            piece = np.fromfile(self._stream, dtype=np.int64, count=_CHUNK_ROWS * self._width)
            if not len(piece):
                return
            yield piece.reshape(-1, self._width)

    def close(self) -> None:
        """Remove the file."""
        self._stream.close()
        self._path.unlink()


class NpyWriter:
    """A one-dimensional `.npy` file of known length, filled piece by piece."""

    def __init__(self, path: Path, dtype: npt.DTypeLike, rows: int) -> None:
        self._stream = path.open("wb")
        header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": (rows,)}
        np.lib.format.write_array_header_1_0(self._stream, header)

    def write(self, piece: npt.NDArray[np.generic]) -> None:
        """The next rows."""
        piece.tofile(self._stream)

    def close(self) -> None:
        """The rows are complete."""
        self._stream.close()
