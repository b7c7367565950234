"""A request before it has a body, and what a workload is for the rest of the load generator: a source of sessions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from bench.load.arrivals.trace import Demand
from bench.load.prompts import Prompts


@dataclass(frozen=True, kw_only=True)
class Draft:
    """One request: `prompt` (text, or token ids), or a chat's `messages` whole.

    `input_tokens` is the length that was asked for, None where the data has the say; `extra` are body keys of its own.
    """

    output_tokens: int
    prompt: str | Sequence[int] = ""
    messages: Sequence[Mapping[str, Any]] | None = None
    input_tokens: int | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


class Source(Protocol):
    """What a workload draws from, one session after another; most have one turn."""

    def session(self, demand: Demand | None) -> list[Draft]:
        """The turns of the next session, as long as `demand` says where the workload can heed it.

        Raises UsageError where a file does not hold what it should.
        """
        ...

    def prompts(self) -> Prompts:
        """How the lengths of what was drawn so far are known."""
        ...

    def close(self) -> None:
        """Nothing more is drawn."""
        ...
