"""What can go wrong, as types.

QuantbenchError             anything this program raises on purpose: one clear line, no traceback
├── UsageError              the user asked for something that cannot be: exit code 2
├── ToolchainError          an environment could not be made or verified: exit code 1
└── CellFailure             a cell ran and failed; becomes a typed result with its log's tail: exit code 1
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from enum import StrEnum


class QuantbenchError(Exception):
    """Base of every error raised on purpose; its text is one line for the user.

    `stage` is given where it is another than the one in which the error was met.
    """

    exit_code = 1
    stage: str | None = None


class UsageError(QuantbenchError):
    """Bad input: says what is wrong, where, and what to do."""

    exit_code = 2


class ToolchainError(QuantbenchError):
    """A toolchain could not be installed, built or verified."""

    def __init__(self, message: str, *, log_tail: str = "") -> None:
        super().__init__(message)
        self.log_tail = log_tail


class FailureKind(StrEnum):
    """Why a cell failed. Closed: a new kind of failure gets a new name here."""

    OUT_OF_MEMORY = "out_of_memory"
    START_TIMEOUT = "start_timeout"
    CRASHED = "crashed"
    UNHEALTHY = "unhealthy"
    CORRUPT = "corrupt"
    CPU_FALLBACK = "cpu_fallback"
    UNSUPPORTED_ARCHITECTURE = "unsupported_architecture"
    MISSING_KERNEL = "missing_kernel"
    DRIVER = "driver"
    PORT_TAKEN = "port_taken"
    CLIENT_FAULT = "client_fault"
    TOOLCHAIN = "toolchain"
    QUANTIZER = "quantizer"
    EVALUATOR = "evaluator"
    HOPELESS = "hopeless"
    DISK_FULL = "disk_full"
    USAGE = "usage"


class CellFailure(QuantbenchError):
    """A cell failed while running; `log_tail` holds the last lines of the log that tells why."""

    def __init__(self, kind: FailureKind, message: str, *, log_tail: str = "") -> None:
        super().__init__(message)
        self.kind = kind
        self.log_tail = log_tail


def nearest(word: str, allowed: Iterable[str]) -> str:
    """The sentence that ends every «unknown X» message: the nearest match, then all that is allowed."""
    options = sorted(allowed)
    match = difflib.get_close_matches(word, options, n=1, cutoff=0.5)
    hint = f"did you mean '{match[0]}'? " if match else ""
    return f"{hint}allowed: {', '.join(options) if options else '(none)'}"
