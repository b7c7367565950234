"""Secrets never reach a report, whatever wrote them into a record; nor does the name of the user who ran it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

HIDDEN = "(hidden)"
_SECRET_NAME = re.compile(r"(api[_-]?key|secret|password|passwd|authorization|(^|[_-])token$)", re.IGNORECASE)
_HOME = re.compile(r"(?<![\w.~-])/(?:root|(?:home|Users)/[^/\s'\"]+)(?=/)")


def redact(value: Any) -> Any:
    """A copy of a JSON value in which the values of secret-looking names are hidden."""
    if isinstance(value, Mapping):
        return {
            key: HIDDEN if _SECRET_NAME.search(str(key)) and isinstance(entry, str) and entry else redact(entry)
            for key, entry in value.items()
        }
    if isinstance(value, list | tuple):
        return [redact(entry) for entry in value]
    return value


def redact_command(arguments: Sequence[str]) -> list[str]:
    """A command line in which what follows a secret-looking option is hidden."""
    shown: list[str] = []
    hide_next = False
    for argument in arguments:
        name, equals, _ = argument.partition("=")
        if hide_next:
            shown.append(HIDDEN)
            hide_next = False
        elif _SECRET_NAME.search(name) and equals:
            shown.append(f"{name}={HIDDEN}")
        else:
            shown.append(argument)
            hide_next = argument.startswith("-") and _SECRET_NAME.search(argument) is not None
    return shown


def shown_command(arguments: Sequence[str]) -> str:
    """A command line as one would type it: secrets hidden, anybody's home as `~`."""
    return _HOME.sub("~", shlex.join(redact_command(arguments)))
