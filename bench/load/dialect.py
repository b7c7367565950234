"""What a parsed event says, in the dialects of the field: OpenAI's completions and chat, with their extensions.

Another protocol is brought into that form by a function like `as_openai`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

_ANSWER_DELTAS = ("content", "refusal")
_REASONING_DELTAS = ("reasoning_content", "reasoning")


def as_openai(value: dict[str, Any]) -> dict[str, Any]:
    """An event of llama.cpp's own route, told by its keys, as OpenAI's completions would have it; others as they are.

    Its counts run along, and it says the ids of an event's tokens.
    """
    if "choices" in value or "content" not in value or "stop" not in value:
        return value
    finish = None
    if value["stop"]:
        finish = "length" if value.get("stop_type") == "limit" else "stop"
    timings = value.get("timings")
    cached = timings.get("cache_n") if isinstance(timings, dict) else None
    return {
        "choices": [{"text": value["content"], "finish_reason": finish, "token_ids": value.get("tokens")}],
        "usage": {
            "prompt_tokens": value.get("tokens_evaluated"),
            "completion_tokens": value.get("tokens_predicted"),
            "prompt_tokens_details": {"cached_tokens": cached},
        },
    }


class Carried(NamedTuple):
    """The text of an event, and whether all of it is reasoning."""

    text: str | None
    reasoning: bool


def carried(choice: dict[str, Any]) -> Carried | None:
    """What a choice carries: content, reasoning, a refusal or a tool call; None for the opening role delta.

    `text` is None where more than one text, or a tool call, is in it.
    """
    text = choice.get("text")
    if text:
        return Carried(text=text, reasoning=False)
    delta = choice.get("delta")
    if not delta:
        return None
    answers = [value for name in _ANSWER_DELTAS if (value := delta.get(name))]
    reasoning = [value for name in _REASONING_DELTAS if (value := delta.get(name))]
    called = bool(delta.get("tool_calls") or delta.get("function_call"))
    if not answers and not reasoning and not called:
        return None
    texts = answers + reasoning
    single = len(texts) == 1 and not called
    return Carried(text=texts[0] if single else None, reasoning=bool(reasoning) and not answers and not called)


def count(value: Any, otherwise: int | None) -> int | None:
    """A count that an endpoint reported, else `otherwise`."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else otherwise


def error_text(value: dict[str, Any]) -> str:
    """What an error event says."""
    error = value.get("error", value)
    message = error.get("message") if isinstance(error, dict) else error
    return str(message if message is not None else error)
