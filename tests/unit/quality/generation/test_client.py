"""Every request ends in an answer or a typed reason; answers are kept; concurrency finds its place."""

from __future__ import annotations

import heapq
import json
import threading
from pathlib import Path
from typing import Any

import pytest

from bench.base.clock import NS_PER_S
from bench.base.errors import CellFailure, FailureKind
from bench.quality.generation import client
from bench.quality.generation.ask import Answer, Api, Sampling, chat, completion, user
from bench.quality.generation.cache import AnswerStore
from bench.quality.generation.client import Limits
from bench.quality.generation.concurrency import Concurrency
from tests.unit.quality.generation.openai_server import KEY, serving, session

LIMITS = Limits(start=2, concurrency=4, timeout_s=30.0)


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_PAUSE_S", 0.0)


def prompts(count: int) -> list[Any]:
    return [completion(f"{number}", Sampling()) for number in range(count)]


def test_answers_come_in_the_order_of_the_requests_and_are_asked_once(tmp_path: Path) -> None:
    with serving(lambda _, body: f"<{body['prompt']}>") as truth:
        answers = session(truth, tmp_path).answers(prompts(30), LIMITS)
        assert [answer.text for answer in answers] == [f"<{number}>" for number in range(30)]
        assert {(a.finish_reason, a.prompt_tokens, a.output_tokens) for a in answers} == {("stop", 7, 3)}
        assert truth.most <= 4
        again = session(truth, tmp_path).answers([*prompts(30), completion("new", Sampling())], LIMITS)
        assert [answer.text for answer in again[:30]] == [answer.text for answer in answers]
        assert len(truth.asked) == 31
        session(truth, tmp_path).answers([completion("new", Sampling(seed=1))], LIMITS)
        assert len(truth.asked) == 32, "another seed is another request"


def test_a_killed_evaluation_goes_on_with_what_is_missing(tmp_path: Path) -> None:
    store = AnswerStore(tmp_path / "v.jsonl")
    for request in prompts(3):
        store.put(request, Answer(text="kept", finish_reason="stop"))
    with store.path.open("ab") as file:
        file.write(b'{"digest": "cut off in the mid')
    with serving(lambda *_: "asked") as truth:
        answers = session(truth, tmp_path).answers(prompts(5), LIMITS)
        assert [answer.text for answer in answers] == ["kept"] * 3 + ["asked"] * 2
        assert len(truth.asked) == 2
    fresh = AnswerStore(tmp_path / "v.jsonl")
    assert [fresh.get(request) is not None for request in prompts(6)] == [True] * 5 + [False]


@pytest.mark.parametrize(
    ("reply", "error", "attempts"),
    [
        ((400, "too long"), "refused", 1),
        ((500, "oh"), "server_error", 4),
        ((503, "busy"), "overloaded", 4),
        ((200, "no json"), "malformed", 1),
        ((200, '{"choices": []}'), "malformed", 1),
        ((200, '{"choices": [{"text": null}]}'), "malformed", 1),
    ],
)
def test_a_request_without_an_answer_has_a_typed_reason_and_is_asked_again_next_time(
    tmp_path: Path, reply: Any, error: str, attempts: int
) -> None:
    with serving(lambda _, body: reply if body["prompt"] == "1" else "fine") as truth:
        answers = session(truth, tmp_path).answers(prompts(2), LIMITS)
        assert [(answer.text, answer.error) for answer in answers] == [("fine", None), (None, error)]
        assert len(truth.asked) == 1 + attempts
        truth.rule = lambda *_: "better"
        assert session(truth, tmp_path).answers(prompts(2), LIMITS)[1].text == "better"


def test_a_passing_fault_is_tried_again(tmp_path: Path) -> None:
    replies = iter([(503, "busy"), (500, "oh"), "here"])
    with serving(lambda *_: next(replies)) as truth:
        assert session(truth, tmp_path).answers(prompts(1), LIMITS)[0].text == "here"


def test_a_server_that_answers_nothing_fails_the_cell_without_telling_the_key(tmp_path: Path) -> None:
    with (
        serving(lambda *_: (400, f"bad request with {KEY}")) as truth,
        pytest.raises(CellFailure, match="answered none of 2 questions: refused") as caught,
    ):
        session(truth, tmp_path).answers(prompts(2), LIMITS)
    assert caught.value.kind is FailureKind.EVALUATOR
    assert KEY not in str(caught.value)


