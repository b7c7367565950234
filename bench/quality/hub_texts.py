"""Texts of a hub's datasets: one file at one commit, kept as a UTF-8 file under the harness's cache.

What is kept is used without asking the hub again. A branch would make of the same setting another text tomorrow, so
only a commit is taken.
"""

from __future__ import annotations

import gzip
import hashlib
import itertools
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from bench.base.errors import UsageError
from bench.base.files import write_atomic
from bench.base.hashing import key_of
from bench.base.hub import Wanted, asked, endpoint, quiet_library, silent_bar
from bench.base.paths import cache_dir
from bench.base.progress import Progress

HUB_PREFIX = "hub:"
_FORM = re.compile(
    r"hub:(?P<repo>[A-Za-z0-9][\w.-]*/[A-Za-z0-9_][\w.-]*)/(?P<file>[^/].*)@(?P<revision>[0-9a-f]{40})", re.ASCII
)
#: A step where the same rows become another text: kept texts of before are then fetched again.
_ASSEMBLY = 1


def joined_rows(rows: Iterable[str | None]) -> str:
    """The rows as lines; one that is null is an empty line."""
    return "\n".join(row or "" for row in rows)


def joined_wikitext(rows: Iterable[str | None]) -> str:
    """The classic `wiki.*.raw` file, to the byte, of the rows of a raw config of `Salesforce/wikitext`.

    A row is a line with its newline, but the dataset holds a blank line, which is a space and a newline in the file, as
    the empty string. (Rows joined with blank lines between them, as some guides do it, are another text.)
    """
    return "".join(row or " \n" for row in rows)


def joined_c4(rows: Iterable[str | None]) -> str:
    """The first 1,100 documents with a space between them: what GPTQ's evaluation, and many after it, call C4."""
    return " ".join(row or "" for row in itertools.islice(rows, 1100))


@dataclass(frozen=True, kw_only=True)
class HubText:
    """A file of a dataset: the column `text` of a parquet or of JSON lines, made one text by `joined`, or a UTF-8 file
    as it is.

    `sha256` (hexadecimal) is what the text must be, where that is known. `name` begins the kept file's name.
    """

    name: str
    repo: str
    file: str
    revision: str
    joined: Callable[[Iterable[str | None]], str] = joined_rows
    sha256: str | None = None

    @property
    def kept(self) -> Path:
        """The file under the cache, there or not."""
        key = key_of([self.name, self.repo, self.file, self.revision, _ASSEMBLY])
        return cache_dir() / "sources" / "texts" / f"{self.name}-{key}.txt"


#: Texts by name. WikiText-2's digest is that of the `wiki.test.raw` of the original archive.
NAMED = {
    "wikitext2": HubText(
        name="wikitext2",
        repo="Salesforce/wikitext",
        file="wikitext-2-raw-v1/test-00000-of-00001.parquet",
        revision="b08601e04326c79dfdd32d625aee71d232d685c3",
        joined=joined_wikitext,
        sha256="173c87a53759e0201f33e0ccf978e510c2042d7f2cb78229d9a50d79b9e7dd08",
    ),
    "c4": HubText(
        name="c4",
        repo="allenai/c4",
        file="en/c4-validation.00000-of-00008.json.gz",
        revision="607bd4c8450a42878aa9ddc051a65a055450ef87",
        joined=joined_c4,
    ),
}


def hub_text(text: str, where: str = "task.text") -> HubText | None:
    """What `task.text`, or `where`, names on a hub, None when it names nothing there. Raises ValueError for another
    form."""
    if not text.startswith(HUB_PREFIX):
        return NAMED.get(text)
    form = _FORM.fullmatch(text)
    if form is None or not {".", "..", ""}.isdisjoint(form["file"].split("/")):
        raise ValueError(
            f"{where}='{text}' is no file of a hub's dataset; write hub:ORG/NAME/PATH/IN/REPO@COMMIT with the "
            "commit's 40 hexadecimal digits (a branch moves)"
        )
    return HubText(
        name=PurePosixPath(form["file"]).stem[:40], repo=form["repo"], file=form["file"], revision=form["revision"]
    )


def fetched(text: HubText) -> Path:
    """The text's file under the cache, fetched when it is not there yet.

    Raises UsageError when the hub has no such file, refuses it, is off (HF_HUB_OFFLINE), or when it holds no text;
    CellFailure when the disk is full; ToolchainError when the hub cannot be reached.
    """
    kept = text.kept
    if kept.is_file():
        return kept
    content = _content(text, downloaded(text))
    where = f"task.text: {text.file} of {text.repo}"
    if not content.strip():
        raise UsageError(f"{where} is empty")
    if text.sha256 is not None and hashlib.sha256(content).hexdigest() != text.sha256:
        raise UsageError(
            f"{where}, as {endpoint()} gives it, is not the known {text.name}; check HF_ENDPOINT, or give the file: "
            "task.text=PATH"
        )
    write_atomic(kept, content)
    return kept


def downloaded(text: HubText, where: str = "task.text") -> Path:
    """The dataset's file in the hub's own cache, fetched when it is not there. `where`: the setting that names it."""
    quiet_library()
    from huggingface_hub import hf_hub_download

    wanted = Wanted(
        kind="dataset",
        repo=text.repo,
        revision=text.revision,
        check_repo=where,
        check_revision=where,
        file=text.file,
    )
    path = asked(
        lambda: hf_hub_download(
            text.repo,
            text.file,
            repo_type="dataset",
            revision=text.revision,
            endpoint=endpoint(),
            tqdm_class=silent_bar(Progress()),
        ),
        wanted,
    )
    return Path(path)


def _content(text: HubText, path: Path) -> bytes:
    """The text as UTF-8. Raises UsageError when the file holds none."""
    where = f"task.text: {text.file} of {text.repo}"
    if has_rows(path):
        return text.joined(text_rows(path, where)).encode()
    content = path.read_bytes()
    try:
        content.decode()
    except UnicodeDecodeError as error:
        raise UsageError(f"{where} is not UTF-8 text (byte {error.start})") from None
    return content


def has_rows(path: Path) -> bool:
    """Whether a file's name says that it holds rows with a text in each."""
    return path.name.endswith((".parquet", ".jsonl", ".jsonl.gz", ".json.gz"))


def text_rows(path: Path, where: str) -> Iterable[str | None]:
    """The column `text` of a parquet file or of JSON lines. Raises UsageError when there is none."""
    return _column(path, where) if path.suffix == ".parquet" else _lines(path, where)


def _lines(path: Path, where: str) -> Iterator[str | None]:
    """A line at a time: such files are large, and often only their beginning is wanted."""
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as stream:
            for number, line in enumerate(stream, start=1):
                row = json.loads(line) if line.strip() else {"text": None}
                if not isinstance(row, dict) or not isinstance(row.get("text"), str | None) or "text" not in row:
                    raise UsageError(f"{where}, line {number}: no object with a 'text'")
                if line.strip():
                    yield row["text"]
    except (EOFError, zlib.error, ValueError, gzip.BadGzipFile) as error:
        raise UsageError(f"{where} does not hold JSON lines ({error})") from None


def _column(path: Path, where: str) -> list[str | None]:
    """The column `text` of a parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            if "text" not in schema.names or schema.field("text").type not in (pa.string(), pa.large_string()):
                raise UsageError(f"{where} has no column 'text' of strings; it has {', '.join(schema.names)}")
            rows: list[str | None] = file.read(columns=["text"]).column("text").to_pylist()
            return rows
    except pa.ArrowInvalid as error:
        raise UsageError(f"{where} is no parquet file ({str(error).splitlines()[0][:120]})") from None
