"""What is made of what servers tell: lower bounds, letters that were not told, decoding against prefill."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.base.progress import Progress
from bench.engines.scoring import TokenWindows
from bench.engines.served_logprobs import Asked, LlamaServerCompletion, SglangGenerate, VllmCompletions
from bench.quality.generation.job import GradingJob
from bench.quality.served.asking import LogprobStore
from bench.quality.served.config import ServedDivergenceConfig, ServedMultipleChoiceConfig, ServedRescoringConfig
from bench.quality.served.letters import Told as Letters
from bench.quality.served.letters import grade as grade_letters
from bench.quality.served.letters import picked, read_chat
from bench.quality.served.rescoring import Rescored
from bench.quality.served.rescoring import grade as grade_rescored
from bench.quality.served.text import Told, lower_bound
from bench.quality.served.text import grade as grade_text

JOB = GradingJob(own=None, base=None, work_dir=None, progress=Progress())  # type: ignore[arg-type]


class Same:
    key = "k"


COMPARED = GradingJob(own=Same(), base=Same(), work_dir=None, progress=Progress())  # type: ignore[arg-type]


@given(
    st.lists(st.floats(-6, 6), min_size=12, max_size=12),
    st.lists(st.floats(-6, 6), min_size=12, max_size=12),
    st.integers(1, 12),
)
def test_a_lower_bound_is_one_and_is_exact_when_all_is_told(one: list[float], other: list[float], top: int) -> None:
    log_p, log_q = (np.array(x) - math.log(np.exp(np.array(x)).sum()) for x in (one, other))
    whole = float((np.exp(log_p) * (log_p - log_q)).sum())
    told_p, told_q = ({int(t): float(v[t]) for t in np.argsort(-v)[:top]} for v in (log_p, log_q))
    found = lower_bound(told_p, told_q)
    assert 0 <= found <= whole + 1e-9
    if top == 12:
        assert found == pytest.approx(max(0.0, whole), abs=1e-9)


def told(tops: list[dict[int, float]], ids: list[int]) -> Told:
    windows = TokenWindows(ids=np.array([ids, ids], dtype=np.int32), first=1)
    return Told(windows=windows, tops=[tops, tops], asked_by="x", used="text")


def test_a_texts_figures_by_hand() -> None:
    base = told([{5: math.log(0.5), 6: math.log(0.25)}, {7: math.log(0.75)}], [1, 2, 5, 7])
    own = told([{5: math.log(0.25), 6: math.log(0.5)}, {7: math.log(0.75)}], [1, 2, 5, 7])
    config = ServedDivergenceConfig(context=4, windows=2)
    outcome = grade_text(config, own, base, COMPARED)
    values = {tag: metric["value"] for tag, metric in outcome.metrics.items()}
    first = 0.5 * math.log(2) - 0.25 * math.log(2)
    assert values["mean_divergence_lower_bound"] == pytest.approx(first / 2)
    assert values["perplexity"] == pytest.approx(math.exp(-(math.log(0.25) + math.log(0.75)) / 2))
    assert values["perplexity_ratio"] == pytest.approx(math.exp(math.log(2) / 2))
    assert values["top1_agreement"] == 0.5
    assert outcome.details["protocol"]["lower_bound"] is True
    other = grade_text(config, own, told([{5: -1.0}, {7: -1.0}], [1, 2, 5, 8]), COMPARED)
    assert other.metrics["perplexity_ratio"]["validity"] == ["tokenizers_differ"]
    alone = grade_text(config, told([{6: -1.0}, {7: -1.0}], [1, 2, 5, 7]), None, JOB)
    assert alone.metrics["perplexity"]["value"] is None, "a token that was not told is missing, not guessed"
    assert alone.errors == {"tokens_not_told": 2}
    assert alone.metrics["perplexity_ratio"]["validity"] == ["tokens_not_told", "no_baseline"]


def test_letters_that_were_not_told_are_missing_and_never_guessed() -> None:
    nan = np.nan
    letters = Letters(logprobs=np.array([[-1.0, nan, -2.0, nan], [nan] * 4, [-1.0, -1.0, -3.0, -4.0]]), asked_by="x")
    answers = picked(letters, np.array([0, 0, 0]))
    assert answers.picked.tolist() == [0, -1, 0]
    assert not answers.complete
    first = [(" B", -0.5), ("B", -0.2), ("The", -3.0)]
    tops = [{"token": token, "logprob": logprob} for token, logprob in first]
    chat = {"choices": [{"logprobs": {"content": [{"top_logprobs": tops}]}}]}
    assert read_chat(chat) == [None, -0.2, None, None]


def test_an_unanswered_question_makes_the_accuracy_missing() -> None:
    config = ServedMultipleChoiceConfig(subjects=["physics"], limit=2)
    rows = np.array([[-1.0, -2.0, -3.0, -4.0], [np.nan] * 4])
    outcome = grade_letters(config, Letters(logprobs=rows, asked_by="x"), None, JOB)
    assert outcome.metrics["accuracy_micro"]["value"] is None
    assert outcome.metrics["accuracy_micro"]["validity"] == ["tokens_not_told"]
    assert outcome.errors == {"unanswered": 1}
    assert outcome.items["picked"].tolist() == ["A", None]
    whole = Letters(logprobs=np.abs(rows[:1]) * -np.ones((2, 1)), asked_by="x")
    compared = grade_letters(config, whole, whole, COMPARED)
    assert compared.metrics["accuracy_change"]["value"] == 0.0
    assert compared.details["comparisons"]["accuracy_micro"]["verdict"] == "inconclusive"


def test_decoding_against_prefill() -> None:
    scored = Rescored(
        decoded=np.array([[-1.0, -2.0], [-1.0, -1.0]]),
        prefilled=np.array([[-1.1, -2.0], [-1.0, -0.7]]),
        token_ids=np.zeros((2, 2), dtype=np.int32),
    )
    metrics = grade_rescored(ServedRescoringConfig(), scored, JOB).metrics
    assert metrics["mean_decode_gap"]["value"] == pytest.approx(0.1)
    assert metrics["max_decode_gap"]["value"] == pytest.approx(0.3)
    assert metrics["signed_decode_gap"]["value"] == pytest.approx(-0.05)


def test_what_was_told_outlives_a_kill(tmp_path: Any) -> None:
    path = tmp_path / "told.jsonl"
    LogprobStore(path).put("a", [1.0, None])
    with path.open("ab") as stream:
        stream.write(b'{"digest": "b", "fou')
    again = LogprobStore(path)
    assert (again.get("a"), again.get("b")) == ([1.0, None], None)
    again.put("b", 2.0)
    assert LogprobStore(path).get("b") == 2.0


def test_likeliest_tokens_of_a_prompts_places_and_generated_ones() -> None:
    asked = Asked(model="m", prompt=[1, 2, 3], prompt_top=2)
    assert VllmCompletions().body(asked)["prompt_logprobs"] == 2
    answer = {"choices": [{"prompt_logprobs": [None, {"2": {"logprob": -4.5}, "9": {"logprob": -0.5}}]}]}
    assert VllmCompletions().prompt_tops(answer) == [{2: -4.5, 9: -0.5}]
    assert SglangGenerate().body(asked)["top_logprobs_num"] == 2
    told_by_sglang = {
        "meta_info": {
            "input_token_logprobs": [[None, 1, None], [-4.5, 2, None]],
            "input_top_logprobs": [None, [[-0.5, 9, None]]],
            "output_token_logprobs": [[-0.25, 7, None]],
        }
    }
    assert SglangGenerate().prompt_tops(told_by_sglang) == [{9: -0.5, 2: -4.5}]
    assert SglangGenerate().generated(told_by_sglang) == [(7, -0.25)]
    told_by_vllm = {"choices": [{"logprobs": {"tokens": ["token_id:7"], "token_logprobs": [-0.25]}}]}
    assert VllmCompletions().generated(told_by_vllm) == [(7, -0.25)]
    several = Asked(model="m", prompt=[1], top=1, generate=3)
    assert VllmCompletions().body(several)["max_tokens"] == 3
    assert LlamaServerCompletion().body(several)["n_predict"] == 3
    assert LlamaServerCompletion().generated({"completion_probabilities": [{"id": 7, "logprob": -0.25}]}) == [
        (7, -0.25)
    ]
