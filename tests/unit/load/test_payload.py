"""Request bodies: sampling, what passes through, and bodies that grow with a session."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bench.load.config import Api, SyntheticConfig
from bench.load.payload import BETWEEN_TURNS, Body, request_body, spoken
from bench.load.workloads.draft import Draft


def made(draft: Draft | None = None, **workload: Any) -> dict[str, Any]:
    body = request_body(SyntheticConfig(**workload), "m", draft or Draft(prompt="hi", output_tokens=7))
    value: dict[str, Any] = json.loads(body.content)
    return value


def test_a_completion_and_a_chat() -> None:
    common = {"model": "m", "max_tokens": 7, "temperature": 0.0, "stream": True, "ignore_eos": True}
    common |= {"stream_options": {"include_usage": True}}
    assert made() == {**common, "prompt": "hi"}
    assert made(api=Api.chat, system="be brief") == {
        **common,
        "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}],
    }


def test_llama_cpps_own_route_has_words_of_its_own() -> None:
    body = made(api=Api.llama_cpp, top_k=1, stop=["x"])
    assert body == {
        "model": "m",
        "prompt": "hi",
        "n_predict": 7,
        "temperature": 0.0,
        "stream": True,
        "ignore_eos": True,
        "return_tokens": True,
        "top_k": 1,
        "stop": ["x"],
    }


def test_sampling_is_sent_where_it_is_set() -> None:
    body = made(top_p=0.9, top_k=40, min_p=0.05, stop=["\n"], sampling_seed=3, seed=99, ignore_eos=False)
    assert {name: body[name] for name in ("top_p", "top_k", "min_p", "stop", "seed")} == {
        "top_p": 0.9,
        "top_k": 40,
        "min_p": 0.05,
        "stop": ["\n"],
        "seed": 3,
    }
    assert "ignore_eos" not in body
    assert not {"top_p", "top_k", "min_p", "stop", "seed"} & set(made())


def test_structured_output_and_tools_pass_through_and_null_takes_out() -> None:
    schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    body = made(
        Draft(prompt="hi", output_tokens=7, extra={"tools": tools, "temperature": 1}),
        extra={"response_format": schema, "max_tokens": None, "max_completion_tokens": 9, "temperature": 0.5},
    )
    assert (body["response_format"], body["tools"], body["temperature"]) == (schema, tools, 1)
    assert body["max_completion_tokens"] == 9
    assert "max_tokens" not in body


HARD = 'quote " backslash \\ newline \n é 😀'


@pytest.mark.parametrize("api", list(Api))
def test_a_session_grows_by_what_was_said(api: Api) -> None:
    workload = SyntheticConfig(api=api, system="sys" if api is Api.chat else "")
    turns = [f"{HARD} {number}" for number in range(3)]
    said, bodies = b"", []
    for turn in turns:
        body = request_body(workload, "m", Draft(prompt=turn, output_tokens=7), in_session=True)
        whole = body.content[: body.insert_at] + said + body.content[body.insert_at :]
        bodies.append(json.loads(whole))
        own = body.content[body.insert_at : body.insert_at + body.own_length]
        said += spoken(api, own, f"answer to {turn}")
    if api is not Api.chat:
        between = json.loads(f'"{BETWEEN_TURNS}"')
        assert bodies[2]["prompt"] == "".join(f"{t}answer to {t}{between}" for t in turns[:2]) + turns[2]
    else:
        expected = [{"role": "system", "content": "sys"}]
        for turn in turns[:2]:
            expected += [{"role": "user", "content": turn}, {"role": "assistant", "content": f"answer to {turn}"}]
        assert bodies[2]["messages"] == [*expected, {"role": "user", "content": turns[2]}]
    assert all(body["model"] == "m" for body in bodies)


def test_a_body_outside_a_session_is_plain() -> None:
    assert request_body(SyntheticConfig(), "m", Draft(prompt="x", output_tokens=1)) == Body(
        request_body(SyntheticConfig(), "m", Draft(prompt="x", output_tokens=1)).content, 0, 0
    )
