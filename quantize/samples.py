"""Calibration sets of schemes that look at activations: the shipped text, a file of the user's, or a hub's dataset."""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.base.errors import CellFailure, FailureKind, ToolchainError, UsageError
from bench.base.files import write_atomic
from bench.base.hashing import sha256_file
from bench.base.progress import Progress
from bench.base.schema import identity_when_changed, not_identity

if TYPE_CHECKING:
    from bench.toolchains.toolchain import Toolchain

DEFAULT = "default"
_SHIPPED = Path(__file__).parent / "texts" / "calibration.txt"
_HUB = re.compile(
    r"hub:(?P<repo>[A-Za-z0-9][\w.-]*/[A-Za-z0-9_][\w.-]*)(/(?P<config>[\w.-]+))?:(?P<split>\w+)@(?P<revision>[0-9a-f]{40})",
    re.ASCII,
)
_WORKER = Path(__file__).parent / "workers" / "hub_samples.py"
_TABLES = (".jsonl", ".parquet")
#: The hub's own variables, which a toolchain otherwise does without.
_HUB_VARIABLES = ("HF_TOKEN", "HF_HOME", "HF_ENDPOINT", "HF_HUB_OFFLINE", "HF_HUB_CACHE", "HF_DATASETS_CACHE")


@dataclass(frozen=True, kw_only=True)
class SampleSetConfig:
    """`samples` pieces of `length` tokens of `text`, drawn by `seed`.

    `text`: `default` (shipped); a .jsonl or .parquet file, whose rows hold `column` or `messages`; any other UTF-8 file
    as one long text, cut into windows; or `hub:ORG/NAME[/CONFIG]:SPLIT@COMMIT`, a dataset of a hub. Its content, not
    its name, enters keys. With `chat_template` a row's text is asked as a user's message; messages always are. One long
    text has no rows.
    """

    text: str = not_identity(DEFAULT)
    column: str = identity_when_changed("text")
    samples: int = 128
    length: int = 512
    seed: int = 0
    chat_template: bool = False

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ValueError(f"scheme.calibration.samples={self.samples} must be at least 1")
        if self.length < 8:
            raise ValueError(f"scheme.calibration.length={self.length} must be 8 tokens or more")
        if not self.text.strip():
            raise ValueError(f"scheme.calibration.text is empty; give a file, or '{DEFAULT}' for the shipped text")
        if self.text.startswith("hub:") and not _HUB.fullmatch(self.text):
            raise ValueError(
                f"scheme.calibration.text='{self.text}' must be hub:ORG/NAME[/CONFIG]:SPLIT@COMMIT with the 40 digits "
                "of a commit: a branch would be another text tomorrow"
            )
        if self.chat_template and not self._has_rows:
            raise ValueError(
                "scheme.calibration.chat_template is for rows: give scheme.calibration.text as .jsonl, .parquet or hub:"
            )

    @property
    def _has_rows(self) -> bool:
        return self.text.startswith("hub:") or self._is_table

    @property
    def _is_table(self) -> bool:
        return self.text != DEFAULT and not self.text.startswith("hub:") and Path(self.text).suffix in _TABLES

    @property
    def name(self) -> str:
        """What manifests call it: no path of this machine."""
        named = self.text == DEFAULT or self.text.startswith("hub:")
        return self.text if named else Path(self.text).name

    def digest(self) -> str:
        """What identifies the content in keys; a hub's is named by its commit and not read for it.

        Raises UsageError when a file is missing or cannot be read.
        """
        if self.text.startswith("hub:"):
            return self.text
        digests = [sha256_file(file) for file in self._files()]
        whole = digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()
        # The same bytes are other samples when they are read as rows.
        return f"sha256:{whole}{Path(self.text).suffix if self._is_table else ''}"

    def check(self) -> None:
        """Raise UsageError for a file that cannot be used; a hub's dataset is not looked at."""
        if not self.text.startswith("hub:"):
            self._of_files()

    def write(
        self, target: Path, *, progress: Progress, toolchain: Toolchain | None = None, log: Path | None = None
    ) -> dict[str, Any]:
        """Write the chosen samples to `target` as JSON lines; returns what the manifest records of them.

        Raises UsageError for data that cannot be used; for a hub's dataset, which `toolchain` reads, ToolchainError
        and CellFailure too.
        """
        of_hub = self.text.startswith("hub:")
        lines = self._of_hub(target, progress, toolchain, log) if of_hub else self._of_files()
        data = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode()
        write_atomic(target, data)
        return {
            "name": self.name,
            "digest": self.digest(),
            "samples_digest": f"sha256:{hashlib.sha256(data).hexdigest()}",
            "samples": self.samples,
            "length": self.length,
            "seed": self.seed,
            "chat_template": self.chat_template,
            "pieces": len(lines),
        }

    def _of_files(self) -> list[dict[str, Any]]:
        if not self._is_table:
            return [{"text": "\n\n".join(_text(file) for file in self._files())}]
        (file,) = self._files()
        return self._chosen(list(_rows(file, self.column)))

    def _files(self) -> Sequence[Path]:
        if self.text == DEFAULT:
            return [_SHIPPED]
        path = Path(self.text).expanduser().resolve()
        if not path.is_file():
            raise UsageError(
                f"scheme.calibration.text: there is no file {path}; give a text, .jsonl or .parquet file, or "
                f"'{DEFAULT}'"
            )
        return [path]

    def _chosen(self, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """`samples` of the rows, drawn without replacement, in the order of the file."""
        if len(rows) < self.samples:
            raise UsageError(
                f"scheme.calibration: {self.name} has {len(rows)} rows that can be used, {self.samples} samples are "
                "asked; lower scheme.calibration.samples or give more"
            )
        drawn = random.Random(self.seed).sample(range(len(rows)), self.samples)  # noqa: S311 - no secret
        return [rows[index] for index in sorted(drawn)]

    def _of_hub(
        self, target: Path, progress: Progress, toolchain: Toolchain | None, log: Path | None
    ) -> list[dict[str, Any]]:
        import os

        from bench.toolchains.worker import WorkerError, run_worker

        found = _HUB.fullmatch(self.text)
        assert found is not None
        assert toolchain is not None, "a hub's dataset is read in a toolchain"
        own = {name: os.environ[name] for name in _HUB_VARIABLES if name in os.environ}
        work = target.parent / "hub-samples"
        request = {**found.groupdict(), "column": self.column, "samples": self.samples, "seed": self.seed}
        try:
            reply = run_worker(
                toolchain,
                _WORKER,
                request,
                work_dir=work,
                log=log or work / "log",
                progress=progress,
                env={"HF_HUB_OFFLINE": "0", **own},
            )
        except WorkerError as error:
            raise _hub_failure(error, self.text) from error
        return self._chosen(list(reply["rows"]))


def _hub_failure(error: Any, text: str) -> UsageError | ToolchainError | CellFailure:
    said = str(error).splitlines()[0][:300]
    if error.kind == "disk_full":
        return CellFailure(FailureKind.DISK_FULL, f"the disk is full while fetching {text}", log_tail=error.log_tail)
    if error.kind == "usage":
        return UsageError(f"scheme.calibration.text={text}: {said.split(': ', 2)[-1]}")
    return ToolchainError(f"{text} cannot be fetched ({said}); try again, or set HF_HUB_OFFLINE=1 to use what was kept")


def _text(file: Path) -> str:
    try:
        found = file.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"scheme.calibration.text: {file} cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"scheme.calibration.text: {file} is not UTF-8 text (byte {error.start})") from None
    if not found.strip():
        raise UsageError(f"scheme.calibration.text: {file} is empty")
    return found


def _rows(file: Path, column: str) -> Iterator[dict[str, Any]]:
    """Rows with a text or messages; empty ones are passed over. Raises UsageError naming the line that is bad."""
    for number, row in enumerate(_parquet(file) if file.suffix == ".parquet" else _json_lines(file), start=1):
        if not isinstance(row, dict) or not ({column, "messages"} & set(row)):
            known = ", ".join(sorted(row)) if isinstance(row, dict) else "no object"
            raise UsageError(
                f"scheme.calibration.text: row {number} of {file} has no '{column}' and no 'messages' "
                f"(it has {known}); name the column: scheme.calibration.column=NAME"
            )
        yield from usable(row, column)


def usable(row: dict[str, Any], column: str) -> Iterable[dict[str, Any]]:
    """The row as a sample, nothing where it is empty."""
    text, messages = row.get(column), row.get("messages")
    if isinstance(messages, list) and messages:
        return [{"messages": messages}]
    if isinstance(text, str) and text.strip():
        return [{"text": text}]
    return []


def _json_lines(file: Path) -> Iterator[Any]:
    for number, line in enumerate(_text(file).split("\n"), start=1):  # splitlines also cuts at U+2028 in a string
        if not line.strip():
            continue
        try:
            yield json.loads(line)
        except ValueError as error:
            raise UsageError(f"scheme.calibration.text: line {number} of {file} is not JSON ({error})") from None


def _parquet(file: Path) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        for batch in pq.ParquetFile(file).iter_batches():
            yield from batch.to_pylist()
    except (pa.ArrowInvalid, OSError) as error:
        raise UsageError(f"scheme.calibration.text: {file} is not a Parquet file ({error})") from None