def test_a_server_that_is_gone_is_not_waited_for(tmp_path: Path) -> None:
    class Gone:
        url, model, api_key, alive = "http://127.0.0.1:9", "m", "", False

        def raise_if_dead(self) -> None:
            raise CellFailure(FailureKind.CRASHED, "it ended")

    with serving(lambda *_: "") as truth:
        here = session(truth, tmp_path)
    with pytest.raises(CellFailure, match="it ended"):
        type(here)(**{**here.__dict__, "server": Gone}).answers(prompts(3), LIMITS)


def test_thinking_is_not_part_of_what_is_judged(tmp_path: Path) -> None:
    with serving(lambda *_: ("the answer", "stop", {"reasoning_content": "hm"})) as truth:
        (answer,) = session(truth, tmp_path).answers([chat([user("?")], Sampling())], LIMITS)
    assert (answer.visible, answer.reasoning) == ("the answer", "hm")
    assert Answer(text="<think>hm</think>\n\nyes").visible == "yes"
    assert Answer(text="<think>hm and").visible == ""
    assert Answer(text="plain").visible == "plain"
    assert Answer(text=None).visible is None


def test_what_a_server_says_can_be_written_whatever_it_is(tmp_path: Path) -> None:
    reply = {"choices": [{"text": "half \ud83d of it", "finish_reason": 3}], "usage": {"completion_tokens": "many"}}
    with serving(lambda *_: (200, json.dumps(reply))) as truth:
        (answer,) = session(truth, tmp_path).answers(prompts(1), LIMITS)
    assert (answer.text, answer.finish_reason, answer.output_tokens) == ("half ? of it", "3", None)
    assert AnswerStore(tmp_path / "v.jsonl").get(prompts(1)[0]) == answer


def test_the_model_and_its_key_are_not_part_of_what_was_asked() -> None:
    request = chat([user("?")], Sampling(stop=("x",), extra={"top_k": 1}))
    assert request.api is Api.chat
    assert json.loads(json.dumps(request.body)) == {
        "messages": [{"role": "user", "content": "?"}],
        "max_tokens": 512,
        "temperature": 0.0,
        "seed": 0,
        "stop": ["x"],
        "top_k": 1,
    }
    assert request.digest == "66b1bfa2c5936f97"


# Concurrency


def simulated(control: Concurrency, slots: int, *, answers: int, seconds: float = 1.0) -> list[int]:
    """The limit after each answer of a server that works on `slots` requests at once, on a clock of its own."""
    now, free = 0, [0] * slots
    flying: list[int] = []
    seen: list[int] = []
    for _ in range(answers):
        while len(flying) < control.limit:
            begin = max(now, heapq.heappop(free))
            end = begin + round(seconds * NS_PER_S)
            heapq.heappush(free, end)
            heapq.heappush(flying, end)
        now = heapq.heappop(flying)
        control.answered(now, 10)
        seen.append(control.limit)
    return seen


@pytest.mark.parametrize(("slots", "most"), [(1, 2), (4, 8), (16, 32), (64, 64)])
def test_requests_fill_the_engine_and_go_no_further_than_that_helps(slots: int, most: int) -> None:
    control = Concurrency(limit=1, bound=64)
    limits = simulated(control, slots, answers=3000)
    assert slots <= limits[-1] <= most
    assert control.settled


@pytest.mark.parametrize("slots", [4, 16])
def test_a_few_wait_where_more_at_once_gives_nothing(slots: int) -> None:
    control = Concurrency(limit=1, bound=64)
    assert simulated(control, slots, answers=3000)[-1] == slots + slots // 4


def test_an_overloaded_server_is_asked_less_for_good() -> None:
    control = Concurrency(limit=8, bound=64)
    control.overloaded()
    assert simulated(control, 64, answers=200)[-1] == 4


def test_as_many_run_at_once_as_the_engine_was_started_for(tmp_path: Path) -> None:
    gate = threading.Barrier(4, timeout=10)

    def together(_: str, body: dict[str, Any]) -> str:
        gate.wait()
        return "ok"

    with serving(together) as truth:
        session(truth, tmp_path).answers(prompts(4), Limits(start=4, concurrency=4))
        assert truth.most == 4
