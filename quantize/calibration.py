"""The text from which importance is measured: the shipped one by name, the user's own by path."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bench.base.errors import UsageError
from bench.base.hashing import sha256_file
from bench.base.schema import not_identity

DEFAULT_TEXT = "default"
_SHIPPED = Path(__file__).parent / "texts" / "calibration.txt"
#: llama-imatrix refuses a text of less than two chunks.
MIN_CHUNKS = 2


@dataclass(frozen=True, kw_only=True)
class CalibrationConfig:
    """`text`: `default`, or the path of a UTF-8 file, whose content's digest enters keys in its place.

    It is cut into chunks of `context` tokens, of which the first `chunks` are used; 0: all.
    """

    text: str = not_identity(DEFAULT_TEXT)
    context: int = 512
    chunks: int = 0

    def __post_init__(self) -> None:
        if self.context < 8:
            raise ValueError(f"scheme.calibration.context={self.context} must be 8 tokens or more")
        if self.chunks < 0:
            raise ValueError(f"scheme.calibration.chunks={self.chunks} must be 0 (all) or more")

    @property
    def name(self) -> str:
        """What manifests call the text: no path of this machine."""
        return self.text if self.text == DEFAULT_TEXT else Path(self.text).name

    def file(self) -> Path:
        """The text's file. Raises UsageError when it is missing, empty or not UTF-8."""
        path = _SHIPPED if self.text == DEFAULT_TEXT else Path(self.text).expanduser().resolve()
        if not path.is_file():
            raise UsageError(
                f"scheme.calibration.text: there is no file {path}; give a UTF-8 text, or '{DEFAULT_TEXT}' for the "
                "shipped one"
            )
        try:
            blank = not path.read_text(encoding="utf-8").strip()
        except OSError as error:
            raise UsageError(f"scheme.calibration.text: {path} cannot be read ({error.strerror})") from error
        except UnicodeDecodeError as error:
            raise UsageError(f"scheme.calibration.text: {path} is not UTF-8 text (byte {error.start})") from None
        if blank:
            raise UsageError(f"scheme.calibration.text: {path} is empty")
        return path

    def digest(self) -> str:
        """What identifies the text in keys and manifests."""
        return f"sha256:{sha256_file(self.file())}"
