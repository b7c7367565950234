"""Log-probabilities of running servers: what each is asked, and how its answers are read."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from bench.base.errors import CellFailure, UsageError
from bench.engines.base import Engine
from bench.engines.served_logprobs import (
    Asked,
    LlamaServerCompletion,
    LogprobRoute,
    OpenAiCompletions,
    SglangGenerate,
    TgiGenerate,
    VllmCompletions,
    next_logprobs,
    prompt_logprobs,
    top_logprobs,
)

VLLM_PROMPT = {
    "choices": [{"prompt_logprobs": [None, {"3575": {"logprob": -4.5, "rank": 9, "decoded_token": "x"}}]}],
}
VLLM_NEXT = {"choices": [{"logprobs": {"top_logprobs": [{"token_id:7": -0.5, "token_id:9": -3.0}]}}]}
LLAMA_NEXT = {"completion_probabilities": [{"id": 7, "top_logprobs": [{"id": 7, "token": "a", "logprob": -0.5}]}]}
SGLANG = {
    "meta_info": {
        "input_token_logprobs": [[None, 1, None], [-4.5, 3575, None]],
        "output_top_logprobs": [[[-0.5, 7, None], [-3.0, 9, None]]],
    }
}
SGLANG_CHOSEN = {"meta_info": {"output_token_ids_logprobs": [[[-0.5, 7, None], [-8.0, 11, None]]]}}
TGI = {
    "details": {
        "prefill": [{"id": 1, "text": "a", "logprob": None}, {"id": 3575, "text": "b", "logprob": -4.5}],
        "top_tokens": [[{"id": 7, "text": "c", "logprob": -0.5}]],
    }
}
OPENAI = {"choices": [{"logprobs": {"top_logprobs": [{" a": -0.5}]}}]}


@pytest.mark.parametrize(
    ("route", "answer"), [(VllmCompletions(), VLLM_PROMPT), (SglangGenerate(), SGLANG), (TgiGenerate(), TGI)]
)
def test_a_prompts_first_token_has_none(route: LogprobRoute, answer: Any) -> None:
    assert route.prompt_logprobs(answer) == [-4.5]


@pytest.mark.parametrize(
    ("route", "answer", "expected"),
    [
        (VllmCompletions(), VLLM_NEXT, {7: -0.5, 9: -3.0}),
        (LlamaServerCompletion(), LLAMA_NEXT, {7: -0.5}),
        (SglangGenerate(), SGLANG, {7: -0.5, 9: -3.0}),
        (SglangGenerate(), SGLANG_CHOSEN, {7: -0.5, 11: -8.0}),
        (TgiGenerate(), TGI, {7: -0.5}),
        (OpenAiCompletions(), OPENAI, {" a": -0.5}),
    ],
)
def test_next_tokens_are_told_by_id_where_there_is_one(route: LogprobRoute, answer: Any, expected: Any) -> None:
    assert route.next_logprobs(answer) == expected


def endpoint(route: LogprobRoute | None, answers: Any) -> tuple[Any, list[dict[str, Any]]]:
    asked: list[dict[str, Any]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        import json

        asked.append({"path": request.url.path, **json.loads(request.content)})
        return answers if isinstance(answers, httpx.Response) else httpx.Response(200, json=answers)

    class Toy(Engine):
        kind = "toy"
        logprobs = route

    def client() -> httpx.Client:
        return httpx.Client(transport=httpx.MockTransport(answer), base_url="http://127.0.0.1:1")

    return SimpleNamespace(engine=Toy(), model="m", client=client, said="the log"), asked


def test_vllm_is_asked_for_named_tokens_and_for_prompts_by_id() -> None:
    running, asked = endpoint(VllmCompletions(), VLLM_NEXT)
    assert next_logprobs(running, [1, 2], [9, 7]) == [-3.0, -0.5]
    assert asked[0]["logprob_token_ids"] == [9, 7]
    assert asked[0]["prompt"] == [1, 2]
    running, asked = endpoint(VllmCompletions(), VLLM_PROMPT)
    assert prompt_logprobs(running, [1, 2]) == [-4.5]
    assert asked[0]["prompt_logprobs"] == 0
    assert "logprob_token_ids" not in asked[0]


def test_tokens_that_are_not_among_the_likeliest_are_missing() -> None:
    running, asked = endpoint(LlamaServerCompletion(), LLAMA_NEXT)
    assert next_logprobs(running, [1], [7, 8]) == [-0.5, None]
    assert asked[0]["path"] == "/completion"
    assert asked[0]["n_probs"] == 200


def test_what_an_engine_lacks_is_refused_before_it_is_asked() -> None:
    running, asked = endpoint(OpenAiCompletions(), OPENAI)
    with pytest.raises(UsageError, match="no log-probabilities of prompts"):
        prompt_logprobs(running, "a")
    with pytest.raises(UsageError, match="by a token's id"):
        next_logprobs(running, "a", [1])
    with pytest.raises(UsageError, match="the 5 likeliest next tokens at most, not 6"):
        top_logprobs(running, "a", 6)
    with pytest.raises(UsageError, match="as text"):
        top_logprobs(running, [1, 2], 2)
    with pytest.raises(UsageError, match=r"gives no log-probabilities$"):
        top_logprobs(endpoint(None, {})[0], "a", 1)
    assert asked == []


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (httpx.Response(400, text="logprobs are off"), "HTTP 400: logprobs are off"),
        (httpx.Response(200, json={"choices": [{"logprobs": None}]}), "another form"),
        (httpx.Response(200, text="not JSON"), "another form"),
    ],
)
def test_a_server_that_does_not_give_them_is_a_typed_failure(answer: httpx.Response, said: str) -> None:
    with pytest.raises(CellFailure, match=said) as caught:
        top_logprobs(endpoint(OpenAiCompletions(), answer)[0], "a", 1)
    assert caught.value.log_tail == "the log"


def test_a_prompts_requests_differ_by_the_server() -> None:
    asked = Asked(model="m", prompt=[1, 2])
    assert SglangGenerate().body(asked)["logprob_start_len"] == 0
    text = TgiGenerate().body(Asked(model="m", prompt="a"))
    assert text["parameters"] == {"max_new_tokens": 1, "details": True, "decoder_input_details": True}
