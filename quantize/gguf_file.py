"""Reading a GGUF file's header: metadata and tensor infos, checked against the file's size. No weights are read.

Format: the GGUF specification in ggml's docs (versions 2 and 3, little-endian). Arrays (vocabularies have 10^5 strings)
are stepped over, so that a header is read in milliseconds.
"""

from __future__ import annotations

import functools
import math
import mmap
import struct
from dataclasses import dataclass, field
from pathlib import Path

from bench.base.errors import UsageError
from quantize.ggml_types import GGML_TYPES, GgmlType

MAGIC = b"GGUF"
_ARRAY, _STRING = 9, 8
#: GGUF value type → struct format of a scalar.
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_MAX_DIMENSIONS = 4
_MAX_NESTING = 4
_DEFAULT_ALIGNMENT = 32
_LENGTH = struct.Struct("<Q")
#: Headers are remembered while a run asks for the same files again and again.
_REMEMBERED = 32

Scalar = int | float | bool | str


@dataclass(frozen=True, kw_only=True)
class TensorInfo:
    """One tensor. `shape` is in ggml's order: the first dimension is the row, the one that is cut into blocks."""

    name: str
    shape: tuple[int, ...]
    type: GgmlType
    offset: int

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return math.prod(self.shape)

    @property
    def size_bytes(self) -> int:
        """Bytes of the packed data."""
        return self.parameters // self.type.block * self.type.block_bytes


@dataclass(frozen=True, kw_only=True)
class GgufFile:
    """A checked header. `metadata` holds scalars and strings; of arrays only the length is kept.

    Tensor data begin at byte `data_start`.
    """

    path: Path
    version: int
    metadata: dict[str, Scalar] = field(default_factory=dict)
    array_lengths: dict[str, int] = field(default_factory=dict)
    tensors: tuple[TensorInfo, ...] = ()
    data_start: int = 0

    def text(self, key: str) -> str | None:
        """A string of the metadata, or None when it is absent or no string."""
        value = self.metadata.get(key)
        return value if isinstance(value, str) else None


class _TruncatedError(Exception):
    """The header wants bytes beyond the end of the file."""


class _MalformedError(Exception):
    """The header says something that cannot be."""


