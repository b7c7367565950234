"""Worker of a toolchain with `datasets`: samples of a hub's dataset at one commit, streamed and shuffled by a seed."""

from collections.abc import Callable
from typing import Any

import datasets
from huggingface_hub import errors

#: Rows in the shuffle's buffer: what streaming can mix without reading a whole dataset.
BUFFER = 10_000


class SamplesError(Exception):
    """A failure with a kind of its own for the reply."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def run(request: dict[str, Any], progress: Callable[..., None]) -> dict[str, Any]:
    """`samples` rows that hold a text or messages. Code of a dataset never runs: this library has no way to."""
    column, wanted = request["column"], request["samples"]
    try:
        stream = datasets.load_dataset(
            request["repo"],
            request["config"],
            split=request["split"],
            revision=request["revision"],
            streaming=True,
        )
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.GatedRepoError) as error:
        raise SamplesError("usage", f"the hub refuses it ({type(error).__name__}); check its name, HF_TOKEN") from error
    except (datasets.exceptions.DatasetNotFoundError, ValueError) as error:
        raise SamplesError("usage", str(error)) from error
    rows = []
    for row in stream.shuffle(seed=request["seed"], buffer_size=BUFFER):
        if column not in row and "messages" not in row:
            raise SamplesError("usage", f"its rows have no '{column}' and no 'messages' but {', '.join(sorted(row))}")
        text, messages = row.get(column), row.get("messages")
        if messages:
            rows.append({"messages": messages})
        elif isinstance(text, str) and text.strip():
            rows.append({"text": text})
        if len(rows) == wanted:
            break
        progress(len(rows), wanted, "samples")
    return {"rows": rows}
