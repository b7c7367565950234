"""Hostile text made inert: what a model, a log or a file name says is shown, never obeyed.

HTML escaping is the template engine's; here control characters, terminal sequences, direction overrides and lone
surrogates become visible marks, and texts of any length become short enough to show.
"""

from __future__ import annotations

import re

_TERMINAL = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_DIRECTION = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_NONCHARACTER = re.compile("[\ufffe\uffff]")

NAME_LIMIT = 96
TAIL_LIMIT = 4_000


def clean(value: str) -> str:
    """`value` without anything that steers a terminal or a text's direction; line ends and tabs are kept."""
    text = _TERMINAL.sub("", value.replace("\r\n", "\n"))
    text = _CONTROL.sub(_visible, text)
    text = _DIRECTION.sub(lambda match: f"⟨U+{ord(match[0]):04X}⟩", text)
    return _NONCHARACTER.sub("\ufffd", _SURROGATE.sub("\ufffd", text))


def _visible(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code == 0x7F:
        return "␡"
    return chr(0x2400 + code) if code < 0x20 else "\ufffd"


def one_line(value: str) -> str:
    """Cleaned, with every run of white space as one space."""
    return " ".join(clean(value).split())


def short(value: str, limit: int = NAME_LIMIT) -> str:
    """One line of at most `limit` characters; a cut says how long the whole is."""
    text = one_line(value)
    if len(text) <= limit:
        return text
    return f"{text[: limit - 1]}… ({len(text):,} characters)"


def tail(value: str, limit: int = TAIL_LIMIT) -> str:
    """The end of a log, cleaned; a cut says so."""
    text = clean(value).strip("\n")
    if len(text) <= limit:
        return text
    head, newline, kept = text[-limit:].partition("\n")
    kept = kept if newline and len(head) < limit // 2 else text[-limit:]
    return f"… ({len(text) - len(kept):,} characters before this)\n{kept}"
