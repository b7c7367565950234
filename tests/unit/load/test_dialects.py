"""Streams of the engines in the field: those in `streams/` were recorded, the others have the form of their engine.

What must come out is the same for all: token-bearing events, usage, finish, and the text for a session's next turn.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bench.load.answer import Answer, EventLog
from bench.load.outcome import End, ErrorKind, Status
from bench.load.sessions import answer_text

STREAMS = Path(__file__).parent / "streams"
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"


@dataclass(frozen=True, kw_only=True)
class Heard:
    """What an answer comes to."""

    verdict: tuple[Status, ErrorKind | None]
    events: int
    tokens: tuple[int | None, int | None, int | None]
    """prompt, output, cached"""
    finish: str | None
    text: str | None


def hear(reads: list[bytes], end: End = End.complete) -> Heard:
    answer = Answer(1, EventLog())
    for number, read in enumerate(reads):
        answer.feed(read, 0, number + 1)
    status, kind, _ = answer.finish(end)
    return Heard(
        verdict=(status, kind),
        events=answer.events,
        tokens=(answer.prompt_tokens, answer.output_tokens, answer.cached_tokens),
        finish=answer.finish_reason,
        text=answer_text(reads),
    )


def streamed(events: list[Any], *, opening: bytes = b"data: ", done: bool = True) -> list[bytes]:
    """One HTTP chunk an event, as the engines send them."""
    bodies = [opening + json.dumps(event, separators=(",", ":")).encode() + b"\n\n" for event in events]
    bodies += [opening + b"[DONE]\n\n"] if done else []
    return [HEAD, *(b"%x\r\n%b\r\n" % (len(body), body) for body in bodies), LAST_CHUNK]


def chunk(delta: dict[str, Any] | None, finish: str | None = None, **more: Any) -> dict[str, Any]:
    """A chat chunk; without a delta, one that has usage and no choices."""
    choices = [] if delta is None else [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]
    return {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": choices, **more}


def usage(prompt: int, output: int, **more: Any) -> dict[str, Any]:
    return {"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output, **more}


NULLS = {"role": None, "reasoning_content": None, "tool_calls": None}

VLLM_REASONING = streamed(
    [
        chunk({"role": "assistant", "content": ""}),
        chunk({"reasoning": "The", "reasoning_content": "The"}),
        chunk({"reasoning": " user", "reasoning_content": " user"}),
        chunk({"content": "4"}),
        chunk({"content": ""}, "stop", stop_reason=None),
        chunk(None, usage=usage(9, 5, prompt_tokens_details=None)),
    ]
)
SGLANG = streamed(
    [
        chunk({**NULLS, "role": "assistant", "content": ""}, usage=None),
        chunk({**NULLS, "content": None, "reasoning_content": "Hm"}, usage=None),
        chunk({**NULLS, "content": "Yes"}, "", usage=None),
        chunk({**NULLS, "content": None}, "stop", usage=None),
        chunk(None, usage=usage(9, 4, prompt_tokens_details={"cached_tokens": 3}, reasoning_tokens=1)),
    ]
)
TGI = streamed(
    [
        chunk({"role": "assistant", "content": "Yes"}, system_fingerprint="3.3.6-native", usage=None),
        chunk({"role": "assistant", "content": "."}, system_fingerprint="3.3.6-native", usage=None),
        chunk({"role": "assistant", "content": ""}, "stop", system_fingerprint="3.3.6-native", usage=None),
        chunk(None, usage=usage(9, 3)),
    ]
)
TGI_OLD = streamed(
    [chunk({"role": "assistant", "content": "Yes"}), chunk({"role": "assistant", "content": "."}, "length")],
    opening=b"data:",
    done=False,
)
TENSORRT_LLM = streamed(
    [
        chunk({"role": "assistant", "content": "", "reasoning_content": None, "tool_calls": []}),
        chunk({"content": "Yes", "reasoning_content": None, "tool_calls": []}, usage=usage(9, 1)),
        chunk({"content": ", yes", "reasoning_content": None, "tool_calls": []}, usage=usage(9, 3)),
        chunk({"content": "", "reasoning_content": None, "tool_calls": []}, "stop", usage=usage(9, 4)),
        chunk(None, usage=usage(9, 4)),
    ]
)
TRANSFORMERS = streamed(
    [
        chunk({"role": "assistant"}, system_fingerprint=""),
        chunk({"content": "Yes"}, system_fingerprint=""),
        chunk({"content": "."}, system_fingerprint=""),
        chunk({}, "stop", usage=usage(9, 3)),
    ],
    done=False,
)
OPENAI_TOOL = streamed(
    [
        chunk(
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {"index": 0, "id": "call_1", "type": "function", "function": {"name": "f", "arguments": ""}}
                ],
                "refusal": None,
            },
            service_tier="default",
            usage=None,
            obfuscation="a",
        ),
        chunk({"tool_calls": [{"index": 0, "function": {"arguments": '{"a":'}}]}, usage=None, obfuscation="Zx"),
        chunk({"tool_calls": [{"index": 0, "function": {"arguments": "1}"}}]}, usage=None, obfuscation="q"),
        chunk({}, "tool_calls", usage=None),
        chunk(None, usage=usage(9, 12, prompt_tokens_details={"cached_tokens": 0, "audio_tokens": 0})),
    ]
)
OPENAI_FUNCTION = streamed(
    [
        chunk({"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": ""}}),
        chunk({"function_call": {"arguments": "{}"}}),
        chunk({}, "function_call"),
    ]
)
AZURE_OPENAI = streamed(
    [
        {"id": "", "object": "", "model": "", "choices": [], "prompt_filter_results": [{"prompt_index": 0}]},
        chunk({"role": "assistant", "content": "", "refusal": None}),
        chunk({"content": "Yes"}),
        chunk({}, "stop"),
    ]
)

OK = (Status.ok, None)


@pytest.mark.parametrize(
    ("reads", "heard"),
    [
        pytest.param(
            VLLM_REASONING, Heard(verdict=OK, events=3, tokens=(9, 5, None), finish="stop", text="4"), id="vLLM"
        ),
        pytest.param(SGLANG, Heard(verdict=OK, events=2, tokens=(9, 4, 3), finish="stop", text="Yes"), id="SGLang"),
        pytest.param(TGI, Heard(verdict=OK, events=2, tokens=(9, 3, None), finish="stop", text="Yes."), id="TGI"),
        pytest.param(
            TGI_OLD,
            Heard(verdict=OK, events=2, tokens=(None, None, None), finish="length", text="Yes."),
            id="TGI without usage and end",
        ),
        pytest.param(
            TENSORRT_LLM,
            Heard(verdict=OK, events=2, tokens=(9, 4, None), finish="stop", text="Yes, yes"),
            id="TensorRT-LLM",
        ),
        pytest.param(
            TRANSFORMERS,
            Heard(verdict=OK, events=2, tokens=(9, 3, None), finish="stop", text="Yes."),
            id="transformers",
        ),
        pytest.param(
            OPENAI_TOOL,
            Heard(verdict=OK, events=3, tokens=(9, 12, 0), finish="tool_calls", text=""),
            id="OpenAI tool calls",
        ),
        pytest.param(
            OPENAI_FUNCTION,
            Heard(verdict=OK, events=2, tokens=(None, None, None), finish="function_call", text=""),
            id="OpenAI function calls",
        ),
        pytest.param(
            AZURE_OPENAI,
            Heard(verdict=OK, events=1, tokens=(None, None, None), finish="stop", text="Yes"),
            id="Azure OpenAI",
        ),
    ],
)
def test_every_dialect_is_understood(reads: list[bytes], heard: Heard) -> None:
    assert hear(reads) == heard
    assert hear([b"".join(reads)]) == heard
    whole = b"".join(reads)
    assert hear([whole[start : start + 7] for start in range(0, len(whole), 7)]) == heard


def recorded(name: str) -> bytes:
    return (STREAMS / f"{name}.http").read_bytes()


RECORDED = {
    "llama_cpp.chat": Heard(verdict=OK, events=8, tokens=(40, 8, 0), finish="length", text="Je suis en français,"),
    "llama_cpp.completion": Heard(
        verdict=OK, events=6, tokens=(5, 6, 0), finish="length", text=" Paris.\n\nThe United"
    ),
    "llama_cpp.native": Heard(verdict=OK, events=6, tokens=(5, 6, 0), finish="length", text=" Paris.\n\nThe United"),
    "vllm.chat": Heard(verdict=OK, events=8, tokens=(40, 8, None), finish="length", text="Je suis en français,"),
    "vllm.continuous": Heard(verdict=OK, events=6, tokens=(5, 6, None), finish="length", text=" Paris.\n\nThe answer"),
    "vllm.tool": Heard(verdict=OK, events=4, tokens=(37, 40, None), finish="length", text=""),
}


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_streams_are_understood_however_they_were_cut(name: str) -> None:
    content = recorded(name)
    assert hear([content]) == RECORDED[name]
    for size in (1, 64, 1000):
        assert hear([content[start : start + size] for start in range(0, len(content), size)]) == RECORDED[name]


@pytest.mark.parametrize("name", ["vllm.continuous", "llama_cpp.native"])
def test_usage_or_ids_that_run_along_tell_the_tokens_of_every_event(name: str) -> None:
    log = EventLog()
    Answer(1, log).feed(recorded(name), 0, 1)
    assert log.column(4) == [1] * 6


def test_a_refusal_keeps_its_reason() -> None:
    found = hear([recorded("llama_cpp.too_long")])
    assert found.verdict == (Status.error, ErrorKind.http_error)
    assert found.text is None


def test_a_stream_that_was_cut_gives_no_text_for_a_next_turn() -> None:
    assert answer_text(SGLANG[:3]) is None
    failed = streamed([chunk({"content": "Yes"}), {"error": {"message": "out of memory"}}])
    assert answer_text(failed) is None
    assert answer_text([b"not HTTP"]) is None
