"""Texts: the shipped one by name, a hub's by name or address, the user's own by path."""

from __future__ import annotations

from pathlib import Path

from bench.base.errors import UsageError
from bench.base.files import write_atomic
from bench.base.hashing import key_of, sha256_file
from bench.base.paths import cache_dir
from bench.quality.config import DEFAULT_TEXT
from bench.quality.hub_texts import NAMED, fetched, has_rows, hub_text, text_rows

_SHIPPED = Path(__file__).parent / "texts"
_CHECKED_BYTES = 65_536
#: Raised when the same rows become another text.
_JOINED = 1


def text_file(text: str) -> Path:
    """The file of `text`: `default`, a text of a hub (fetched once), or the path of a UTF-8 file.

    Raises UsageError when it is none, ToolchainError or CellFailure when a hub's cannot be fetched.
    """
    if text == DEFAULT_TEXT:
        return _SHIPPED / "default.txt"
    of_hub = hub_text(text)
    if of_hub is not None:
        return fetched(of_hub)
    path = Path(text).expanduser().resolve()
    if not path.is_file():
        raise UsageError(
            f"task.text: there is no file {path}; give a UTF-8 text, '{DEFAULT_TEXT}' for the shipped one, or "
            f"{', '.join(NAMED)} for one of a hub"
        )
    if has_rows(path):
        return _joined(path)
    try:
        with path.open("rb") as stream:
            head = stream.read(_CHECKED_BYTES)
        # A character may be cut in two at the end of what was read.
        head.decode() if len(head) < _CHECKED_BYTES else head[:-4].decode(errors="strict")
    except OSError as error:
        raise UsageError(f"task.text: {path} cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        if len(head) < _CHECKED_BYTES or error.start < len(head) - 8:
            raise UsageError(f"task.text: {path} is not UTF-8 text (byte {error.start})") from None
    if not head.strip():
        raise UsageError(f"task.text: {path} is empty")
    return path


def _joined(path: Path) -> Path:
    """The texts of a file of rows as one, a blank line between them, kept under the cache by the file's content."""
    kept = cache_dir() / "sources" / "texts" / f"rows-{key_of([sha256_file(path), _JOINED])}.txt"
    if not kept.is_file():
        text = "\n\n".join(row or "" for row in text_rows(path, f"task.text: {path}"))
        if not text.strip():
            raise UsageError(f"task.text: {path} is empty")
        write_atomic(kept, text.encode())
    return kept


def text_digest(path: Path) -> str:
    """What identifies a text in keys and summaries."""
    return f"sha256:{sha256_file(path)}"
