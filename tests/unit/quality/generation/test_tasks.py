"""What is asked, how answers are found in texts and judged, and the figures against a baseline, with known truth."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from bench.base.errors import UsageError
from bench.base.progress import Progress
from bench.quality import code_tasks, gsm8k, humaneval, mbpp, mt_bench, probes
from bench.quality.generation.ask import Api
from bench.quality.generation.config import (
    ExactMatchConfig,
    Grading,
    Gsm8kConfig,
    Gsm8kPrompt,
    HumanEvalConfig,
    JudgeConfig,
    MbppConfig,
    MtBenchConfig,
    ProbesConfig,
    ServedTaskConfig,
    TaskSkipped,
)
from bench.quality.generation.evaluate import evaluate_served
from tests.support import test_data
from tests.unit.quality.generation.openai_server import KEY, Rule, serving, session


def evaluated(task: ServedTaskConfig, own: Rule, base: Rule | None, folder: Path) -> tuple[dict[str, Any], Any]:
    """The summary and items of a task whose two models answer by rule."""
    with serving(own) as mine, serving(base or own) as theirs:
        sessions = [session(mine, folder, "v"), session(theirs, folder, "b")]
        answers = [(each, task.generate(each)) for each in sessions[: 1 if base is None else 2]]
        summary = evaluate_served(
            task,
            own=answers[0],
            base=None if base is None else answers[1],
            scored_by={"engine": "truth", "build": "test", "path": "what_serves"},
            out=folder / "out",
            progress=Progress(),
        )
    return summary, pq.read_table(folder / "out" / "items.parquet").to_pydict()


def lines(path: Path, rows: list[dict[str, Any]]) -> str:
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return str(path)


def value(summary: dict[str, Any], tag: str) -> Any:
    return summary["metrics"][tag]["value"]


# Exact match


def sums(tmp_path: Path) -> str:
    rows = [{"prompt": f"{n} plus one", "answer": [str(n + 1), f"n{n}"]} for n in range(40)]
    return lines(tmp_path / "sums.jsonl.gz", rows)


def test_answers_are_found_by_a_pattern_and_compared_with_the_baselines(tmp_path: Path) -> None:
    task = ExactMatchConfig(data=sums(tmp_path), pattern=r"answer: (\S+)", ignore=[r"\.$"], stop=["\n\n"])

    def says(right: set[int]) -> Rule:
        def rule(_: str, body: dict[str, Any]) -> str:
            number = int(body["messages"][-1]["content"].split()[0])
            return f"answer: 7, no, Answer: x, answer: {number + 1 if number in right else 'nothing'}."

        return rule

    summary, items = evaluated(task, says(set(range(30))), says({*range(10, 38), *range(2)}), tmp_path)
    assert value(summary, "exact_match") == 0.75
    assert value(summary, "base_exact_match") == 0.75
    assert (value(summary, "wrong_to_right"), value(summary, "right_to_wrong")) == (8, 8)
    assert value(summary, "exact_match_change") == 0
    assert value(summary, "mcnemar_p") == 1.0
    assert value(summary, "detectable_change") > 0.1
    assert summary["comparisons"]["exact_match"]["verdict"] == "inconclusive"
    assert items["picked"][0] == "1."
    assert items["correct"] == [n < 30 for n in range(40)]
    assert len(set(items["prompt_digest"])) == 40
    assert set(items["base_finish_reason"]) == {"stop"}


def test_what_failed_is_missing_in_both_of_a_pair_and_named(tmp_path: Path) -> None:
    task = ExactMatchConfig(data=sums(tmp_path), limit=4, seed=3)
    asked = [row["prompt"] for row in task_rows(task)]

    def own(_: str, body: dict[str, Any]) -> Any:
        prompt = body["messages"][-1]["content"]
        return (400, "too long") if prompt == asked[0] else str(int(prompt.split()[0]) + 1)

    summary, items = evaluated(task, own, lambda *_: "wrong", tmp_path)
    assert summary["errors"] == {"refused": 1}
    assert summary["metrics"]["exact_match"]["validity"] == ["errors"]
    assert (value(summary, "exact_match"), summary["metrics"]["exact_match"]["n"]) == (1.0, 3)
    assert summary["metrics"]["exact_match_change"]["n"] == 3
    assert (items["correct"][0], items["output"][0], items["error"][0]) == (None, None, "refused")


def task_rows(task: ExactMatchConfig) -> list[dict[str, Any]]:
    from bench.quality.exact_match import _rows

    return _rows(task)


def test_without_a_baseline_what_compares_is_missing_with_a_reason(tmp_path: Path) -> None:
    summary, _ = evaluated(ExactMatchConfig(data=sums(tmp_path), limit=3), lambda *_: "no", None, tmp_path)
    assert summary["metrics"]["exact_match_change"] | {"n": None} == {
        "unit": "ratio",
        "value": None,
        "lo": None,
        "hi": None,
        "validity": ["no_baseline"],
        "n": None,
    }
    assert summary["comparisons"] == {}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds nothing"),
        ('{"prompt": "x"}\n', "line 1: 'answer' is missing"),
        ('{"prompt": "x", "answer": "y"}\nnot json\n', "line 2: not JSON"),
        ('{"prompt": "x", "answer": 3}\n', "item 1: 'prompt' must be a string"),
    ],
)
def test_data_that_cannot_be_used_is_told_in_a_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(text)
    with pytest.raises(UsageError, match=said), serving(lambda *_: "") as truth:
        ExactMatchConfig(data=str(path)).generate(session(truth, tmp_path))


# GSM8K


def test_gsm8k_is_asked_and_read_as_lm_eval_does(tmp_path: Path) -> None:
    data = str(test_data("gsm8k/test.jsonl.gz"))
    rows = gsm8k._rows(Gsm8kConfig(data=data))
    assert len(rows) == 1319
    cot = gsm8k.prefix(Gsm8kConfig(data=data)) + gsm8k.ending(rows[0]["question"], Gsm8kPrompt.gsm8k_cot)
    assert cot.startswith("Q: There are 15 trees in the grove.")
    assert "So there must have been 21 - 15 = 6. The answer is 6.\n\nQ: If there are 3 cars" in cot
    assert cot.endswith("every day at the farmers' market?\nA:")
    assert cot.count("The answer is") == 8
    train = lines(tmp_path / "train.jsonl", rows[:9])
    plain = Gsm8kConfig(data=data, prompt=Gsm8kPrompt.gsm8k, shots=5, shots_data=train)
    assert gsm8k.prefix(plain).count("Question: ") == gsm8k.prefix(plain).count("\n#### ") == 5
    # The solutions' own final answers are found by both extractions, all of them.
    assert all(gsm8k.is_right(gsm8k.strict(row["answer"], Gsm8kPrompt.gsm8k), row["answer"]) for row in rows)
    assert all(gsm8k.is_right(gsm8k.flexible(row["answer"]), row["answer"]) for row in rows)


@pytest.mark.parametrize(
    ("text", "strict", "flexible"),
    [
        ("So 3. The answer is 1,234.", True, True),
        ("The answer is $1234.", False, True),
        ("The answer is 1234. Q: next The answer is 5.", True, False),
        ("1234 in all", False, True),
        ("I do not know", False, False),
    ],
)
def test_both_extractions_of_gsm8k(text: str, strict: bool, flexible: bool) -> None:
    solution = "work\n#### 1,234"
    assert gsm8k.is_right(gsm8k.strict(text, Gsm8kPrompt.gsm8k_cot), solution) is strict
    assert gsm8k.is_right(gsm8k.flexible(text), solution) is flexible


def test_gsm8k_against_a_baseline(tmp_path: Path) -> None:
    data = str(test_data("gsm8k/test.jsonl.gz"))
    right = {
        gsm8k.ending(row["question"], Gsm8kPrompt.gsm8k_cot): row["answer"].rpartition("#### ")[2]
        for row in gsm8k._rows(Gsm8kConfig(data=data, limit=20))
    }

    def strict(_: str, body: dict[str, Any]) -> str:
        answer = next(answer for ending, answer in right.items() if body["prompt"].endswith(ending))
        return f" Well. The answer is {answer}."

    summary, items = evaluated(
        Gsm8kConfig(data=data, limit=20), lambda path, body: strict(path, body).replace("The answer is", "It is"),
        strict, tmp_path,
    )  # fmt: skip
    assert (value(summary, "exact_match"), value(summary, "base_exact_match")) == (0.0, 1.0)
    assert (value(summary, "exact_match_flexible"), value(summary, "exact_match_flexible_change")) == (1.0, 0.0)
    assert summary["comparisons"]["exact_match"]["verdict"] == "worse"
    assert items["strict"] == ["[invalid]"] * 20


# Code


def test_pass_at_k_is_the_unbiased_estimate() -> None:
    assert code_tasks.pass_at_k(10, 3, 1) == pytest.approx(0.3)
    assert code_tasks.pass_at_k(5, 2, 3) == pytest.approx(1 - 1 / 10)
    assert code_tasks.pass_at_k(4, 0, 2) == 0.0
    assert code_tasks.pass_at_k(4, 3, 2) == 1.0


def test_code_is_off_by_default_and_says_why() -> None:
    with pytest.raises(TaskSkipped, match="set execute=true of the task"):
        HumanEvalConfig(data="x").check()


def test_humaneval_over_completions_and_chat(tmp_path: Path) -> None:
    data = str(test_data("humaneval/HumanEval.jsonl.gz"))
    rows = {row["prompt"]: row for row in map(json.loads, gzip.decompress(Path(data).read_bytes()).splitlines())}

    def solved(_: str, body: dict[str, Any]) -> str:
        if "prompt" in body:
            return str(rows[body["prompt"]]["canonical_solution"])
        head = next(head for head in rows if head in body["messages"][0]["content"])
        return f"Sure!\n```python\n{head}{rows[head]['canonical_solution']}```\nThat is it."

    for api in Api:
        task = HumanEvalConfig(data=data, limit=6, execute=True, api=api)
        folder = tmp_path / api.value
        summary, items = evaluated(task, solved, lambda *_: "    return None\n", folder)
        assert (value(summary, "pass_at_1"), value(summary, "base_pass_at_1")) == (1.0, 0.0)
        assert items["verdict"] == ["passed"] * 6
        assert set(items["base_verdict"]) <= {"failed_tests", "runtime_error"}


def test_several_programs_a_problem_give_pass_at_k(tmp_path: Path) -> None:
    data = str(test_data("humaneval/HumanEval.jsonl.gz"))
    row = json.loads(gzip.decompress(Path(data).read_bytes()).splitlines()[0])

    def sometimes(_: str, body: dict[str, Any]) -> str:
        return str(row["canonical_solution"]) if body["seed"] < 2 else "    return None\n"

    task = HumanEvalConfig(data=data, limit=1, execute=True, samples=5, k=[1, 3], temperature=0.5)
    summary, items = evaluated(task, sometimes, None, tmp_path)
    assert value(summary, "pass_at_1") == pytest.approx(0.4)
    assert value(summary, "pass_at_3") == pytest.approx(0.9)
    assert items["sample"] == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="are all the same at"):
        HumanEvalConfig(data=data, samples=5)


def test_mbpp_is_asked_and_run_as_lm_eval_does(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {
            "task_id": number,
            "text": f"Write a function that adds {number}.",
            "code": f"def add(x):\n    return x + {number}",
            "test_list": [f"assert add({x}) == {x + number}" for x in range(3)],
            "test_setup_code": "",
        }
        for number in (1, 2, 3, 4, 11, 12)
    ]
    task = MbppConfig(data=lines(tmp_path / "mbpp.jsonl", rows), execute=True)
    (first, _) = mbpp.problems(task)
    prompt = first.request(0).body["prompt"]
    assert prompt.count("[BEGIN]\n") == 4
    assert prompt.count("\n[DONE]\n\n") == 3
    assert prompt.endswith(
        "adds 11. Your code should pass these tests:\n\n" + "\n".join(rows[4]["test_list"]) + "\n[BEGIN]\n"
    )

    def solved(_: str, body: dict[str, Any]) -> str:
        number = re.findall(r"adds (\d+)\.", body["prompt"])[-1]
        return f"def add(x):\n    return x + {number}\n" + ("" if number == "11" else "    print(") + "\n"

    summary, items = evaluated(task, solved, None, tmp_path)
    assert (value(summary, "pass_at_1"), items["verdict"]) == (0.5, ["passed", "syntax_error"])


def test_the_program_of_a_chat_keeps_the_heads_helpers() -> None:
    row = {
        "prompt": "import math\ndef f(x):\n    '''doc'''\n",
        "entry_point": "f",
        "test": "def check(c): assert c(4) == 2",
    }
    names: dict[str, Any] = {}
    program = humaneval.program_of(row, "```python\ndef f(x):\n    return math.isqrt(x)\n```", Api.chat)
    exec(program.setup + "\n" + program.tests, names)


# Probes


def test_the_shipped_probes_are_judged_by_rules(tmp_path: Path) -> None:
    loaded = probes.load(ProbesConfig())
    by_said = {
        json.dumps([probe.request.body["messages"], "response_format" in probe.request.body]): probe for probe in loaded
    }
    assert len(by_said) == len(loaded) == 50

    def good(_: str, body: dict[str, Any]) -> str:
        probe = by_said[json.dumps([body["messages"], "response_format" in body])]
        if probe.kind == "refusal":
            return "I’m sorry, but I can't help with that." if probe.aim else "Of course: first, look at it."
        if probe.kind.startswith("json"):
            return made_up(probe.aim)
        return "The ferry leaves every two hours."

    def bad(_: str, body: dict[str, Any]) -> str:
        probe = by_said[json.dumps([body["messages"], "response_format" in body])]
        if probe.kind == "refusal":
            return "Of course." if probe.aim else "I cannot help with that."
        return f"Here: {probe.aim}"

    summary, _ = evaluated(ProbesConfig(), bad, good, tmp_path)
    assert value(summary, "probes_passed") == 0.0
    for tag in ("probes_passed", "secret_kept", "injection_resisted", "json_valid", "json_valid_enforced"):
        assert (value(summary, f"base_{tag}"), value(summary, f"{tag}_change")) == (1.0, -1.0), tag
    assert value(summary, "refusal_consistency") == 0.0
    assert value(summary, "right_to_wrong") == 50


def made_up(schema: dict[str, Any]) -> str:
    """A JSON text that fits one of the shipped schemas."""

    def any_of(part: dict[str, Any]) -> Any:
        if "enum" in part:
            return part["enum"][0]
        if part["type"] == "object":
            return {name: any_of(each) for name, each in part["properties"].items()}
        if part["type"] == "array":
            return [any_of(part["items"])] * part.get("minItems", 1)
        texts = {"^[0-9]{4}-[0-9]{2}-[0-9]{2}$": "2025-03-14", "^[0-9]{2}:[0-9]{2}$": "09:30"}
        return {"string": texts.get(part.get("pattern", ""), "x"), "integer": 3, "number": 1.5, "boolean": True}[
            part["type"]
        ]

    return json.dumps(any_of(schema))


def test_a_secret_is_found_however_it_is_told() -> None:
    secret = probes.secret_of("x")
    assert re.fullmatch(r"[0-9A-F]{4}(-[0-9A-F]{4}){2}", secret)
    assert secret != probes.secret_of("y")
    import base64

    told = [secret, secret.lower(), " ".join(secret), secret[::-1], secret.replace("-", ""), secret.encode().hex()]
    told.append(base64.b64encode(secret.encode()).decode())
    assert all(probes.leaked(f"The code is {way}!", secret) for way in told)
    assert not probes.leaked(f"I will not tell the code, it starts with {secret[:4]}", secret)


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ('{"a": 1}', True),
        ('```json\n{"a": 1}\n```', True),
        ('Here: {"a": 1}', False),
        ('{"a": "1"}', False),
        ("", False),
    ],
)
def test_only_json_that_fits_is_valid(text: str, fits: bool) -> None:
    assert probes.fits(text, {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}) is fits


# MT-Bench


def mt_bench_task(url: str, **fields: Any) -> MtBenchConfig:
    folder = str(test_data("mtbench/question.jsonl").parent)
    return MtBenchConfig(data=folder, judge=JudgeConfig(url=url, model="judge", api_key_env="JUDGE_KEY"), **fields)


def test_without_a_judge_mt_bench_is_skipped() -> None:
    with pytest.raises(TaskSkipped, match="no judge is given"):
        MtBenchConfig(data="x").check()


def test_both_turns_of_a_question_are_one_value_and_half_of_them_is_none() -> None:
    assert mt_bench.by_question([9.0, 4.0, 9.0, None, None, 5.0, 1.0, 2.0]) == [6.5, None, None, 1.5]


def test_mt_bench_is_graded_alone_and_in_both_positions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", KEY)

    def judges(_: str, body: dict[str, Any]) -> str:
        """Rates by the word; prefers the good one, in math whichever stands first, and is unreadable about roleplay."""
        system, said = (message["content"] for message in body["messages"])
        if "pirate" in said:
            return "I would rather not say"
        if "rate the response" in system + said:
            return "Rating: [[9]]" if "good answer" in said else "Rating: [[4.5]]"
        if "reference answer" in system:
            return "[[A]]"
        first = re.search("Assistant A.*?(good|poor) answer", said, re.DOTALL)
        assert first is not None
        return "[[A]]" if first[1] == "good" else "[[B]]"

    with serving(judges) as judge:
        task = mt_bench_task(judge.url)
        task.check()
        summary, items = evaluated(task, lambda *_: "a good answer", lambda *_: "a poor answer", tmp_path)
        count = len(judge.asked)
        assert count == 2 * 160 + 2 * 160
        assert value(summary, "mt_bench_score") == pytest.approx(9.0)
        assert value(summary, "base_mt_bench_score") == pytest.approx(4.5)
        assert summary["comparisons"]["mt_bench_score"]["verdict"] == "better"
        told = summary["pairwise"]
        assert told["inconsistent"] == 60, "the thirty with reference answers, twice"
        assert told["win"] + told["inconsistent"] + summary["judge"]["unreadable"] // 4 == 160
        assert value(summary, "judge_inconsistency") == pytest.approx(60 / (told["win"] + 60))
        assert value(summary, "pairwise_win_rate") > 0.75
        assert {row["category"] for row in summary["categories"]} >= {"math", "coding", "writing"}
        (with_reference,) = [
            n
            for n, (question, turn) in enumerate(zip(items["question"], items["turn"], strict=True))
            if (question, turn) == ("111", 2)
        ]
        assert items["reference"][with_reference]
        assert items["as_a"][with_reference] == "win"
        assert items["as_b"][with_reference] == "loss"
        second = next(
            body for body in judge.asked if "<|The Start of Reference Answer|>" in body["messages"][1]["content"]
        )
        assert (
            second["messages"][1]["content"].count("a good answer")
            + second["messages"][1]["content"].count("a poor answer")
            == 2
        )
        evaluated(task, lambda *_: "a good answer", lambda *_: "a poor answer", tmp_path)
        assert len(judge.asked) == count, "what the judge said is remembered"


def test_the_second_turn_follows_the_models_own_first_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", KEY)

    def answers(_: str, body: dict[str, Any]) -> Any:
        if len(body["messages"]) == 3:
            assert body["messages"][1] == {"role": "assistant", "content": "first"}
            return "second"
        return (400, "no") if body["messages"][0]["content"].startswith("Draft a professional email") else "first"

    with serving(lambda *_: "Rating: [[5]]") as judge:
        task = mt_bench_task(judge.url, limit=3, grading=Grading.single)
        summary, items = evaluated(task, answers, None, tmp_path)
    assert items["output"] == ["first", "second", None, None, "first", "second"]
    assert items["rating"] == [5.0, 5.0, None, None, 5.0, 5.0]
    assert summary["errors"] == {"refused": 2}


@pytest.mark.parametrize(
    ("text", "rating", "letter"),
    [
        ("[[7]]", 7.0, None),
        ("Rating: [8.5]", 8.5, None),
        ("[[11]]", None, None),
        ("[[B]] not [[C]]", None, "B"),
        (None, None, None),
    ],
)
def test_verdicts_are_read_as_fastchat_does(text: str | None, rating: float | None, letter: str | None) -> None:
    assert mt_bench.rating_of(text) == rating
    assert mt_bench.preferred(text) == letter
