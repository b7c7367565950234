"""Runs one worker inside a toolchain: `python -I bootstrap.py WORKER.py REQUEST.json REPLY.json`.

Standard library only: this file and the worker are all of the harness that the toolchain ever sees. The worker
defines `run(request, progress) -> dict`. Progress goes as JSON lines to the descriptor named in
QUANTBENCH_PROGRESS_FD; the reply is written beside its name, then renamed. Whoever finds no reply knows the worker
crashed.
"""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import json
import os
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

PROTOCOL = 1


class Progress:
    """`progress(done, total, unit, message="")`, callable from any thread; never fails, never waits for a reader."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor
        if descriptor is not None:
            os.set_blocking(descriptor, False)
            os.set_inheritable(descriptor, False)

    def __call__(self, done: int, total: int | None = None, unit: str = "", message: str = "") -> None:
        if self._descriptor is None:
            return
        line = json.dumps({"done": done, "total": total, "unit": unit, "message": str(message)[:200]}) + "\n"
        with contextlib.suppress(OSError):  # a full or closed pipe costs a progress line, never the work
            os.write(self._descriptor, line.encode())


def error_kind(error: BaseException) -> str:
    """What the harness decides by; an exception may name its own with a `kind` attribute."""
    kind = getattr(error, "kind", None)
    if isinstance(kind, str):
        return kind
    if isinstance(error, MemoryError) or type(error).__name__ in ("OutOfMemoryError", "OutOfMemory"):
        return "out_of_memory"
    if isinstance(error, ImportError):
        return "import_error"
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return "disk_full"
    return "error"


def plain(value: Any) -> Any:
    """numpy scalars become plain numbers, paths become strings; raises TypeError on anything else."""
    if hasattr(value, "item"):
        return value.item()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"the reply holds a {type(value).__name__}, which is not JSON")


def write_reply(path: Path, reply: dict[str, Any]) -> None:
    """Write the reply so that it is whole or absent. Raises ValueError on NaN: missing data is null."""
    text = json.dumps(reply, allow_nan=False, default=plain)
    temporary = path.with_name(f"{path.name}.tmp")
    with temporary.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)


def load_worker(path: str) -> ModuleType:
    """Import the worker file without putting its folder on the path."""
    spec = importlib.util.spec_from_file_location("quantbench_worker", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules["quantbench_worker"] = module
    spec.loader.exec_module(module)
    return module


def answer(worker: str, request: Path, progress: Progress) -> dict[str, Any]:
    """The worker's result; raises whatever it raises, TypeError when it is not a dict."""
    result = load_worker(worker).run(json.loads(request.read_text(encoding="utf-8")), progress)
    if not isinstance(result, dict):
        raise TypeError(f"the worker returned a {type(result).__name__}, not a dict")
    return result


def main(arguments: list[str]) -> int:
    """Run the worker and leave a reply; returns the exit code."""
    worker, request, reply = arguments
    descriptor = os.environ.pop("QUANTBENCH_PROGRESS_FD", None)
    progress = Progress(None if descriptor is None else int(descriptor))
    try:
        result = answer(worker, Path(request), progress)
        write_reply(Path(reply), {"protocol": PROTOCOL, "status": "ok", "result": result})
    except Exception as error:
        traceback.print_exc()
        message = f"{type(error).__name__}: {error}".strip()[:2000]
        failed = {"protocol": PROTOCOL, "status": "error", "kind": error_kind(error), "message": message}
        write_reply(Path(reply), failed)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
