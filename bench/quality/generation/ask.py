"""What is asked of a served model, and what comes back: values that the cache keeps and the items are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Any

from bench.base.hashing import key_of

#: Raised when the same request comes to mean something else; what was answered is then asked again.
_VERSION = 1


class Api(StrEnum):
    """Which route generates."""

    chat = "chat"
    completions = "completions"

    @property
    def path(self) -> str:
        """Below the server's base URL."""
        return "/v1/chat/completions" if self is Api.chat else "/v1/completions"


class AskError(StrEnum):
    """Why a request has no answer. Closed: a new way to fail gets a new name here."""

    CONNECTION = "connection"
    TIMEOUT = "timeout"
    OVERLOADED = "overloaded"
    REFUSED = "refused"
    SERVER_ERROR = "server_error"
    MALFORMED = "malformed"


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How tokens are chosen; greedy and seeded by default. `extra` goes into every request as it is."""

    temperature: float = 0.0
    max_tokens: int = 512
    seed: int = 0
    stop: Sequence[str] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Request:
    """One generation: the route and the body, but for the model's name, which differs between what is compared."""

    api: Api
    body: Mapping[str, Any]

    @cached_property
    def digest(self) -> str:
        """Names what was asked, the same for a variant and its baseline."""
        return key_of({"version": _VERSION, "api": self.api, "body": self.body})

    @property
    def texts(self) -> list[str]:
        """What the model reads."""
        if self.api is Api.completions:
            return [str(self.body["prompt"])]
        return [str(message["content"]) for message in self.body["messages"]]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a server said. `text` is None where it gave none, and then `error` says why.

    `reasoning` is what it set apart as thinking. Tokens are the server's own counts, None where it gives none.
    """

    text: str | None
    reasoning: str | None = None
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    error: str | None = None
    message: str | None = None

    @property
    def visible(self) -> str | None:
        """The answer without its thinking, None where there is none.

        A server that does not set thinking apart leaves it before `</think>`; one that was cut off while thinking has
        said nothing yet.
        """
        if self.text is None:
            return None
        before, end, after = self.text.rpartition("</think>")
        if end:
            return after.strip()
        return "" if self.text.lstrip().startswith("<think>") else before + after


def chat(messages: Sequence[Mapping[str, str]], sampling: Sampling, **more: Any) -> Request:
    """A chat request; `more` are further fields of its body."""
    return Request(api=Api.chat, body={"messages": [dict(each) for each in messages], **_fields(sampling), **more})


def completion(prompt: str, sampling: Sampling) -> Request:
    """A completion of a plain text."""
    return Request(api=Api.completions, body={"prompt": prompt, **_fields(sampling)})


def prompted(api: Api, prompt: str, sampling: Sampling) -> Request:
    """The same text over either route: completed, or said by the user."""
    return completion(prompt, sampling) if api is Api.completions else chat([user(prompt)], sampling)


def user(text: str) -> dict[str, str]:
    """A message of the user."""
    return {"role": "user", "content": text}


def system(text: str) -> dict[str, str]:
    """A message of the operator."""
    return {"role": "system", "content": text}


def assistant(text: str) -> dict[str, str]:
    """A message of the model."""
    return {"role": "assistant", "content": text}


def _fields(sampling: Sampling) -> dict[str, Any]:
    stop = {"stop": list(sampling.stop)} if sampling.stop else {}
    return {
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "seed": sampling.seed,
        **stop,
        **sampling.extra,
    }
