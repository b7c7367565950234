"""HumanEval: functions from their head and description, in the format of its JSON lines."""

from __future__ import annotations

from typing import Any

from bench.quality import code_tasks
from bench.quality.code_tasks import Problem, code_of
from bench.quality.generation.ask import Api, Request, prompted
from bench.quality.generation.config import HumanEvalConfig
from bench.quality.generation.data import chosen, read_jsonl
from bench.quality.generation.job import Asked, GradingJob
from bench.quality.generation.session import Session
from bench.quality.job import Outcome
from bench.quality.sandbox import Program

_FIELDS = ("task_id", "prompt", "entry_point", "test")
#: Where a completed function ends: the stop words of Chen (2021) and of lm-eval.
_STOP = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
_INSTRUCTION = (
    "Write a solution to the following problem and make sure that it passes the tests. Answer with the whole function "
    "in one Python code block.\n```python\n{prompt}\n```"
)


def program_of(row: dict[str, Any], answer: str, api: Api) -> Program:
    """A completion continues the head; what was said in a chat is a program of its own, after the head's imports.

    A chat's answer that does not define the function again is taken as its body.
    """
    tests = f"{row['test']}\ncheck({row['entry_point']})"
    if api is Api.completions:
        return Program(setup=row["prompt"] + answer, tests=tests)
    code = code_of(answer)
    defines = f"def {row['entry_point']}" in code
    # The head stands before it also where the function is defined again: helpers and imports of the head are needed.
    setup = f"{row['prompt']}\n    pass\n\n{code}" if defines else row["prompt"] + code
    return Program(setup=setup, tests=tests)


def problems(config: HumanEvalConfig) -> list[Problem]:
    """The chosen problems; raises UsageError."""
    rows = chosen(
        read_jsonl(config.data_path(), where="task.data", fields=_FIELDS), limit=config.limit, seed=config.seed
    )
    return [_problem(row, config) for row in rows]


def _problem(row: dict[str, Any], config: HumanEvalConfig) -> Problem:
    def request(sample: int) -> Request:
        if config.api is Api.completions:
            return prompted(config.api, row["prompt"], config.sampling(*_STOP, sample=sample))
        return prompted(config.api, _INSTRUCTION.format(prompt=row["prompt"]), config.sampling(sample=sample))

    return Problem(
        name=str(row["task_id"]), request=request, program=lambda answer: program_of(row, answer, config.api)
    )


def generate(config: HumanEvalConfig, session: Session) -> Asked:
    """Ask for every function."""
    return code_tasks.generate(problems(config), config, session)


def grade(config: HumanEvalConfig, own: Asked, base: Asked | None, job: GradingJob) -> Outcome:
    """Run every function's tests."""
    return code_tasks.grade(problems(config), config, own, base, job, prompt=f"HumanEval over {config.api.value}")