class _Cursor:
    """Reads forward through a buffer; raises _TruncatedError at its end."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self.position = 0

    def skip(self, count: int) -> int:
        """Step over `count` bytes; returns where they began."""
        start = self.position
        if count > len(self._data) - start:
            raise _TruncatedError
        self.position += count
        return start

    def scalar(self, code: str) -> int | float | bool:
        """One little-endian number."""
        (value,) = struct.unpack_from(f"<{code}", self._data, self.skip(struct.calcsize(f"<{code}")))
        assert isinstance(value, int | float)
        return value

    def count(self, code: str = "Q") -> int:
        """One unsigned integer."""
        return int(self.scalar(code))

    def string(self) -> str:
        """A length-prefixed UTF-8 string."""
        length = self.count()
        start = self.skip(length)
        return self._data[start : start + length].decode("utf-8", errors="replace")

    def skip_array(self, depth: int = 0) -> int:
        """Step over an array; returns its length."""
        kind, length = self.count("I"), self.count()
        if kind in _SCALARS:
            self.skip(length * struct.calcsize(f"<{_SCALARS[kind]}"))
        elif kind == _STRING:
            self._skip_strings(length)
        elif kind == _ARRAY and depth < _MAX_NESTING:
            for _ in range(length):
                self.skip_array(depth + 1)
        else:
            raise _MalformedError(f"an array of unknown type {kind}")
        return length

    def _skip_strings(self, count: int) -> None:
        """Step over strings; a vocabulary has some hundred thousand of them."""
        data, end, position, length_at = self._data, len(self._data), self.position, _LENGTH.unpack_from
        for _ in range(count):
            if position + _LENGTH.size > end:
                raise _TruncatedError
            position += _LENGTH.size + length_at(data, position)[0]
        if position > end:
            raise _TruncatedError
        self.position = position


def read_gguf(path: Path) -> GgufFile:
    """Read and check the header of `path`; that of a file which has not changed since is remembered.

    Raises UsageError when the file is missing, is no GGUF, is of another version or byte order, is damaged, or is
    shorter than its tensors.
    """
    if not path.exists():
        raise UsageError(f"{path}: there is no such file; check the path")
    if not path.is_file():
        raise UsageError(f"{path}: is a folder, not a GGUF file; name the file in it")
    try:
        stat = path.stat()
        return _read(path, stat.st_size, stat.st_mtime_ns, stat.st_ino)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from error


@functools.lru_cache(maxsize=_REMEMBERED)
def _read(path: Path, *_: int) -> GgufFile:
    """The header of the file that `path` is; what else is given tells it from another of the same name."""
    try:
        with path.open("rb") as stream:
            start = stream.read(8)
            if start[:4] != MAGIC:
                raise UsageError(f"{path}: is not a GGUF file (it begins with {start[:4]!r}); give a .gguf model")
            with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _parse(path, data)
    except _TruncatedError:
        raise UsageError(f"{path}: is cut short within its header; copy or download it again") from None
    except _MalformedError as error:
        raise UsageError(f"{path}: is damaged ({error}); copy or download it again") from None


def _parse(path: Path, data: mmap.mmap) -> GgufFile:
    cursor = _Cursor(data)
    cursor.skip(len(MAGIC))
    version = cursor.count("I")
    if version not in (2, 3):
        reason = "is big-endian" if version.to_bytes(4, "little")[3:] in (b"\2", b"\3") else f"has version {version}"
        raise UsageError(f"{path}: {reason}; little-endian GGUF of version 2 or 3 is needed: convert the model again")
    tensor_count, pair_count = cursor.count(), cursor.count()
    metadata: dict[str, Scalar] = {}
    array_lengths: dict[str, int] = {}
    for _ in range(pair_count):
        key, kind = cursor.string(), cursor.count("I")
        if kind == _ARRAY:
            array_lengths[key] = cursor.skip_array()
        elif kind == _STRING:
            metadata[key] = cursor.string()
        elif kind in _SCALARS:
            metadata[key] = cursor.scalar(_SCALARS[kind])
        else:
            raise _MalformedError(f"'{key[:60]}' is of unknown type {kind}")
    tensors = tuple(_tensor(cursor) for _ in range(tensor_count))
    alignment = metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
    if not isinstance(alignment, int) or alignment < 1:
        raise _MalformedError(f"general.alignment is {alignment!r}")
    data_start = -(-cursor.position // alignment) * alignment
    _check_extent(path, tensors, data_start, len(data))
    return GgufFile(
        path=path,
        version=version,
        metadata=metadata,
        array_lengths=array_lengths,
        tensors=tensors,
        data_start=data_start,
    )


def _tensor(cursor: _Cursor) -> TensorInfo:
    name, dimensions = cursor.string(), cursor.count("I")
    if dimensions > _MAX_DIMENSIONS:
        raise _MalformedError(f"tensor '{name[:60]}' has {dimensions} dimensions")
    shape = tuple(cursor.count() for _ in range(dimensions))
    code = cursor.count("I")
    kind = GGML_TYPES.get(code)
    if kind is None:
        raise _MalformedError(f"tensor '{name[:60]}' is of unknown type {code}")
    if shape and shape[0] % kind.block:
        raise _MalformedError(f"tensor '{name[:60]}' has rows of {shape[0]}, no multiple of {kind.name}'s {kind.block}")
    return TensorInfo(name=name, shape=shape, type=kind, offset=cursor.count())


def _check_extent(path: Path, tensors: tuple[TensorInfo, ...], data_start: int, size: int) -> None:
    for tensor in tensors:
        end = data_start + tensor.offset + tensor.size_bytes
        if end > size:
            raise UsageError(
                f"{path}: is cut short: tensor '{tensor.name[:60]}' ends at byte {end}, the file has {size}; "
                "copy or download it again"
            )
