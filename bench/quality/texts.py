"""Texts: the shipped one by name, a hub's by name or address, the user's own by path."""

from __future__ import annotations

from pathlib import Path

from bench.base.errors import UsageError
from bench.base.hashing import sha256_file
from bench.quality.config import DEFAULT_TEXT
from bench.quality.hub_texts import NAMED, fetched, hub_text

_SHIPPED = Path(__file__).parent / "texts"
_CHECKED_BYTES = 65_536


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


def text_digest(path: Path) -> str:
    """What identifies a text in keys and summaries."""
    return f"sha256:{sha256_file(path)}"
